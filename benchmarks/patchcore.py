"""Measures PatchCore's memory on many images, and compares its coreset with random patches.

    python benchmarks/patchcore.py memory [--images 2000] [--size 256] [--limit-mb 4000]
    python benchmarks/patchcore.py coreset --root MVTEC_AD [--category bottle] [--sizes 500 2000 8000] [--seeds 3]
    python benchmarks/patchcore.py greedy [--rows 170000] [--count 1700]

memory: the process's peak resident memory while it decodes synthetic images, fits the bank and predicts a batch, with
the default settings and the malloc settings of the command line.
coreset: the greedy coreset and random patches of the same number, from the same candidates: image AUROC, pixel AUROC
and AUPRO on the test images and on synthetic defects in held-out OK images, and the seconds to choose.
greedy: seconds for the first choices of the blocked algorithm and of the plain one, which goes through all rows after
each choice; checks that both choose the same rows.
All on one thread.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from tqdm import tqdm

from anomalib_lite.augment.synthetic import drawn_batches
from anomalib_lite.augment.tta import TestTimeAugmentation, View
from anomalib_lite.backbones import build
from anomalib_lite.cli import MALLOC
from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.layouts import mvtec_ad
from anomalib_lite.data.sample import OK, Batch, Sample
from anomalib_lite.detectors.coreset import gather_candidates, greedy_centres, random_projection
from anomalib_lite.detectors.model import Model
from anomalib_lite.detectors.patchcore import PatchCore
from anomalib_lite.metrics import ImageMetrics, PixelMetrics
from anomalib_lite.scoring import GaussianBlur, MaxScore

CRITERIA = ("image_auroc", "pixel_auroc", "aupro")


def detector(**options: object) -> Model:
    def backbone() -> torch.nn.Module:
        return build("tf_efficientnet_lite0", weights="bundled", mean=[0.5] * 3, std=[0.5] * 3)

    method = PatchCore(backbone, levels=[1, 2], **options)
    return Model(method, TestTimeAugmentation(), GaussianBlur(4.0), MaxScore()).eval()


def write_images(folder: Path, count: int, size: int) -> list[Sample]:
    """Writes images with blobs, stripes and noise, all different."""

    def write(index: int) -> Sample:
        rng = np.random.default_rng(index)
        coarse = rng.integers(60, 200, (8, 8, 3), np.uint8)
        pixels = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        pixels += (20 * (np.arange(size) // 8 % 2)).astype(np.int16)[:, None]
        pixels += rng.integers(-8, 9, pixels.shape, np.int16)
        path = folder / f"{index:05d}.jpg"
        cv2.imwrite(str(path), np.clip(pixels, 0, 255).astype(np.uint8))
        return Sample(path, OK)

    with ThreadPoolExecutor(1) as pool:
        return list(tqdm(pool.map(write, range(count)), "write images", count, leave=False))


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def measure_memory(images: int, size: int, limit_mb: float) -> dict[str, object]:
    before = peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        decoded_set = ImageSet(write_images(Path(folder), images, size), (size, size))
        decoded, model, begin = peak_mb(), detector(), time.perf_counter()
        model.calibrate(loader(decoded_set, 16))
        seconds = time.perf_counter() - begin
        model.predict_batch(decoded_set[list(range(min(16, images)))])
    peak = peak_mb()
    return {
        "images": f"{images} of {size} x {size}",
        **model.method.notes,
        "MB before": round(before),
        "MB at most, images decoded": round(decoded),
        "MB at most": round(peak),
        "limit kept": peak < limit_mb,
        "seconds to fit": round(seconds, 1),
    }


def measured(model: Model, batches: list[Batch]) -> list[float]:
    by_image, by_pixel = ImageMetrics(), PixelMetrics()
    for batch in batches:
        maps, score = model.predict_batch(batch)
        by_image.update(score, batch.label.tolist())
        by_pixel.update(maps, batch.mask, batch.label.tolist())
    values = by_image.compute().values | by_pixel.compute().values
    return [values[key] for key in CRITERIA]


def measure_coreset(root: Path, category: str, sizes: list[int], seeds: int) -> list[dict[str, object]]:
    splits = mvtec_ad(root, category)
    train, val, test = (ImageSet(samples, (256, 256), name=name) for name, samples in splits)
    drawn = drawn_batches(val, range(len(val)), 160, np.random.default_rng(0))
    sets = {"test": list(loader(test, 16)), "drawn": list(drawn)}
    model, table = detector(), []
    method = model.method
    with torch.inference_mode():
        views = [(View(), 0.0)]
        candidates = gather_candidates(
            loader(train, 16), method._extract, views, 1024, torch.Generator().manual_seed(0)
        )
    for size in sizes:
        for coreset in ("greedy", "random"):
            seconds, results = [], {name: [] for name in sets}
            for seed in tqdm(range(seeds), f"{coreset}, {size} patches", leave=False):
                method.coreset, method.size, begin = coreset, size, time.perf_counter()
                patches = method._select(torch.Generator().manual_seed(seed), candidates)
                seconds.append(time.perf_counter() - begin)
                method.banks[0].store(patches, candidates)
                for name, batches in sets.items():
                    results[name].append(measured(model, batches))
            means = {name: np.round(np.mean(values, 0), 4).tolist() for name, values in results.items()}
            table.append({"patches": size, "chosen": coreset, "seconds": round(statistics.median(seconds), 2), **means})
    return table


def measure_greedy(rows: int, count: int, dimensions: int = 64) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    clusters = torch.randn(200, 152, generator=generator)
    patches = clusters[torch.randint(0, 200, (rows,), generator=generator)]
    patches = random_projection(patches + 0.5 * torch.randn(rows, 152, generator=generator), dimensions, generator)
    begin = time.perf_counter()
    chosen = greedy_centres(patches, count)
    blocks = time.perf_counter() - begin
    begin, plain = time.perf_counter(), [0]
    nearest = torch.full((rows,), torch.inf)
    for _ in tqdm(range(count - 1), "plain greedy", leave=False):
        torch.minimum(nearest, (patches - patches[plain[-1]]).square().sum(1), out=nearest)
        plain.append(int(nearest.argmax()))
    return {
        "rows": rows,
        "chosen": count,
        "seconds in blocks": round(blocks, 2),
        "seconds plain": round(time.perf_counter() - begin, 2),
        "alike": sum(a == b for a, b in zip(chosen.tolist(), plain, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    memory = verbs.add_parser("memory")
    memory.add_argument("--images", type=int, default=2000)
    memory.add_argument("--size", type=int, default=256)
    memory.add_argument("--limit-mb", type=float, default=4000)
    coreset = verbs.add_parser("coreset")
    coreset.add_argument("--root", type=Path, required=True, help="folder of the categories")
    coreset.add_argument("--category", default="bottle")
    coreset.add_argument("--sizes", type=int, nargs="+", default=[500, 2000, 8000])
    coreset.add_argument("--seeds", type=int, default=3)
    greedy = verbs.add_parser("greedy")
    greedy.add_argument("--rows", type=int, default=170_000)
    greedy.add_argument("--count", type=int, default=1700)
    options = vars(parser.parse_args())
    torch.set_num_threads(1)
    verb = options.pop("verb")
    result = {"memory": measure_memory, "coreset": measure_coreset, "greedy": measure_greedy}[verb](**options)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    if not any(key in os.environ for key in MALLOC):  # glibc reads them at process start
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=os.environ | MALLOC, check=False).returncode)
    main()
