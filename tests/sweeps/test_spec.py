"""Sweep files: each distribution of W&B's format against the quantiles that its documentation states, and the rest."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from scipy import stats

from anomalib_lite.errors import UserError
from anomalib_lite.sweeps.spec import read_parameter, read_sweep
from tests.sweeps.conftest import Write

LR = {"distribution": "log_uniform_values", "min": 0.01, "max": 1.0}
HALVING = {"type": "hyperband", "min_iter": 2}
SEEDS = {"seed": {"values": [0, 1]}}


def drawn(count: int, **spec: Any) -> np.ndarray:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parameter = read_parameter("x", spec)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return np.array([parameter.decode(study.ask({"x": parameter.space}).params["x"]) for _ in range(count)])


@pytest.mark.parametrize(
    ("kind", "low", "high", "truth"),
    [
        ("uniform", 2, 4, stats.uniform(2, 2)),
        (None, 2.0, 4.0, stats.uniform(2, 2)),
        ("log_uniform", -3, 2, stats.loguniform(math.exp(-3), math.exp(2))),
        ("log_uniform_values", 1e-4, 1.0, stats.loguniform(1e-4, 1)),
        ("inv_log_uniform", -3, 2, stats.loguniform(math.exp(-2), math.exp(3))),
        ("inv_log_uniform_values", 1e-4, 1.0, stats.loguniform(1e-4, 1)),
    ],
)
def test_draws_follow_the_distribution(kind: str | None, low: float, high: float, truth: Any):
    named = {"distribution": kind} if kind else {}
    assert stats.kstest(drawn(600, min=low, max=high, **named), truth.cdf).pvalue > 0.001


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("q_uniform", 0, 1), ("q_log_uniform_values", 0.1, 10), ("q_log_uniform", -2, 2)]
)
def test_quantized_draws_are_multiples(kind: str, low: float, high: float):
    values = drawn(50, distribution=kind, q=0.1, min=low, max=high)
    assert np.allclose(values / 0.1, np.round(values / 0.1)) and len(np.unique(values)) > 2
    assert all(len(repr(float(value))) < 8 for value in values), "no 0.30000000000000004"


def test_whole_limits_and_steps_draw_whole_numbers():
    assert {*drawn(200, min=1, max=3).tolist()} == {1, 2, 3}
    size = read_parameter("x", {"distribution": "q_uniform", "min": 128, "max": 320, "q": 32}).decode(200.3)
    assert isinstance(size, int) and size == 192


def test_values_of_any_shape_come_back():
    values = [None, True, 1, 1.0, "1", "a b=c", [1, None], {"a": {"b": [1e-4]}}]
    parameter = read_parameter("x", {"values": values})
    decoded = [parameter.decode(v) for v in parameter.grid() or ()]
    assert decoded == values and [type(v) for v in decoded] == [type(v) for v in values]
    assert read_parameter("x", {"value": [1, 2]}).decode("[1, 2]") == [1, 2]


def test_what_a_grid_can_count():
    steps = {"distribution": "q_uniform", "min": 1.0, "max": 2.0, "q": 0.5}
    entries = {"min": 1, "max": 3}, steps, {"min": 0.0, "max": 1.0}
    assert [read_parameter("x", entry).grid() for entry in entries] == [(1, 2, 3), (1.0, 1.5, 2.0), None]


def test_nested_parameters_lie_under_dotted_keys(sweep_of: Write):
    nested = {"detector": {"parameters": {"optimizer": {"parameters": {"lr": LR}}, "epochs": {"value": 3}}}}
    sweep = sweep_of(method="random", parameters=nested | SEEDS, name="lr", run_cap=5)
    assert list(sweep.parameters) == ["detector.optimizer.lr", "detector.epochs", "seed"]
    assert (sweep.name, sweep.run_cap, sweep.pruner) == ("lr", 5, None)


def test_the_command_gives_the_overrides_of_every_trial(sweep_of: Write):
    command = ["${env}", "/opt/bin/anomalib-lite", "train", "data=mtd", "data.root=a b", "${args_json}"]
    assert sweep_of(parameters=SEEDS, command=command).fixed == ("data=mtd", "data.root=a b")


def test_one_metric_or_several(sweep_of: Write):
    aupro = {"name": "aupro", "goal": "maximize"}
    one = sweep_of(parameters=SEEDS, metric=aupro)
    several = sweep_of(parameters=SEEDS, metrics=[aupro, {"name": "ms_per_image"}])
    assert one.objectives == several.objectives[:1]
    assert [(o.name, o.goal, o.sign) for o in several.objectives] == [
        ("aupro", "maximize", -1), ("ms_per_image", "minimize", 1),
    ]  # fmt: skip


def test_a_sweep_is_known_by_what_defines_it(sweep_of: Write):
    first = sweep_of(parameters=SEEDS)
    assert first.key() == sweep_of(parameters=SEEDS, description="new", run_cap=3).key()
    assert first.key() != sweep_of(parameters={"seed": {"values": [1]}}).key()
    assert first.key() != first.key(("data=mtd",))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"method": "hyperopt"}, "method must be one of grid, random, bayes, not 'hyperopt'"),
        ({"methods": "grid"}, "unknown: methods. Known: program, method"),
        ({"parameters": {}}, "parameters must contain at least one"),
        ({"parameters": {"seed": [0, 1]}}, "parameter 'seed' must be a mapping"),
        ({"parameters": {"lr": LR}}, r"method grid tries every value, but those of parameter 'lr' \(log_uniform"),
        ({"metric": None}, "metric needs a name and a goal"),
        ({"metric": {"name": "aupro", "goal": "up"}}, "the goal of aupro must be minimize or maximize"),
        ({"command": ["${env}", "python", "train.py"]}, "command must start a training"),
        ({"command": ["anomalib-lite", "evaluate"]}, "command must start a training"),
        ({"early_terminate": {"type": "median"}}, "must be hyperband, not 'median'"),
        ({"early_terminate": {"type": "hyperband"}}, "needs min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1.5}}, "eta must be an integer above 1"),
        ({"early_terminate": HALVING, "metrics": [{"name": "a"}, {"name": "b"}]}, "needs a single metric"),
        (
            {"x": {"distribution": "cauchy"}},
            "'x': the distribution 'cauchy' is not known. Known: constant, categorical",
        ),
        ({"x": {"distribution": "uniform", "min": 1}}, "the distribution uniform needs max"),
        ({"x": {"distribution": "uniform", "min": 2, "max": 1}}, "x.*uniform.*low"),
        ({"x": LR | {"min": 0}}, "low > 0.* must hold"),
        ({"x": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}}, "q must be above 0"),
        ({"x": {"values": ["a", "b"], "probabilities": [0.5, 0.5]}}, "'categorical_w_probabilities' is not known"),
        ({"x": {"values": []}}, "must contain one or more elements"),
        ({"x": {"min": 1}}, "'x' needs value, values, min and max"),
        ({"x": {"distribution": "uniform", "min": "few", "max": 1}}, "could not convert string to float"),
    ],
)
def test_what_is_wrong_is_said(sweep_of: Write, entries: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        sweep_of(**({"parameters": entries} if "x" in entries else {"parameters": SEEDS} | entries))


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read: No such file"), ("method: [grid", "is not YAML"), ("- grid", "is not a sweep file")],
)
def test_what_is_no_sweep_file(tmp_path: Path, text: str | None, message: str):
    if text is not None:
        (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_sweep(tmp_path / "sweep.yaml")
