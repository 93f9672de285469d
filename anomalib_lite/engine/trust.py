"""Checks that a run's configuration only names known code, because run folders may come from other people."""

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from hydra.utils import get_object

from anomalib_lite.errors import UserError

MODULES = (
    "augment", "backbones", "data", "detectors", "engine.build", "generators", "registration", "rendering", "scoring",
    "settings.training",
)  # fmt: skip
KNOWN = (  # constructors without side effects; torch.hub, torch.load and the like would run foreign code
    *(f"anomalib_lite.{module}" for module in MODULES),
    "kornia.augmentation",
    "lightning.Trainer",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.trainer.trainer",  # where Trainer is defined
    "timm.layers",
    "torch.nn",
    "torch.optim",
)


def check_targets(settings: Mapping[str, Any], trusted: Collection[str] = ()) -> None:
    """Checks that a run's configuration only instantiates code that is known or of the user's `trusted` packages.

    Raises UserError if it names other code; nothing of that code has been imported.
    """
    allowed = (*KNOWN, *trusted)
    for key, target in _targets(settings):
        if not (_within(target, allowed) and (_within(target, trusted) or _is_defined_within(target, allowed))):
            package = str(target).partition(".")[0]
            advice = f"If you trust that code, add trust={package}."
            if package == "anomalib_lite":
                advice = "The run is of an older version, or was changed: train it again."
            raise UserError(
                f"The run's config.yaml names code outside this package's known parts: {key} is {target!r}. "
                f"It was not run. {advice}"
            )


def _targets(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the place and value of every `_target_`, and of every interpolation, which could resolve to one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = f"{place}.{key}".lstrip(".")
            if key == "_target_":
                yield name, inner
            else:
                yield from _targets(inner, name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _targets(inner, f"{place}[{number}]")
    elif isinstance(value, str) and "${" in value:
        yield place, value


def _within(target: Any, packages: Collection[str]) -> bool:
    return isinstance(target, str) and any(target == name or target.startswith(f"{name}.") for name in packages)


def _is_defined_within(target: str, allowed: Collection[str]) -> bool:
    """Whether the target is defined in a known package, not just imported: `anomalib_lite.data.files.os.system`."""
    try:
        part = get_object(target)
        part = getattr(part, "func", part)  # the function of a partial
    except Exception:  # a wrong name can raise anything
        return False
    callable_kind = inspect.isclass(part) or (inspect.isfunction(part) and target.startswith("anomalib_lite."))
    return callable_kind and _within(part.__module__, allowed)
