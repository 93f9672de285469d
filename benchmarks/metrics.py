"""Compares pixel metrics from histograms with exact ones from sorting, on the same maps and one thread.

    python benchmarks/metrics.py [--images 400] [--size 256] [--repeats 3]

Measures for each the CPU time (which other processes hardly disturb) to update with all maps, batch by batch, and to
compute AUROC, average precision and AUPRO (the shortest of the repeats; the exact ones, which take seconds, run once),
the memory kept between batches, and the results. The exact variant keeps all maps and sorts their pixels once. The maps
are smooth gamma noise, three quarters of them with defects of 1 to 5 regions.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from anomalib_lite.metrics import PixelMetrics

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
    return {name: values[name] for name in names}, metrics.total().pixels.nbytes


def exact(maps: np.ndarray, masks: np.ndarray) -> tuple[dict[str, float], int]:
    """Computes the metrics exactly; argsorts only the defect pixels, and searches in the sorted OK pixels."""
    weights = np.zeros(maps.shape, np.float32)
    for mask, weight in zip(masks, weights, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        if count:
            weight[mask] = (1 / np.bincount(labels.ravel()))[labels[mask]]
    ok, defect = np.sort(maps[~masks]), maps[masks]
    order = np.argsort(-defect)
    starts = np.flatnonzero(np.append(True, np.diff(defect[order]) != 0))
    values, tied = defect[order][starts], np.diff(np.append(starts, len(order)))
    overlap = np.cumsum(np.add.reduceat(weights[masks][order], starts, dtype=np.float64))
    above = len(ok) - np.searchsorted(ok, values, side="right")
    reached = len(ok) - np.searchsorted(ok, values, side="left")
    found = np.cumsum(tied)
    results = {
        "pixel_auroc": 1 - np.dot(tied, (above + reached) / 2) / (len(ok) * len(defect)),
        "pixel_ap": np.dot(tied, found / (found + reached)) / len(defect),
        "aupro": area(above / len(ok), reached / len(ok), overlap / overlap[-1], 0.3),
    }
    return results, maps.nbytes + masks.nbytes


def area(above: np.ndarray, reached: np.ndarray, pro: np.ndarray, limit: float) -> float:
    """Computes the area under the curve that is constant up to each `above` and then linear to (reached, pro)."""
    rate = np.append(0, np.column_stack([above, reached]).ravel())
    height = np.append(0, np.column_stack([np.append(0, pro[:-1]), pro]).ravel())
    rate, height = np.append(rate, 1), np.append(height, 1)
    last = np.searchsorted(rate, limit, side="right")
    share = (limit - rate[last - 1]) / (rate[last] - rate[last - 1])
    cut = height[last - 1] + share * (height[last] - height[last - 1])
    return float(np.trapezoid(np.append(height[:last], cut), np.append(rate[:last], limit)) / limit)


def timed(metric, maps, masks, repeats):
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        values, kept = metric(maps, masks)
        seconds.append(time.process_time() - start)
    return min(seconds), values, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    maps, masks = draw(options.images, options.size)
    seconds, values, kept = timed(from_histograms, maps, masks, options.repeats)
    slow_seconds, slow_values, slow_kept = timed(exact, maps, masks, 1)
    print(f"{options.images} maps of {options.size} x {options.size}")
    print(f"{'':14}{'histogram':>12}{'exact':>12}{'ratio / difference':>22}")
    print(f"{'CPU seconds':14}{seconds:12.3f}{slow_seconds:12.3f}{slow_seconds / seconds:21.1f}x")
    print(f"{'MiB kept':14}{kept / 2**20:12.1f}{slow_kept / 2**20:12.1f}{slow_kept / kept:21.1f}x")
    for name, value in values.items():
        print(f"{name:14}{value:12.6f}{slow_values[name]:12.6f}{value - slow_values[name]:22.1e}")


if __name__ == "__main__":
    main()
