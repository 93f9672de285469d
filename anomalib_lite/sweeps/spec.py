"""Reads a sweep file of Weights & Biases: parameters as Optuna distributions, objectives, pruner and command."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, SuccessiveHalvingPruner

from anomalib_lite.errors import UserError
from anomalib_lite.runs.overrides import PROGRAM

METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
KEYS = (
    "program", "method", "metric", "metrics", "parameters", "early_terminate", "command", "name", "description",
    "project", "entity", "run_cap",
)  # fmt: skip

Entry = Mapping[str, Any]  # the entry of one parameter in a sweep file


def _values(values: Sequence[Any]) -> BaseDistribution:
    """Makes a categorical distribution of JSON strings, because Optuna does not allow lists or dictionaries."""
    return CategoricalDistribution([json.dumps(value) for value in values])


def _floats(low: Any, high: Any, log: bool = True) -> BaseDistribution:
    return FloatDistribution(float(low), float(high), log=log)


# W&B's name -> Optuna's distribution. The limits of log_uniform and inv_log_uniform are natural logarithms. The inverse
# of a log-uniform number is log-uniform, too.
KINDS: dict[str, Callable[[Entry], BaseDistribution]] = {
    "constant": lambda e: _values([e["value"]]),
    "categorical": lambda e: _values(e["values"]),
    "int_uniform": lambda e: IntDistribution(int(e["min"]), int(e["max"])),
    "uniform": lambda e: _floats(e["min"], e["max"], log=False),
    "log_uniform": lambda e: _floats(math.exp(e["min"]), math.exp(e["max"])),
    "log_uniform_values": lambda e: _floats(e["min"], e["max"]),
    "inv_log_uniform": lambda e: _floats(math.exp(-e["max"]), math.exp(-e["min"])),
    "inv_log_uniform_values": lambda e: _floats(e["min"], e["max"]),
}
KINDS |= {f"q_{name}": KINDS[name] for name in ("uniform", "log_uniform", "log_uniform_values")}


@dataclass(frozen=True)
class Parameter:
    """A parameter's distribution; sampled values are rounded to multiples of `q`."""

    kind: str
    space: BaseDistribution
    q: float | None = None

    def decode(self, sample: Any) -> Any:
        """Converts Optuna's value to the parameter's value."""
        if isinstance(self.space, CategoricalDistribution):
            return json.loads(sample)
        if self.q is None:
            return sample
        value = round(sample / self.q) * self.q
        return value if isinstance(self.q, int) else float(f"{value:.12g}")  # no 0.30000000000000004

    def grid(self) -> tuple[Any, ...] | None:
        """Returns all of Optuna's values; None if they cannot be enumerated."""
        if isinstance(self.space, CategoricalDistribution):
            return self.space.choices
        if isinstance(self.space, IntDistribution):
            return tuple(range(self.space.low, self.space.high + 1))
        if self.kind == "q_uniform" and self.q and isinstance(self.space, FloatDistribution):
            low, high = self.space.low, self.space.high
            steps = range(math.ceil(low / self.q - 1e-9), math.floor(high / self.q + 1e-9) + 1)
            return tuple(min(max(k * self.q, low), high) for k in steps)
        return None


def read_parameter(key: str, entry: Entry) -> Parameter:
    """Reads an entry; without a distribution, infers it as W&B does. UserError: it is unknown or incomplete."""
    kind = entry.get("distribution") or _infer_kind(key, entry)
    if kind not in KINDS:
        raise UserError(f"Parameter '{key}': the distribution '{kind}' is not known. Known: {', '.join(KINDS)}.")
    q = entry.get("q", 1) if kind.startswith("q_") else None
    try:
        if q is not None and not q > 0:
            raise ValueError("q must be above 0")
        return Parameter(kind, KINDS[kind](entry), q)
    except KeyError as missing:
        raise UserError(f"Parameter '{key}': the distribution {kind} needs {missing.args[0]}.") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"Parameter '{key}' ({kind}): {str(error).rstrip('.')}.") from None


def _infer_kind(key: str, entry: Entry) -> str:
    if "value" in entry:
        return "constant"
    if "probabilities" in entry:
        return "categorical_w_probabilities"  # not supported by Optuna: rejected under this name
    if "values" in entry:
        return "categorical"
    if "min" in entry and "max" in entry:
        return "int_uniform" if all(isinstance(entry[end], int) for end in ("min", "max")) else "uniform"
    raise UserError(f"Parameter '{key}' needs value, values, min and max, a distribution, or nested parameters.")


@dataclass(frozen=True)
class Objective:
    """A metric to optimise, by its name in metrics.json (`aupro`, `validation/aupro`), status.json or history.csv."""

    name: str
    goal: Literal["minimize", "maximize"]

    @property
    def sign(self) -> int:
        """The factor that makes smaller values better."""
        return 1 if self.goal == "minimize" else -1


@dataclass(frozen=True)
class Sweep:
    """A sweep file."""

    name: str
    method: str
    objectives: tuple[Objective, ...]
    parameters: Mapping[str, Parameter]  # by Hydra key; nested parameters have dotted keys
    pruner: BasePruner | None
    run_cap: int | None
    fixed: tuple[str, ...]  # overrides of every trial, from the file's command
    content: str  # the parts of the file that define the sweep, as JSON

    def key(self, more: Sequence[str] = (), seed: int = 0) -> str:
        """Returns eight hex digits that identify the sweep together with further overrides of every trial, and with the
        seed that chooses the trials, which those of a grid do not depend on.
        """
        chosen = [seed] if seed and self.method != "grid" else []
        return hashlib.sha256(json.dumps([self.content, list(more), *chosen]).encode()).hexdigest()[:8]


def read_sweep(path: Path) -> Sweep:
    """Reads W&B's format, extended by the list `metrics` for several objectives. Raises UserError if it is wrong."""
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The sweep file {path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(spec, dict):
        raise UserError(f"{path} is not a sweep file: it must contain method, metric, parameters and command.")
    try:
        return _sweep(spec, path.stem)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _sweep(spec: Entry, name: str) -> Sweep:
    if unknown := sorted(set(spec) - set(KEYS)):
        raise UserError(f"unknown: {', '.join(unknown)}. Known: {', '.join(KEYS)}.")
    if (method := spec.get("method")) not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}, not '{method}'.")
    parameters = _parameters(spec.get("parameters"))
    for key, parameter in parameters.items():
        if method == "grid" and parameter.grid() is None:
            raise UserError(
                f"method grid tries every value, but those of parameter '{key}' ({parameter.kind}) cannot be "
                "enumerated: list values, or use another method."
            )
    objectives, pruner = _objectives(spec), _pruner(spec.get("early_terminate"))
    if pruner and len(objectives) > 1:
        raise UserError("early_terminate compares trials by val_loss and needs a single metric.")
    defining = [spec.get(k) for k in ("method", "metric", "metrics", "parameters", "early_terminate", "command")]
    name, cap = str(spec.get("name") or name), int(spec["run_cap"]) if spec.get("run_cap") else None
    content = json.dumps(defining, sort_keys=True)
    return Sweep(name, method, objectives, parameters, pruner, cap, _fixed(spec.get("command")), content)


def _parameters(entries: Any, prefix: str = "") -> dict[str, Parameter]:
    if not isinstance(entries, Mapping) or not entries:
        raise UserError(f"{prefix}parameters must contain at least one parameter.")
    parameters: dict[str, Parameter] = {}
    for name, entry in entries.items():
        key = f"{prefix}{name}"
        if not isinstance(entry, Mapping):
            raise UserError(f"parameter '{key}' must be a mapping, e.g. {{values: [1, 2]}}.")
        nested = "parameters" in entry
        parameters |= _parameters(entry["parameters"], f"{key}.") if nested else {key: read_parameter(key, entry)}
    return parameters


def _objectives(spec: Entry) -> tuple[Objective, ...]:
    entries = spec.get("metrics") or ([spec["metric"]] if spec.get("metric") else [])
    if not entries or not all(isinstance(e, Mapping) and e.get("name") for e in entries):
        raise UserError("metric needs a name and a goal, e.g. metric: {name: val_loss, goal: minimize}.")
    if wrong := [e["name"] for e in entries if e.get("goal", "minimize") not in GOALS]:
        raise UserError(f"the goal of {wrong[0]} must be minimize or maximize.")
    return tuple(Objective(str(e["name"]), e.get("goal", "minimize")) for e in entries)


def _pruner(entry: Entry | None) -> BasePruner | None:
    """Returns a successive-halving pruner, which equals W&B's hyperband with its single bracket.

    After the epochs min_iter * eta^k, the best fraction 1 / eta of the trials continues (Li et al., "Hyperband", JMLR
    2018).
    """
    if not entry:
        return None
    if entry.get("type") != "hyperband":
        raise UserError(f"early_terminate.type must be hyperband, not '{entry.get('type')}'.")
    eta = entry.get("eta", 3)
    if eta != int(eta) or eta < 2:
        raise UserError(f"early_terminate.eta must be an integer above 1, not {eta}.")
    if "min_iter" not in entry and not {"max_iter", "s"} <= entry.keys():
        raise UserError("early_terminate needs min_iter, or max_iter and s.")
    first = entry["min_iter"] if "min_iter" in entry else entry["max_iter"] / eta ** entry["s"]
    return SuccessiveHalvingPruner(min_resource=max(1, int(first)), reduction_factor=int(eta))


def _fixed(command: Any) -> tuple[str, ...]:
    """Returns the overrides in the command, without the program, its verb and the macros for parameters."""
    words = [str(word) for word in command or ()]
    start = next((i for i, word in enumerate(words) if Path(word).name == PROGRAM), None)
    if start is None or words[start + 1 : start + 2] != ["train"]:
        example = f"['${{env}}', {PROGRAM}, train, further overrides, '${{args_json}}']"
        raise UserError(f"command must start a training: {example}.")
    return tuple(word for word in words[start + 2 :] if not word.startswith("${"))
