"""Each distribution of W&B's format, against the quantiles that its documentation states."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from anomalib_lite.errors import UserError
from anomalib_lite.sweeps.spec import read_parameter


def drawn(spec: dict[str, Any], count: int = 4000) -> np.ndarray:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parameter = read_parameter("x", spec)
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    space = {"x": parameter.space}
    trials = [study.ask(space) for _ in range(count)]
    return np.array([parameter.decode(t.params["x"]) for t in trials])


CONTINUOUS = [
    ({"distribution": "uniform", "min": 2, "max": 4}, stats.uniform(2, 2)),
    ({"min": 2.0, "max": 4.0}, stats.uniform(2, 2)),
    ({"distribution": "log_uniform", "min": -3, "max": 2}, stats.loguniform(math.exp(-3), math.exp(2))),
    ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0}, stats.loguniform(1e-4, 1)),
    ({"distribution": "inv_log_uniform", "min": -3, "max": 2}, stats.loguniform(math.exp(-2), math.exp(3))),
    ({"distribution": "inv_log_uniform_values", "min": 1e-4, "max": 1.0}, stats.loguniform(1e-4, 1)),
]


@pytest.mark.parametrize(("spec", "truth"), CONTINUOUS, ids=lambda value: str(value)[:60])
def test_draws_follow_the_distribution(spec: dict[str, Any], truth: Any):
    assert stats.kstest(drawn(spec, 600), truth.cdf).pvalue > 0.001


def test_quantized_draws_are_multiples():
    for kind, spec in {
        "q_uniform": {"min": 0, "max": 1}, "q_log_uniform_values": {"min": 0.1, "max": 10},
        "q_log_uniform": {"min": -2, "max": 2},
    }.items():  # fmt: skip
        values = drawn({"distribution": kind, "q": 0.1, **spec}, 50)
        assert np.allclose(values / 0.1, np.round(values / 0.1)) and len(np.unique(values)) > 2
        assert all(len(repr(float(value))) < 8 for value in values), "no 0.30000000000000004"
    whole = read_parameter("x", {"distribution": "q_uniform", "min": 128, "max": 320, "q": 32})
    assert isinstance(whole.decode(200.3), int) and whole.decode(200.3) == 192


def test_values_of_any_shape_come_back():
    values = [None, True, 1, 1.0, "1", "a b=c", [1, None], {"a": {"b": [1e-4]}}]
    parameter = read_parameter("x", {"values": values})
    decoded = [parameter.decode(v) for v in parameter.grid() or ()]
    assert decoded == values and [type(v) for v in decoded] == [type(v) for v in values]


def test_whole_limits_draw_whole_numbers():
    values = drawn({"min": 1, "max": 3}, 200)
    assert set(values.tolist()) == {1, 2, 3}
    assert read_parameter("x", {"value": [1, 2]}).decode("[1, 2]") == [1, 2]


def test_what_a_grid_can_count():
    def grid(**spec: Any) -> Any:
        return read_parameter("x", spec).grid()

    assert grid(min=1, max=3) == (1, 2, 3)
    assert grid(distribution="q_uniform", min=1.0, max=2.0, q=0.5) == (1.0, 1.5, 2.0)
    assert grid(min=0.0, max=1.0) is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"distribution": "cauchy"}, "'x': the distribution 'cauchy' is not known. Known: constant, categorical"),
        ({"distribution": "uniform", "min": 1}, "the distribution uniform needs max"),
        ({"distribution": "uniform", "min": 2, "max": 1}, "x.*uniform.*low"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "low > 0.* must hold"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, "q must be above 0"),
        ({"values": ["a", "b"], "probabilities": [0.5, 0.5]}, "'categorical_w_probabilities' is not known"),
        ({"values": []}, "must contain one or more elements"),
        ({"min": 1}, "'x' needs value, values, min and max"),
        ({"distribution": "uniform", "min": "few", "max": 1}, "could not convert string to float"),
    ],
)
def test_what_is_wrong_is_said(spec: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message.replace("(", "\\(")):
        read_parameter("x", spec)
