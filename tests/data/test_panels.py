"""The built-in data set as samples."""

from __future__ import annotations

import pytest

from anomalib_lite.data import panels
from anomalib_lite.data.decode import read_image, read_mask
from anomalib_lite.data.sample import NOK, OK
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
    with pytest.raises(UserError, match=r"rust.*structure_bent"):
        panels.read(root, **SMALL, defects=["rust"])
