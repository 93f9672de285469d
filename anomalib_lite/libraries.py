"""Imports the deep-learning libraries without heavy modules that they load but do not need at import time.

On an idle core torch's compiler takes 1.2 s and 145 MB, scipy.signal and matplotlib 0.8 s and 60 MB, in every command
that uses images. torchvision, timm and Lightning import the compiler for decorators, torchmetrics imports the others
for a patch of an unused name and for type annotations, and Lightning's FLOP counter imports Triton (0.3 s, 70 MB).
Stand-ins replace these modules during the import; the real modules are imported when they are first used.
"""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType, SimpleNamespace
from typing import Any


class _Compiled(type):
    def __instancecheck__(cls, module: object) -> bool:
        real = sys.modules.get("torch._dynamo")
        return real is not None and isinstance(module, real.OptimizedModule)


class OptimizedModule(metaclass=_Compiled):
    """For Lightning's isinstance checks of compiled modules."""


def _plain(function: Any = None, *settings: Any, **more: Any) -> Any:
    """Replaces the decorator that excludes a function from compilation."""
    return (lambda f: f) if function is None else function


def _supported(device: str) -> bool:
    return bool(importlib.import_module("torch._dynamo.utils").is_compile_supported(device))


def _counter(**settings: Any) -> Any:
    return importlib.import_module("torch.utils.flop_counter").FlopCounterMode(**settings)


STAND_INS: dict[str, dict[str, Any]] = {
    "torch._dynamo": {"disable": _plain, "OptimizedModule": OptimizedModule},
    "torch._dynamo.utils": {"is_compile_supported": _supported},
    "torch.utils.flop_counter": {"FlopCounterMode": _counter},
    "scipy.signal": {"hamming": None},
    "matplotlib": {"colors": SimpleNamespace(Colormap=object)},
    "matplotlib.axes": {"Axes": object},
    "matplotlib.pyplot": {"Figure": object, "style": SimpleNamespace(context=lambda style: _plain)},
}


class StandIn(ModuleType):
    """Holds the names used during the import; later, other attributes are looked up in the real module."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or sys.modules.get(self.__name__) is self:
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def stand_ins() -> Iterator[None]:
    """Installs stand-ins for modules that are not loaded, unless their parent is: it would lack the attribute."""
    loaded = {name for name in STAND_INS if name in sys.modules}
    missing = [name for name in STAND_INS if loaded.isdisjoint((name, name.rpartition(".")[0]))]
    for name in missing:
        sys.modules[name] = StandIn(name)
        vars(sys.modules[name]).update(STAND_INS[name])
        parent, _, child = name.rpartition(".")
        if parent in missing:
            setattr(sys.modules[parent], child, sys.modules[name])
    without = "wandb" not in sys.modules  # timm works without it
    if without:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # None: not installed
    try:
        yield
    finally:
        for name in [*missing, *(["wandb"] if without else [])]:
            del sys.modules[name]


@contextmanager
def all_kept() -> Iterator[None]:
    """Turns garbage collection off: imports create hardly any garbage, and collection takes a fifth of their time.

    The command line also exempts the objects that exist at the end from later collections.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if "anomalib_lite.cli" in sys.modules:
            gc.freeze()
        if enabled:
            gc.enable()


# ImportError: another version of a library needs more of a stand-in; it is then imported normally when it is used
with all_kept(), stand_ins(), suppress(ImportError):
    importlib.import_module("torch")
    importlib.import_module("torchvision")
    importlib.import_module("timm")
    importlib.import_module("lightning.pytorch")
