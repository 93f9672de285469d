"""Which trials are not worth their remaining epochs (Li et al., "Hyperband", JMLR 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anomalib_lite.errors import UserError

MOST_RUNGS = 100


@dataclass(frozen=True)
class Hyperband:
    """rungs: the epochs, from 1, after which a trial must be among the best share 1 / eta of those that got there."""

    rungs: tuple[int, ...]
    eta: float

    def failed_at(self, own: Sequence[float], others: Sequence[Sequence[float]], judged: int = 0) -> int | None:
        """The first rung beyond `judged` epochs that a trial has reached and is not good enough at; else None.

        own, others: a value each epoch, smaller is better. What the first trials cannot be compared with lets them go
        on. Every rung counts: W&B's agent looks at the last alone, and lets a fast trial slip over one.
        """
        for rung in self.rungs:
            if judged < rung <= len(own):
                values = sorted([own[rung - 1], *(other[rung - 1] for other in others if len(other) >= rung)])
                if own[rung - 1] > values[int(len(values) / self.eta)]:
                    return rung
        return None


def read_hyperband(spec: Mapping[str, Any] | None) -> Hyperband | None:
    """From `early_terminate` of a sweep file: type, and min_iter or max_iter with s; eta is 3.

    Errors: UserError for another type, or rungs that cannot be.
    """
    if not spec:
        return None
    if spec.get("type") != "hyperband":
        raise UserError(f"early_terminate.type must be hyperband, not '{spec.get('type')}'.")
    eta = float(spec.get("eta", 3))
    if eta <= 1:
        raise UserError(f"early_terminate.eta must be above 1, not {spec['eta']}.")
    if "min_iter" in spec:
        rungs = [int(float(spec["min_iter"]) * eta**k) for k in range(MOST_RUNGS) if eta**k < 1e9]
    elif "max_iter" in spec and "s" in spec:
        rungs = [int(float(spec["max_iter"]) / eta**k) for k in range(1, int(spec["s"]) + 1)]
    else:
        raise UserError("early_terminate needs min_iter, or max_iter and s.")
    rungs = sorted({rung for rung in rungs if rung >= 1})
    if not rungs:
        raise UserError("early_terminate leaves no epoch to decide at: a larger max_iter, or a smaller s or eta.")
    return Hyperband(tuple(rungs), eta)
