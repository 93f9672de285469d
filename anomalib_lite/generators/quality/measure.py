"""The quality of generated images in numbers, each beside what real images give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from anomalib_lite.generators.quality.distances import at_equal_sizes, frechet_distance, kernel_distance
from anomalib_lite.generators.quality.features import SeenImages, bundled_backbone, look_at, read_all
from anomalib_lite.generators.quality.structure import edge_overlap, luminance_ssim

MOST_IMAGES = 1000  # of a set that are looked at
PAIRS = 200  # of real images whose structure is compared


def measure(
    real: Sequence[Path], generated: Sequence[Path], size: tuple[int, int], structure: dict[str, list[float]], seed: int
) -> dict[str, Any]:
    """JSON-ready: frechet, kernel, diversity, edge_overlap, ssim; what cannot be measured is None, `missing` says why.

    real: OK images. generated: files of the images that are kept; their edge_overlap and ssim with their content images
    are in `structure`. size: (height, width) to which all are brought. Distances are in units of the real features'
    mean square.
    """
    rng = np.random.default_rng(seed)
    real, generated = ([x[i] for i in sorted(rng.permutation(len(x))[:MOST_IMAGES])] for x in (real, generated))
    net = bundled_backbone()
    bar = tqdm(total=len(real) + len(generated), desc="measure quality", unit="image", leave=False)
    sets = []
    for paths in (real, generated):
        sets.append(look_at(_counted(read_all(paths, size), bar), net))
    bar.close()
    report: dict[str, Any] = {"n_real": len(real), "n_generated": len(generated), "size": list(size), "missing": {}}
    report |= _distances(*sets, rng, report["missing"])
    report["diversity"] = _diversity(*sets, report["missing"])
    return report | _structure(real, size, structure, rng, report["missing"])


def _counted(images: Any, bar: tqdm) -> Any:
    for image in images:
        yield image
        bar.update()


def _distances(
    real: SeenImages, generated: SeenImages, rng: np.random.Generator, missing: dict[str, str]
) -> dict[str, Any]:
    scale = np.sqrt(np.mean(real.pooled**2))  # one number: the kernel has none of its own
    a, b = generated.pooled / scale, real.pooled / scale
    result: dict[str, Any] = {"frechet": None, "kernel": None}
    if min(len(a), len(b)) < 4:
        few = f"needs four images a set; there are {len(b)} real and {len(a)} generated ones"
        missing |= {"frechet": few, "kernel": few}
        return result
    n, ours, yardstick = at_equal_sizes(frechet_distance, a, b, rng)
    result["frechet"] = {
        "all": frechet_distance(a, b),
        "images_each": n,
        "generated": ours.value,
        "generated_sd": ours.error,
        "real": yardstick.value,
        "real_sd": yardstick.error,
    }
    distance = kernel_distance(a, b, rng)
    result["kernel"] = {"generated": distance.value, "generated_se": distance.error, "real": None, "real_se": None}
    if len(b) < 8:
        missing["kernel.real"] = f"the yardstick needs eight real images, and there are {len(b)}"
        return result
    order = rng.permutation(len(b))
    halves = kernel_distance(b[order[: len(b) // 2]], b[order[len(b) // 2 :]], rng)
    result["kernel"] |= {"real": halves.value, "real_se": halves.error}
    return result


def _diversity(real: SeenImages, generated: SeenImages, missing: dict[str, str]) -> dict[str, float | None]:
    values = {name: float(s.apart.mean()) if len(s.apart) else None for name, s in _named(real, generated)}
    for name, value in values.items():
        if value is None:
            missing[f"diversity.{name}"] = f"there is but one {name} image"
    return values


def _structure(
    real: Sequence[Path],
    size: tuple[int, int],
    measured: dict[str, list[float]],
    rng: np.random.Generator,
    missing: dict[str, str],
) -> dict[str, Any]:
    pairs = _pairs(len(real), rng)
    yardsticks: dict[str, list[float]] = {"edge_overlap": [], "ssim": []}
    for i, j in pairs:
        one, other = read_all([real[i], real[j]], size)
        yardsticks["edge_overlap"].append(edge_overlap(one, other))
        yardsticks["ssim"].append(luminance_ssim(one, other))
    if not pairs:
        missing["real_pairs"] = "there is but one real image"
    return {
        name: {
            "generated": float(np.mean(values)),
            "generated_low": float(np.quantile(values, 0.05)),
            "real_pairs": float(np.mean(yardsticks[name])) if pairs else None,
            "real_pairs_low": float(np.quantile(yardsticks[name], 0.05)) if pairs else None,
        }
        for name, values in measured.items()
    }


def _pairs(n: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Different pairs of different images, at most `PAIRS`."""
    if n * (n - 1) // 2 <= PAIRS:
        return [(i, j) for i in range(n) for j in range(i)]
    chosen: set[tuple[int, int]] = set()
    while len(chosen) < PAIRS:
        i, j = sorted(rng.choice(n, 2, replace=False).tolist())
        chosen.add((j, i))
    return sorted(chosen)


def _named(real: SeenImages, generated: SeenImages) -> list[tuple[str, SeenImages]]:
    return [("generated", generated), ("real", real)]
