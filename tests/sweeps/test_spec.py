from pathlib import Path
from typing import Any

import pytest

from anomalib_lite.errors import UserError
from anomalib_lite.sweeps.spec import read_sweep
from tests.sweeps.conftest import Write

LR = {"distribution": "log_uniform_values", "min": 0.01, "max": 1.0}
HALVING = {"type": "hyperband", "min_iter": 2}


def test_nested_parameters_lie_under_dotted_keys(sweep_of: Write):
    nested = {"detector": {"parameters": {"optimizer": {"parameters": {"lr": LR}}, "epochs": {"value": 3}}}}
    sweep = sweep_of(method="random", parameters={**nested, "seed": {"values": [0, 1]}}, name="lr", run_cap=5)
    assert list(sweep.parameters) == ["detector.optimizer.lr", "detector.epochs", "seed"]
    assert (sweep.name, sweep.run_cap, sweep.pruner) == ("lr", 5, None)


def test_the_command_gives_the_overrides_of_every_trial(sweep_of: Write):
    command = ["${env}", "/opt/bin/anomalib-lite", "train", "data=mtd", "data.root=a b", "${args_json}"]
    assert sweep_of(parameters={"seed": {"values": [0]}}, command=command).fixed == ("data=mtd", "data.root=a b")


def test_one_metric_or_several(sweep_of: Write):
    one = sweep_of(parameters={"seed": {"values": [0]}}, metric={"name": "aupro", "goal": "maximize"})
    assert [(o.name, o.goal, o.sign) for o in one.objectives] == [("aupro", "maximize", -1)]
    metrics = [{"name": "aupro", "goal": "maximize"}, {"name": "ms_per_image"}]
    several = sweep_of(parameters={"seed": {"values": [0]}}, metrics=metrics)
    assert [(o.name, o.goal) for o in several.objectives] == [("aupro", "maximize"), ("ms_per_image", "minimize")]


def test_a_sweep_is_known_by_what_defines_it(sweep_of: Write):
    first = sweep_of(parameters={"seed": {"values": [0]}})
    assert first.key() == sweep_of(parameters={"seed": {"values": [0]}}, description="new", run_cap=3).key()
    assert first.key() != sweep_of(parameters={"seed": {"values": [1]}}).key()
    assert first.key() != first.key(("data=mtd",))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"method": "hyperopt"}, "method must be one of grid, random, bayes, not 'hyperopt'"),
        ({"methods": "grid"}, "unknown: methods. Known: program, method"),
        ({"parameters": {}}, "parameters must contain at least one"),
        ({"parameters": {"seed": [0, 1]}}, "parameter 'seed' must be a mapping"),
        ({"parameters": {"lr": LR}}, "method grid tries every value, but those of parameter 'lr'"),
        ({"metric": None}, "metric needs a name and a goal"),
        ({"metric": {"name": "aupro", "goal": "up"}}, "the goal of aupro must be minimize or maximize"),
        ({"command": ["${env}", "python", "train.py"]}, "command must start a training"),
        ({"command": ["anomalib-lite", "evaluate"]}, "command must start a training"),
        ({"early_terminate": {"type": "median"}}, "must be hyperband, not 'median'"),
        ({"early_terminate": {"type": "hyperband"}}, "needs min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1.5}}, "eta must be an integer above 1"),
        ({"early_terminate": HALVING, "metrics": [{"name": "a"}, {"name": "b"}]}, "needs a single metric"),
    ],
)
def test_what_is_wrong_is_said(sweep_of: Write, entries: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        sweep_of(**({"parameters": {"seed": {"values": [0, 1]}}} | entries))


def test_what_is_no_sweep_file(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_sweep(tmp_path / "none.yaml")
    (tmp_path / "torn.yaml").write_text("method: [grid")
    with pytest.raises(UserError, match="is not YAML"):
        read_sweep(tmp_path / "torn.yaml")
    (tmp_path / "list.yaml").write_text("- grid")
    with pytest.raises(UserError, match="is not a sweep file"):
        read_sweep(tmp_path / "list.yaml")
