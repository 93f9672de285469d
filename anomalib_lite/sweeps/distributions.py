"""The distributions of W&B's sweep files, over what Optuna can search."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from anomalib_lite.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

EDGE = 1e-6  # quantiles this close to 0 and 1 are not drawn: they would be infinite


@dataclass(frozen=True)
class Distribution:
    """What a parameter may be: one of `values`, or what `decode` makes of a number drawn from [low, high]."""

    kind: str
    values: tuple[Any, ...] | None = None
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    integer: bool = False
    q: float | None = None
    transform: Callable[[float], Any] | None = None

    def search_space(self) -> BaseDistribution:
        """For Optuna. Values are searched as JSON, since its own categories may be neither lists nor dictionaries."""
        from optuna import distributions

        if self.values is not None:
            return distributions.CategoricalDistribution([json.dumps(v) for v in self.values])
        if self.integer:
            return distributions.IntDistribution(int(self.low), int(self.high))
        return distributions.FloatDistribution(self.low, self.high, log=self.log)

    def decode(self, drawn: Any) -> Any:
        """Optuna's value -> the parameter's."""
        if self.values is not None:
            return json.loads(drawn)
        value = self.transform(drawn) if self.transform else drawn
        return value if self.q is None else _quantized(value, self.q)

    def grid(self) -> tuple[Any, ...] | None:
        """Optuna's values, all of them; None where they cannot be counted."""
        if self.values is not None:
            return tuple(json.dumps(v) for v in self.values)
        if self.integer:
            return tuple(range(int(self.low), int(self.high) + 1))
        if self.kind == "q_uniform" and self.q:
            first, last = math.ceil(self.low / self.q - 1e-9), math.floor(self.high / self.q + 1e-9)
            return tuple(min(max(k * self.q, self.low), self.high) for k in range(first, last + 1))
        return None


def read_distribution(key: str, spec: Mapping[str, Any]) -> Distribution:
    """A parameter's entry of a sweep file -> its distribution, which is guessed as W&B does where it is not named.

    Errors: UserError for a distribution that is unknown, or that lacks what it needs.
    """
    kind = spec.get("distribution") or _guess(key, spec)
    if kind not in KINDS:
        raise UserError(f"Parameter '{key}': the distribution '{kind}' is not known. Known: {', '.join(KINDS)}.")
    try:
        return KINDS[kind](kind, spec)
    except KeyError as missing:
        raise UserError(f"Parameter '{key}': the distribution {kind} needs {missing.args[0]}.") from None
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"Parameter '{key}' ({kind}): {error}.") from None


def _guess(key: str, spec: Mapping[str, Any]) -> str:
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if "min" in spec and "max" in spec:
        whole = all(isinstance(spec[end], int) for end in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    raise UserError(f"Parameter '{key}' needs value, values, min and max, a distribution or parameters of its own.")


def _constant(kind: str, spec: Mapping[str, Any]) -> Distribution:
    return Distribution(kind, (spec["value"],))


def _categorical(kind: str, spec: Mapping[str, Any]) -> Distribution:
    values = tuple(spec["values"])
    if not values:
        raise ValueError("values is empty")
    return Distribution(kind, values)


def _weighted(kind: str, spec: Mapping[str, Any]) -> Distribution:
    values, weights = list(spec["values"]), [float(p) for p in spec["probabilities"]]
    if len(values) != len(weights) or min(weights) < 0 or not math.isclose(sum(weights), 1, abs_tol=1e-6):
        raise ValueError("there must be one probability for each value, none negative, 1 together")
    ends = list(accumulate(weights))

    def pick(drawn: float) -> Any:
        return next((v for v, end in zip(values, ends, strict=True) if drawn < end), values[-1])

    return Distribution(kind, transform=pick)


def _interval(
    kind: str,
    spec: Mapping[str, Any],
    *,
    log: bool = False,
    exponents: bool = False,
    inverse: bool = False,
    integer: bool = False,
) -> Distribution:
    """exponents: min and max are natural logarithms. inverse: of one over the value."""
    for end in ("min", "max"):
        if isinstance(spec[end], str):
            raise ValueError(f"{end} is the text '{spec[end]}' (YAML reads 1e-6 as text: write 1.0e-6)")
    number = int if integer else float
    low, high = number(spec["min"]), number(spec["max"])
    if exponents:
        low, high = (math.exp(-high), math.exp(-low)) if inverse else (math.exp(low), math.exp(high))
    if low > high or (log and low <= 0):
        raise ValueError("min must not exceed max" if low > high else "min must be above 0")
    return Distribution(kind, low=low, high=high, log=log, integer=integer, q=_step(kind, spec))


def _quantile(kind: str, spec: Mapping[str, Any], *, of: str) -> Distribution:
    """Drawn as the share that lies below, so that Optuna searches an interval."""
    if of == "beta":
        from scipy.special import betaincinv

        a, b = float(spec.get("a", 1)), float(spec.get("b", 1))
        return Distribution(kind, q=_step(kind, spec), transform=lambda share: float(betaincinv(a, b, share)))
    mu, sigma = float(spec.get("mu", 0)), float(spec.get("sigma", 1))

    def normal(share: float) -> float:
        value = NormalDist(mu, sigma).inv_cdf(share) if sigma else mu
        return math.exp(value) if of == "log_normal" else value

    return Distribution(kind, low=EDGE, high=1 - EDGE, q=_step(kind, spec), transform=normal)


def _step(kind: str, spec: Mapping[str, Any]) -> float | None:
    if not kind.startswith("q_"):
        return None
    q = spec.get("q", 1)
    if not q > 0:
        raise ValueError("q must be above 0")
    return q


def _quantized(value: float, q: float) -> float:
    steps = round(value / q)
    return steps * q if isinstance(q, int) else float(f"{steps * q:.12g}")


_BASES: dict[str, Callable[[str, Mapping[str, Any]], Distribution]] = {
    "uniform": _interval,
    "log_uniform": partial(_interval, log=True, exponents=True),
    "log_uniform_values": partial(_interval, log=True),
    "normal": partial(_quantile, of="normal"),
    "log_normal": partial(_quantile, of="log_normal"),
    "beta": partial(_quantile, of="beta"),
}
KINDS: dict[str, Callable[[str, Mapping[str, Any]], Distribution]] = {
    "constant": _constant,
    "categorical": _categorical,
    "categorical_w_probabilities": _weighted,
    "int_uniform": partial(_interval, integer=True),
    **_BASES,
    **{f"q_{name}": make for name, make in _BASES.items()},
    "inv_log_uniform": partial(_interval, log=True, exponents=True, inverse=True),
    "inv_log_uniform_values": partial(_interval, log=True),
}
