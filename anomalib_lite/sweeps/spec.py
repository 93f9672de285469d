"""A sweep file of Weights & Biases: what varies, as Optuna searches it, what is wanted, and the command of a trial."""

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

Entry = Mapping[str, Any]  # what a sweep file says of one parameter


def _values(values: Sequence[Any]) -> BaseDistribution:
    """As JSON, since Optuna's categories may be neither lists nor dictionaries."""
    return CategoricalDistribution([json.dumps(value) for value in values])


def _floats(low: Any, high: Any, log: bool = True) -> BaseDistribution:
    return FloatDistribution(float(low), float(high), log=log)


# W&B's name -> Optuna's distribution. The limits of log_uniform and inv_log_uniform are natural logarithms; one over a
# log-uniform number is log-uniform.
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
    """A parameter's distribution. `q`: what is drawn is rounded to multiples of it."""

    kind: str
    space: BaseDistribution
    q: float | None = None

    def decode(self, drawn: Any) -> Any:
        """Optuna's value -> the parameter's."""
        if isinstance(self.space, CategoricalDistribution):
            return json.loads(drawn)
        if self.q is None:
            return drawn
        value = round(drawn / self.q) * self.q
        return value if isinstance(self.q, int) else float(f"{value:.12g}")  # no 0.30000000000000004

    def grid(self) -> tuple[Any, ...] | None:
        """All of Optuna's values; None where they cannot be counted."""
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
    """A parameter's entry of a sweep file; its distribution is guessed as W&B does where it is not named.

    Errors: UserError for a distribution that is unknown, or that lacks what it needs.
    """
    kind = entry.get("distribution") or _guess(key, entry)
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


def _guess(key: str, entry: Entry) -> str:
    if "value" in entry:
        return "constant"
    if "probabilities" in entry:
        return "categorical_w_probabilities"  # Optuna has none: refused by that name
    if "values" in entry:
        return "categorical"
    if "min" in entry and "max" in entry:
        return "int_uniform" if all(isinstance(entry[end], int) for end in ("min", "max")) else "uniform"
    raise UserError(f"Parameter '{key}' needs value, values, min and max, a distribution or parameters of its own.")


@dataclass(frozen=True)
class Objective:
    """A figure of a run, by its name in metrics.json (`aupro`, `validation/aupro`), status.json or history.csv."""

    name: str
    goal: Literal["minimize", "maximize"]

    @property
    def sign(self) -> int:
        """What a value is multiplied by so that smaller is better."""
        return 1 if self.goal == "minimize" else -1


@dataclass(frozen=True)
class Sweep:
    """parameters: by Hydra key, nested ones under dotted keys. fixed: the command's own overrides, of every trial."""

    name: str
    method: str
    objectives: tuple[Objective, ...]
    parameters: Mapping[str, Parameter]
    pruner: BasePruner | None
    run_cap: int | None
    fixed: tuple[str, ...]
    content: str  # what tells this sweep from others

    @property
    def grid_size(self) -> int:
        return math.prod(len(parameter.grid() or ()) for parameter in self.parameters.values())

    def key(self, more: Sequence[str] = ()) -> str:
        """Eight hex digits over what defines the sweep. more: further overrides of every trial."""
        return hashlib.sha256(json.dumps([self.content, list(more)]).encode()).hexdigest()[:8]


def read_sweep(path: Path) -> Sweep:
    """Reads W&B's format, and `metrics`, a list, where several are wanted.

    Errors: UserError that names what is wrong.
    """
    spec = _load(path)
    try:
        return _sweep(spec, path.stem)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _sweep(spec: Mapping[str, Any], name: str) -> Sweep:
    if unknown := sorted(set(spec) - set(KEYS)):
        raise UserError(f"unknown: {', '.join(unknown)}. Known: {', '.join(KEYS)}.")
    if spec.get("method") not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}, not '{spec.get('method')}'.")
    parameters = _parameters(spec.get("parameters"))
    for key, parameter in parameters.items():
        if spec["method"] == "grid" and parameter.grid() is None:
            raise UserError(
                f"method grid tries every value, and parameter '{key}' ({parameter.kind}) has too many to count: list "
                "values, or take another method."
            )
    objectives, pruner = _objectives(spec), _pruner(spec.get("early_terminate"))
    if pruner and len(objectives) > 1:
        raise UserError("early_terminate compares trials by val_loss, which several metrics cannot be held to.")
    defining = [spec.get(k) for k in ("method", "metric", "metrics", "parameters", "early_terminate", "command")]
    name, cap = str(spec.get("name") or name), int(spec["run_cap"]) if spec.get("run_cap") else None
    content = json.dumps(defining, sort_keys=True)
    return Sweep(name, spec["method"], objectives, parameters, pruner, cap, _fixed(spec.get("command")), content)


def _load(path: Path) -> dict[str, Any]:
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The sweep file {path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(spec, dict):
        raise UserError(f"{path} is no sweep file: it must hold method, metric, parameters and command.")
    return spec


def _parameters(entries: Any, prefix: str = "") -> dict[str, Parameter]:
    if not isinstance(entries, Mapping) or not entries:
        raise UserError(f"{prefix}parameters must hold at least one parameter.")
    found: dict[str, Parameter] = {}
    for name, entry in entries.items():
        key = f"{prefix}{name}"
        if not isinstance(entry, Mapping):
            raise UserError(f"parameter '{key}' must be a mapping, e.g. {{values: [1, 2]}}.")
        inner = "parameters" in entry
        found |= _parameters(entry["parameters"], f"{key}.") if inner else {key: read_parameter(key, entry)}
    return found


def _objectives(spec: Entry) -> tuple[Objective, ...]:
    entries = spec.get("metrics") or ([spec["metric"]] if spec.get("metric") else [])
    if not entries or not all(isinstance(e, Mapping) and e.get("name") for e in entries):
        raise UserError("metric needs a name and a goal, e.g. metric: {name: val_loss, goal: minimize}.")
    objectives = tuple(Objective(str(e["name"]), e.get("goal", "minimize")) for e in entries)
    for objective in objectives:
        if objective.goal not in GOALS:
            raise UserError(f"the goal of {objective.name} must be minimize or maximize.")
    return objectives


def _pruner(entry: Entry | None) -> BasePruner | None:
    """W&B's hyperband has one bracket, which is successive halving: of those that reached the epochs
    min_iter * eta^k, the best share 1 / eta goes on (Li et al., "Hyperband", JMLR 2018).
    """
    if not entry:
        return None
    if entry.get("type") != "hyperband":
        raise UserError(f"early_terminate.type must be hyperband, not '{entry.get('type')}'.")
    eta = entry.get("eta", 3)
    if eta != int(eta) or eta < 2:
        raise UserError(f"early_terminate.eta must be a whole number above 1, not {eta}.")
    if "min_iter" not in entry and not {"max_iter", "s"} <= entry.keys():
        raise UserError("early_terminate needs min_iter, or max_iter and s.")
    first = entry["min_iter"] if "min_iter" in entry else entry["max_iter"] / eta ** entry["s"]
    return SuccessiveHalvingPruner(min_resource=max(1, int(first)), reduction_factor=int(eta))


def _fixed(command: Any) -> tuple[str, ...]:
    """The command's overrides, without the program, its verb and the macros that stand for the parameters."""
    words = [str(word) for word in command or ()]
    start = next((i for i, word in enumerate(words) if Path(word).name == PROGRAM), None)
    if start is None or words[start + 1 : start + 2] != ["train"]:
        wanted = f"['${{env}}', {PROGRAM}, train, further overrides, '${{args_json}}']"
        raise UserError(f"command must start a training: {wanted}.")
    return tuple(word for word in words[start + 2 :] if not word.startswith("${"))
