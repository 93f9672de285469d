"""The ten defects the renderer can draw, by name.

Each entry makes a Flaw from a random generator, a severity in [0, 1] and the perfect layout. It draws the
same random numbers whatever the severity, so that one seed gives one defect that grows with it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anomalib_lite.rendering.flaws import printing, structure, surface
from anomalib_lite.rendering.flaws.base import NO_FLAW, Flaw
from anomalib_lite.rendering.layout import Layout

DEFECTS: dict[str, Callable[[np.random.Generator, float, Layout], Flaw]] = {
    "print_blurred": printing.blurred,
    "print_smeared": printing.smeared,
    "print_missing": printing.missing,
    "structure_broken": structure.broken,
    "structure_bent": structure.bent,
    "structure_missing": structure.missing,
    "structure_extra": structure.extra,
    "scratch": surface.scratch,
    "stain": surface.stain,
    "wrong_color": surface.wrong_color,
}

__all__ = ["DEFECTS", "NO_FLAW", "Flaw"]
