"""Options as structured configs: every file of conf/ composes, Python and conf mean the same, presets lose nothing."""

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf

from anomalib_lite.errors import UserError
from anomalib_lite.jobs import app  # noqa: F401 - registers the structured configs and the resolvers
from anomalib_lite.settings import conf_dir, data, detectors, training
from anomalib_lite.settings.fields import check, explain, setting

GROUPS = ("data", "backbone", "detector", "mode", "augment", "generator", "teacher", "tta", "scoring", "defects")
GROUPS += ("tiling", "trainer", "tracking", "preset", "experiment")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((conf_dir() / group).glob("*.yaml"))]


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_is_in_range(group: str, option: str) -> None:
    cfg = compose("train", [f"{group}={option}"])
    check(cfg)
    assert cfg.seed == 0


ROOMS = (data, detectors, training)
KINDS = {k.__name__: k for room in ROOMS for k in vars(room).values() if dataclasses.is_dataclass(k)}
BASES = ("Backbone", "Teacher")  # of several choices


@pytest.mark.parametrize("kind", sorted({*KINDS} - {*BASES}))
def test_python_and_conf_have_the_same_defaults(kind: str) -> None:
    """A method made in Python is the one that its configuration makes."""
    values = OmegaConf.structured(KINDS[kind])
    target = None if OmegaConf.is_missing(values, "_target_") else values.get("_target_")
    if not target or not target.startswith("anomalib_lite.") or target.startswith("anomalib_lite.engine"):
        return
    for name, parameter in inspect.signature(get_object(target)).parameters.items():
        if name not in values or parameter.default is inspect.Parameter.empty or OmegaConf.is_missing(values, name):
            continue
        node = values._get_node(name)
        if node._is_interpolation() or isinstance(node, DictConfig) or name in ("category", "test"):
            continue  # folders of the very data set
        ours = OmegaConf.to_container(values[name]) if OmegaConf.is_list(values[name]) else values[name]
        theirs = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        assert ours == theirs or dataclasses.is_dataclass(theirs), f"{target}: {name}"


def test_variants_inherit_their_preset_which_gives_way_to_the_command_line() -> None:
    for detector, epochs in (("stfpm", 100), ("reverse_distillation", 200)):
        for variant in ("", "_plain"):
            assert compose("train", ["preset=paper", f"detector={detector}{variant}"]).detector.epochs == epochs
    cfg = compose("train", ["preset=paper", "detector=stfpm", "detector.epochs=7", "batch_size=3"])
    assert (cfg.detector.epochs, cfg.batch_size, cfg.keep) == (7, 3, "best")


@dataclasses.dataclass
class Made:
    share: float = setting(0.5, "of all", above=0, most=1)
    word: str | None = setting(None, "one of two", choices=("a", "b"))
    several: list[int] = setting([1, 2], "each", least=0)
    free: Any = setting(MISSING, "anything")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 0}, "made.share must be above 0 and at most 1, not 0.0"),
        ({"share": float("nan")}, "made.share must be above 0 and at most 1, not nan"),
        ({"word": "c"}, "made.word must be one of a, b, not 'c'"),
        ({"several": [3, -1]}, "made.several must be 0 or more, not -1"),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(OmegaConf.create({"made": OmegaConf.structured(Made(**values))}))


def test_values_in_range_pass_and_explanations_stand_beside_them() -> None:
    cfg = OmegaConf.create({"made": OmegaConf.structured(Made(share=1, word="b", free="${x}")), "x": 1})
    check(cfg)
    lines = explain(cfg).splitlines()
    assert lines[1].split() == ["share:", "1.0", "#", "of", "all", "(above", "0", "and", "at", "most", "1)"]
    assert "free: ${x}" in lines[-2] and lines[-1] == "x: 1"


def test_conf_files_are_short_and_say_what_they_are_for() -> None:
    for path in sorted(Path(conf_dir()).rglob("*.yaml")):
        lines = path.read_text().splitlines()
        said = lines[1] if lines[0].startswith("# @package") else lines[0]
        assert said.startswith("# ") and len(lines) < 120, path
