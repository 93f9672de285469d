"""Options as structured configs: every file of conf/ composes, Python and conf mean the same, presets lose nothing.

Configurations drawn at random are composed and in range, or refused with a sentence that names the option.
"""

import dataclasses
import inspect
import math
import os
import pickle
import random
from collections import Counter
from collections.abc import Iterator
from functools import reduce
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import get_object
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import _composition_error
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.settings import conf_dir, data, detectors, training
from anomalib_lite.settings.fields import _fields, check, explain, setting
from tests.commands import Command
from tests.made import write_image

DRAWN = ("detector", "backbone", "mode", "augment", "tta", "tiling", "teacher", "generator", "scoring", "defects")
GROUPS = (*DRAWN, "data", "trainer", "tracking", "preset", "experiment")
OPTIONS = {group: sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) for group in GROUPS}


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def choices() -> list[list[str]]:
    """Overrides that choose each option once: those of presets, for detectors too, and experiments alone."""
    each = [[f"{group}={name}" for name in names] for group, names in OPTIONS.items()]
    alone = [[choice] for part in each[-2:] for choice in part]
    variants = [f.stem.split("_", 1) for f in sorted((conf_dir() / "preset/detector").iterdir())]
    alone += [[f"preset={preset}", f"detector={detector}"] for preset, detector in variants]
    return alone + [[choice for choice in row if choice] for row in zip_longest(*each[:-2])]


@pytest.mark.parametrize("chosen", choices(), ids=" ".join)
def test_every_option_composes_and_is_in_range(chosen: list[str]) -> None:
    cfg = compose("train", chosen)
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


def test_the_options_of_a_data_set_are_found_by_name_on_another_machine() -> None:
    for name in ("MVTecAD", "MTD", "VisA", "RealIAD", "Folder"):
        kind = getattr(data, name)
        assert pickle.loads(pickle.dumps(kind)) is kind


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


VALUES = st.one_of(
    st.integers(-3, 3),
    st.integers(2**31, 2**40),
    st.floats(-2, 2),
    st.sampled_from([0.0, 1e-9, 1e9, float("nan"), float("inf")]),
    st.sampled_from(["abc", "null", "true", "''", "[]", "[1,2]", "{a:1}", "5%", "auto", "mean", "last"]),
)


def leaves(cfg: DictConfig) -> list[str]:
    """Options with a field of their own."""
    names = [name for name, _, _ in _fields(cfg, resolve=False)]
    nodes = [reduce(lambda node, key: node._get_node(key), name.split("."), cfg) for name in names]
    return [name for name, node in zip(names, nodes, strict=True) if not OmegaConf.is_dict(node)]


CHOICES = st.fixed_dictionaries({}, optional={g: st.sampled_from(OPTIONS[g]) for g in (*DRAWN, "preset")})
EXAMPLES = int(os.environ.get("ANOMALIB_LITE_FUZZ", 15))


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(CHOICES, st.lists(st.tuples(st.floats(0, 1), VALUES), max_size=3))
def test_a_configuration_is_composed_or_refused_in_words(choices, changes):
    chosen = [f"{group}={name}" for group, name in choices.items()]
    cfg = compose("train", chosen)  # every combination of groups composes
    known = leaves(cfg)
    changed = [f"{known[int(place * (len(known) - 1))]}={value}" for place, value in changes]
    try:
        cfg = compose("train", [*chosen, *changed]) if changed else cfg
    except (HydraException, OmegaConfBaseException) as error:
        said = str(_composition_error("train", error, [*chosen, *changed]))
        assert any(change.split("=")[0] in said or "cannot be read" in said for change in changed), said
        return
    try:
        check(cfg)
    except UserError as refused:
        assert any(str(refused).startswith(change.split("=")[0]) for change in changed), str(refused)
    else:
        parsed = OverridesParser.create().parse_overrides(changed)
        for key, wanted in {o.key_or_group: o.value() for o in parsed}.items():  # no preset wins; the last one counts
            there = OmegaConf.select(cfg, key)
            there = OmegaConf.to_container(there) if OmegaConf.is_config(there) else there
            assert str(there) == str(wanted) or there == type(there)(wanted) or math.isnan(there), (key, wanted, there)


@pytest.mark.slow
def test_drawn_configurations_train_or_are_refused_in_a_sentence(run_verb: Command, tiny: list[str], tmp_path: Path):
    GlobalHydra.instance().clear()  # the verbs initialise their own
    draw, refused, trained = random.Random(0), Counter[str](), Counter[str]()
    golden = write_image(tmp_path / "golden.png", seed=5000)
    for _ in range(runs := int(os.environ.get("ANOMALIB_LITE_FUZZ", 300))):
        own = [o for o in tiny if not o.startswith(("detector", "defects"))]
        chosen = draw.sample(["detector", "mode", "augment", "tta", "tiling", "scoring", "defects", "teacher"], 3)
        own += [f"{group}={draw.choice(OPTIONS[group])}" for group in chosen]
        own += [f"data.template={golden}", f"paths.runs={tmp_path}/runs", f"paths.artifacts={tmp_path}/a"]
        done = run_verb("train", *own)
        assert done.status in (0, 2) and "Traceback" not in done.err, (own, done.err)
        if done.status:
            said = done.err.strip().splitlines()[-1]
            assert said.startswith("error: ") and said.endswith((".", ")")), (own, done.err)
            refused[said] += 1
        else:
            run = Path(done.out.strip().splitlines()[-1])
            assert RunFolder(run).done and RunFolder(run).metrics["image_auroc"] is not None, own
            trained[next((o for o in own if o.startswith("detector=")), "the default")] += 1
    print(f"{trained.total()} trained:", *trained.items(), f"{refused.total()} refused:", *refused.items(), sep="\n")
    assert trained.total() > runs / 3
