"""Measures panel segmentation: products found, corner errors, speed and memory.

    python benchmarks/segment.py [--panels 20] [--large 3] [--threads 1] [--folder DIR]

Renders panels of 2 x 4 products (rotated by up to 3 degrees, light changed by up to 20 %, a tenth of the products
defective) and compares the result of `segment` with their true places. Then compares, on panels of 4000 x 3000 px,
all of `segment` (five angles, alignment, crops) with a plain cv2.matchTemplate at full resolution (one angle, no
alignment), alternating in one process. With --folder, the rendered panels are kept and reused.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from anomalib_lite.data.decode import read_image
from anomalib_lite.registration.cropping import crop, segment
from anomalib_lite.rendering.product import read_truth, write_sheets
from anomalib_lite.settings.data import SegmentOptions, SheetConfig

FOUND_WITHIN = 0.05  # largest distance of a found product's centre from the truth, in product sides


def measure_accuracy(folder: Path) -> dict[str, float]:
    template = read_image(folder / "template.png")
    options = SegmentOptions(max_objects=16)  # twice as many as there are, so that false ones show
    found_count, false_count, true_count, errors = 0, 0, 0, []
    for name, products in read_truth(folder / "truth.json").items():
        truth = np.array([product.corners for product in products])
        found = np.array([product.corners for product in segment(read_image(folder / name), template, options)])
        true_count += len(truth)
        if len(found) == 0:
            continue
        distance = np.linalg.norm(truth.mean(1)[:, None] - found.mean(1)[None], axis=-1)
        near = distance < FOUND_WITHIN * len(template)
        found_count += int(near.any(1).sum())
        false_count += int((~near.any(0)).sum())
        for product in np.flatnonzero(near.any(1)):
            errors += np.linalg.norm(truth[product] - found[distance[product].argmin()], axis=-1).tolist()
    return {
        "products": true_count,
        "found": found_count,
        "false": false_count,
        "median corner error, px": round(statistics.median(errors), 3),
        "95 % corner error, px": round(float(np.quantile(errors, 0.95)), 3),
    }


def measure_speed(folder: Path, threads: int, repeats: int = 3) -> dict[str, float]:
    """Measures in a separate process, so that the peak memory is that of reading and cropping panels."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_speed, (folder, threads, repeats))


def _measure_speed(folder: Path, threads: int, repeats: int) -> dict[str, float]:
    cv2.setNumThreads(threads)
    template = read_image(folder / "template.png")
    grey_template = cv2.cvtColor(template, cv2.COLOR_RGB2GRAY)
    before = _peak_mb()
    panels = sorted((folder / "panels").glob("*.png"))
    times = defaultdict(list)
    for _ in range(repeats):
        for path in panels:
            panel = read_image(path)
            start = time.perf_counter()
            products = segment(panel, template, SegmentOptions())
            times["segment"].append(time.perf_counter() - start)
            start = time.perf_counter()
            for product in products:
                crop(panel, product)
            times["crops"].append(time.perf_counter() - start)
    peak = _peak_mb()
    for _ in range(repeats):
        for path in panels:
            panel = read_image(path)
            start = time.perf_counter()
            segment(panel, template, SegmentOptions())
            times["segment, alternating"].append(time.perf_counter() - start)
            start = time.perf_counter()
            grey = cv2.cvtColor(panel, cv2.COLOR_RGB2GRAY)
            cv2.matchTemplate(grey, grey_template, cv2.TM_CCOEFF_NORMED)
            times["plain"].append(time.perf_counter() - start)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {
        "segment, s per panel": round(seconds["segment"], 4),
        "crops, s per panel": round(seconds["crops"], 4),
        "plain matchTemplate, s per panel": round(seconds["plain"], 4),
        "times faster than plain": round(seconds["plain"] / seconds["segment, alternating"], 1),
        "peak memory, MB": round(peak),
        "of that before the first panel, MB": round(before),
    }


def _peak_mb() -> float:
    """Returns this process's peak resident memory; on Linux, getrusage would include the parent's."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", type=int, default=20, help="number of panels of 1600 x 1200 px for accuracy")
    parser.add_argument("--large", type=int, default=3, help="number of panels of 4000 x 3000 px for speed")
    parser.add_argument("--threads", type=int, default=1, help="OpenCV's threads in the timing")
    parser.add_argument("--folder", type=Path, help="folder to keep the rendered panels in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = arguments.folder or Path(temporary)
        small = write_sheets(base / f"small-{arguments.panels}", arguments.panels, SheetConfig())
        large_config = SheetConfig(width=4000, height=3000)
        large = write_sheets(base / f"large-{arguments.large}", arguments.large, large_config, seed=1)
        result = {
            "machine": f"{platform.machine()}, {arguments.threads} thread(s), OpenCV {cv2.__version__}",
            "1600 x 1200": measure_accuracy(small),
            "4000 x 3000": measure_speed(large, arguments.threads),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
