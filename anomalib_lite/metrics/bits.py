"""Anomaly maps as histogram bins over the bits of their float32 values.

The bits of a non-negative float32, read as an integer, rise with its value. Their upper 20 bits (8 of
exponent, 12 of mantissa) make 2^20 bins whose width is 1/4096 of the value or less at every magnitude from
1e-38 up, so a map that was scaled or raised to a power keeps its resolution, and float16 and bfloat16 values
each keep a bin of their own. Average precision comes out about 0.0001 too low (0.001 with 16 bits); AUROC
and AUPRO are closer. Maps that are a small signal on a large constant lose more: subtract the constant.
"""

from __future__ import annotations

import numpy as np

from anomalib_lite.errors import UserError
from anomalib_lite.metrics.batches import Array, to_numpy

SHIFT = 11
BINS = 1 << (31 - SHIFT)
_LARGEST_FINITE = 0x7F7FFFFF


def float_bits(maps: Array) -> np.ndarray:
    """Bits of every pixel as uint32, of the maps' shape; float32 maps are checked, not copied.

    Raises UserError unless every pixel is finite and >= 0.
    """
    values = to_numpy(maps).astype(np.float32, copy=False)
    bits = np.ascontiguousarray(values).view(np.uint32)
    if bits.size and bits.max() > _LARGEST_FINITE:  # NaN, infinity or a sign bit
        _refuse_bad(values)
        bits = np.abs(values).view(np.uint32)  # only -0.0 is left
    return bits


def to_bins(bits: np.ndarray) -> np.ndarray:
    """Bin in [0, BINS) of each float, as the index type."""
    return (bits >> SHIFT).astype(np.intp)


def lower_edge(index: int) -> float:
    """Smallest value that falls into a bin."""
    return float(np.array(index << SHIFT, np.uint32).view(np.float32))


def just_below(index: int) -> float:
    """Largest value below a bin: `value > just_below(i)` holds for the bins i and above, and for no other."""
    return float(np.nextafter(np.float32(lower_edge(index)), np.float32(-np.inf)))


def _refuse_bad(values: np.ndarray) -> None:
    problems = {
        "NaN": np.isnan(values).sum(),
        "infinite": np.isinf(values).sum(),
        "negative": (values < 0).sum(),
    }
    found = ", ".join(f"{count} {name}" for name, count in problems.items() if count)
    if found:
        raise UserError(
            f"An anomaly map holds bad pixels ({found}, of {values.size}). Maps must be finite and >= 0: NaN "
            "or infinite values mean that the training has diverged (lower the learning rate), negative ones "
            "that the detector must shift or square its distance."
        )
