"""Configurations drawn at random: each is composed and in range, or refused with a sentence that names the option."""

import math
import os
import random
from collections import Counter
from functools import reduce
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import _composition_error
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.settings import conf_dir
from anomalib_lite.settings.fields import _fields, check
from tests.commands import Command
from tests.made import write_image

GROUPS = (
    "detector", "backbone", "mode", "augment", "tta", "tiling", "teacher", "generator", "scoring", "defects", "preset",
)  # fmt: skip
VALUES = st.one_of(
    st.integers(-3, 3),
    st.integers(2**31, 2**40),
    st.floats(-2, 2),
    st.sampled_from([0.0, 1e-9, 1e9, float("nan"), float("inf")]),
    st.sampled_from(["abc", "null", "true", "''", "[]", "[1,2]", "{a:1}", "5%", "auto", "mean", "last"]),
)


OPTIONS = {group: sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) for group in GROUPS}


def leaves(cfg: DictConfig) -> list[str]:
    """Options with a field of their own."""
    names = [name for name, _, _ in _fields(cfg, resolve=False)]
    nodes = [reduce(lambda node, key: node._get_node(key), name.split("."), cfg) for name in names]
    return [name for name, node in zip(names, nodes, strict=True) if not OmegaConf.is_dict(node)]


CHOICES = st.fixed_dictionaries({}, optional={group: st.sampled_from(names) for group, names in OPTIONS.items()})
EXAMPLES = int(os.environ.get("ANOMALIB_LITE_FUZZ", 15))


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(CHOICES, st.lists(st.tuples(st.floats(0, 1), VALUES), max_size=3))
def test_a_configuration_is_composed_or_refused_in_words(choices, changes):
    chosen = [f"{group}={name}" for group, name in choices.items()]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        known = leaves(compose("train", chosen))  # every combination of groups composes
        changed = [f"{known[int(place * (len(known) - 1))]}={value}" for place, value in changes]
        try:
            cfg = compose("train", [*chosen, *changed])
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
