"""Pixel metrics from histograms against exact ones from sorting, on the same maps, in one run and one thread.

    python benchmarks/metrics.py [--images 400] [--size 256] [--repeats 3]

Measured for each: wall-clock time of updating with all maps, batch by batch, and of computing AUROC, average
precision and AUPRO (shortest of the repeats; the exact ones, which take seconds, run once), the memory kept
between batches, and the results. The exact side sorts all pixels once and takes all metrics from that order.
Maps are smooth gamma noise, three quarters with defects of 1 to 5 regions.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from anomalib_lite.metrics import PixelMetrics
from anomalib_lite.metrics.curves import aupro, auroc, average_precision

BATCH = 16


def draw(images: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, size, size), bool)
    maps = np.empty((images, size, size), np.float32)
    for index in tqdm(range(images), desc="drawing maps", leave=False):
        for _ in range(rng.integers(1, 6) if index >= images // 4 else 0):
            y, x = rng.integers(0, size - 2, 2)
            h, w = rng.integers(2, size // 6, 2)
            masks[index, y : y + h, x : x + w] = True
        lifted = rng.gamma(2, 0.01, (size, size)) * (1 + 0.5 * masks[index])
        maps[index] = ndimage.gaussian_filter(lifted, 2)
    return maps, masks


def from_histograms(maps: np.ndarray, masks: np.ndarray) -> tuple[dict[str, float], int]:
    metrics = PixelMetrics()
    for start in range(0, len(maps), BATCH):
        metrics.update(maps[start : start + BATCH], masks[start : start + BATCH])
    values = metrics.compute().values
    names = ("pixel_auroc", "pixel_ap", "aupro")
    return {name: values[name] for name in names}, metrics.histograms.nbytes


def exact(maps: np.ndarray, masks: np.ndarray) -> tuple[dict[str, float], int]:
    weights = np.zeros(maps.shape)
    for mask, weight in zip(masks, weights, strict=True):
        labels, found = ndimage.label(mask, structure=np.ones((3, 3)))
        if found:
            weight[mask] = (1 / np.bincount(labels.ravel()))[labels[mask]]
    order = np.argsort(maps, axis=None)
    values, labels = maps.ravel()[order], masks.ravel()[order]
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    ok, nok = (np.add.reduceat(part.astype(np.int64), starts) for part in (~labels, labels))
    overlap = np.add.reduceat(weights.ravel()[order], starts)
    results = auroc(ok, nok), average_precision(ok, nok), aupro(ok, overlap, 0.3)
    return dict(zip(("pixel_auroc", "pixel_ap", "aupro"), results, strict=True)), maps.nbytes + masks.nbytes


def timed(metric, maps, masks, repeats):
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        values, kept = metric(maps, masks)
        seconds.append(time.perf_counter() - start)
    return min(seconds), values, kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    maps, masks = draw(options.images, options.size)
    seconds, values, kept = timed(from_histograms, maps, masks, options.repeats)
    slow_seconds, slow_values, slow_kept = timed(exact, maps, masks, 1)
    print(f"{options.images} maps of {options.size} x {options.size}")
    print(f"{'':14}{'histogram':>12}{'exact':>12}{'ratio / difference':>22}")
    print(f"{'seconds':14}{seconds:12.3f}{slow_seconds:12.3f}{slow_seconds / seconds:21.1f}x")
    print(f"{'MiB kept':14}{kept / 2**20:12.1f}{slow_kept / 2**20:12.1f}{slow_kept / kept:21.1f}x")
    for name, value in values.items():
        print(f"{name:14}{value:12.6f}{slow_values[name]:12.6f}{value - slow_values[name]:22.1e}")


if __name__ == "__main__":
    main()
