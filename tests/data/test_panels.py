"""The built-in data set as samples."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from anomalib_lite.data import panels
from anomalib_lite.data.decode import read_image, read_mask
from anomalib_lite.data.sample import NOK, OK
from anomalib_lite.data.splits import Drawing
from anomalib_lite.errors import UserError

SMALL = {"size": 48, "n_train": 10, "n_test_good": 2, "n_per_defect": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("artifacts")


def test_the_splits_hold_what_was_asked_for(root):
    splits = panels.read(root, **SMALL)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (8, 2, 12)
    assert all(s.label == OK for s in splits.train + splits.val)
    bad = [s for s in splits.test if s.label == NOK]
    assert len({s.defect for s in bad}) == 10
    for sample in bad:
        assert read_image(sample.image).shape == (48, 48, 3) and read_mask(sample.mask).any()


def test_the_template_can_be_the_rendered_one_another_or_none(root, tmp_path):
    rendered = panels.read(root, **SMALL)
    assert {s.template.name for s in rendered.train} == {"template.png"}
    own = tmp_path / "own.png"
    own.write_bytes(rendered.train[0].template.read_bytes())
    assert panels.read(root, **SMALL, template=own).test[0].template == own
    assert panels.read(root, **SMALL, template=None).test[0].template is None


def test_an_unknown_defect_is_refused_with_the_known_ones(root):
    with pytest.raises(UserError, match=r"rust.*structure_bent"):
        panels.read(root, **SMALL, defects=["rust"])


def test_the_config_offers_the_reader_s_options_and_their_defaults():
    config = yaml.safe_load((Path(__file__).parents[2] / "conf/data/panels.yaml").read_text())
    assert config.pop("_target_") == "anomalib_lite.data.panels.read"
    options = inspect.signature(panels.read).parameters.values()
    defaults = {option.name: option.default for option in options if option.name not in ("root", "drawing")}
    drawing = {key: config.pop(key) for key in list(config) if key in Drawing.__annotations__}
    assert drawing == {
        "template": "rendered", "val_share": 0.2, "split_seed": 0, "shots": None, "bits": None,
        "shots_seed": "${oc.select:seed,0}",
    }  # fmt: skip
    assert config.pop("root") == "${paths.artifacts}"
    assert config | {"severity": tuple(config["severity"])} == defaults
