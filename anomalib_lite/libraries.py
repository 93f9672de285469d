"""The networks' libraries, without what they load on the way and nobody here has asked for yet.

On a quiet core torch's compiler takes 1.2 s and 145 MB, scipy.signal and matplotlib 0.8 s and 60 MB, in every command
that sees an image: torchvision, timm and Lightning load the one for decorators, torchmetrics the others for a patch of
a name that nobody uses and for types, and Lightning's count of operations brings Triton (0.3 s, 70 MB). While the
libraries are imported, stand-ins answer for them; whoever needs the real ones imports them then.
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
    """As Lightning asks whether a module was compiled."""


def _plain(function: Any = None, *settings: Any, **more: Any) -> Any:
    """In place of what keeps a function from being compiled."""
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
    """Knows what is asked while it stands in; whoever keeps it finds the rest in the real module afterwards."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or sys.modules.get(self.__name__) is self:
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def stand_ins() -> Iterator[None]:
    """Those of modules that are not loaded, nor part of one that is: it would not know of a stand-in."""
    loaded = {name for name in STAND_INS if name in sys.modules}
    missing = [name for name in STAND_INS if loaded.isdisjoint((name, name.rpartition(".")[0]))]
    for name in missing:
        sys.modules[name] = StandIn(name)
        vars(sys.modules[name]).update(STAND_INS[name])
        parent, _, child = name.rpartition(".")
        if parent in missing:
            setattr(sys.modules[parent], child, sys.modules[name])
    without = "wandb" not in sys.modules  # timm can do without it
    if without:
        sys.modules["wandb"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in [*missing, *(["wandb"] if without else [])]:
            del sys.modules[name]


@contextmanager
def all_kept() -> Iterator[None]:
    """Imports leave hardly any garbage, and looking for it takes a fifth of their time. A command does not look through
    what it has made until then later, either.
    """
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if "anomalib_lite.cli" in sys.modules:
            gc.freeze()
        if looking:
            gc.enable()


# an ImportError: a library of another version asks a stand-in for more; it comes in full where it is used
with all_kept(), stand_ins(), suppress(ImportError):
    importlib.import_module("torch")
    importlib.import_module("torchvision")
    importlib.import_module("timm")
    importlib.import_module("lightning.pytorch")
