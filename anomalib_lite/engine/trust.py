"""A run folder that someone sends may hold any configuration: its objects are made of known parts alone."""

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from hydra.utils import get_object

from anomalib_lite.errors import UserError

OWN = (
    "augment",
    "backbones",
    "data",
    "detectors",
    "engine.build",
    "generators",
    "registration",
    "rendering",
    "scoring",
    "settings.training",
)
KNOWN = (  # makers of objects that do nothing by being made; torch.hub, torch.load and the like would run foreign code
    *(f"anomalib_lite.{room}" for room in OWN),
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
    """Whether a run's configuration makes known objects alone.

    Args:
        settings: The configuration that a run folder keeps.
        trusted: Packages of the user's own that it may name as well.

    Errors: UserError that names what it would make, before anything of it is imported.
    """
    known = (*KNOWN, *trusted)
    for place, target in _targets(settings):
        if not (_within(target, known) and (_within(target, trusted) or _is_what_it_says(target, known))):
            package = str(target).partition(".")[0]
            way = f"If it is your own, add trust={package}."
            if package == "anomalib_lite":
                way = "The run is of an older version, or was changed: train it again."
            raise UserError(
                f"The run's config.yaml names code that is none of this package's parts: {place} is {target!r}. "
                f"Nothing of it was run. {way}"
            )


def _targets(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every `_target_`, and every interpolation, which could make one."""
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


def _is_what_it_says(target: str, known: Collection[str]) -> bool:
    """Modules hold what they import, too: `anomalib_lite.data.files.os.system` is not of this package."""
    try:
        found = get_object(target)
        found = getattr(found, "func", found)  # of a partial function
    except Exception:  # whatever a wrong name meets
        return False
    made = inspect.isclass(found) or (inspect.isfunction(found) and target.startswith("anomalib_lite."))
    return made and _within(found.__module__, known)
