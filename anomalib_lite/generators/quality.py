"""What generated images are worth, in numbers beside those of real images: near them, and different from each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from anomalib_lite.backbones.backbone import Backbone, build
from anomalib_lite.data.decode import read_image, resize_image
from anomalib_lite.data.images import to_float
from anomalib_lite.generators.structure import edge_overlap, luminance_ssim

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
    ours, theirs = [
        look_at(tqdm(read_all(paths, size), f"measure {what} images", len(paths), leave=False), net)
        for what, paths in (("real", real), ("generated", generated))
    ]
    report: dict[str, Any] = {"n_real": len(real), "n_generated": len(generated), "size": list(size), "missing": {}}
    report |= _distances(ours, theirs, rng, report["missing"])
    for name, images in (("generated", theirs), ("real", ours)):
        report.setdefault("diversity", {})[name] = float(images.apart.mean()) if len(images.apart) else None
        if not len(images.apart):
            report["missing"][f"diversity.{name}"] = f"there is but one {name} image"
    return report | _structure(real, size, structure, rng, report["missing"])


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
    n, ours, yardstick = frechet_at_equal_sizes(a, b, rng)
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


HALVES = 50  # random halves behind each standard error
CHOICES = 10  # random choices of sets of one size


class Estimate(NamedTuple):
    value: float
    error: float


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians with the features' means and covariances.

    a, b: (n, C) with at least two rows each. It falls with n for one and the same distribution, so compare only
    distances between sets of equal sizes. The trace of the covariances' geometric mean is the sum of the singular
    values of the centred features' product, which needs no root of a singular matrix.
    Source: Heusel et al., NeurIPS 2017.
    """
    centred = [(x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (a.astype(np.float64), b.astype(np.float64))]
    shift = np.sum((a.mean(axis=0, dtype=np.float64) - b.mean(axis=0, dtype=np.float64)) ** 2)
    shared = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    return float(max(0.0, shift + np.sum(centred[0] ** 2) + np.sum(centred[1] ** 2) - 2 * shared))


def kernel_distance(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> Estimate:
    """Unbiased squared maximum mean discrepancy under the kernel (x . y / C + 1)^3, which is 0 on average for one
    distribution whatever the number of images; values below 0 happen.

    a, b: (n, C) with at least four rows each. The standard error is the spread over random halves of both sets (the
    delete-half jackknife of Shao and Wu, Annals of Statistics 1989); near 0, where the estimate falls faster than its
    halves tell, it errs on the large side.
    Source: Binkowski et al., ICLR 2018.
    """
    pairs, f64 = ((a, a), (b, b), (a, b)), np.float64
    aa, bb, ab = ((x.astype(f64) @ y.astype(f64).T / x.shape[1] + 1) ** 3 for x, y in pairs)

    def between(kernel: np.ndarray) -> float:  # mean over pairs of different images
        return (kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1))

    halves = []
    for _ in range(HALVES):
        i, j = (rng.permutation(len(x))[: len(x) // 2] for x in (a, b))
        halves.append(between(aa[np.ix_(i, i)]) + between(bb[np.ix_(j, j)]) - 2 * ab[np.ix_(i, j)].mean())
    return Estimate(float(between(aa) + between(bb) - 2 * ab.mean()), float(np.std(halves)))


def frechet_at_equal_sizes(
    generated: np.ndarray, real: np.ndarray, rng: np.random.Generator
) -> tuple[int, Estimate, Estimate]:
    """Generated against real images, and real ones against real ones, all sets equally large: the second is the
    yardstick of the first.

    Returns the sets' size, and the mean and standard deviation over random choices. Needs four real images and two
    generated ones.
    """
    size = min(len(real) // 2, len(generated))
    to_real, yardstick = [], []
    for _ in range(CHOICES):
        order = rng.permutation(len(real))
        half, other = real[order[:size]], real[order[size : 2 * size]]
        to_real.append(frechet_distance(generated[rng.permutation(len(generated))[:size]], half))
        yardstick.append(frechet_distance(half, other))
    of_generated, of_real = (Estimate(float(np.mean(v)), float(np.std(v))) for v in (to_real, yardstick))
    return size, of_generated, of_real


BATCH = 8
COMPARED = 64  # images whose distances between each other are taken


class SeenImages(NamedTuple):
    """pooled: (n, C) float64, the last layer's mean over the image. apart: perceptual distances of all pairs among the
    first `COMPARED` images: squared, between unit feature vectors, averaged over positions and layers; 0 for equal
    images, at most 4. As LPIPS (Zhang et al., CVPR 2018) without its learned channel weights.
    """

    pooled: np.ndarray
    apart: np.ndarray


@cache
def bundled_backbone() -> Backbone:
    """EfficientNet-Lite0 with the ImageNet weights that the installation brings, all levels to stride 32."""
    net = build("tf_efficientnet_lite0", (1, 2, 3, 4), "bundled", (0.5,) * 3, (0.5,) * 3)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def look_at(images: Iterable[np.ndarray], net: Backbone) -> SeenImages:
    """images: uint8 (H, W, 3) of one size."""
    pooled: list[Tensor] = []
    directions: list[Tensor] = []
    rest = iter(images)
    while batch := list(islice(rest, BATCH)):
        features = net(to_float(np.stack(batch)))
        pooled.append(features[-1].double().mean(dim=(2, 3)))
        if len(directions) * BATCH < COMPARED:
            units = [torch.nn.functional.normalize(layer, dim=1, eps=1e-8) for layer in features]
            # scaled so that squared distances are the means over positions and layers
            parts = [u.flatten(1) / (u.shape[2] * u.shape[3] * len(units)) ** 0.5 for u in units]
            directions.append(torch.cat(parts, dim=1))
    apart = torch.pdist(torch.cat(directions)[:COMPARED]).square()
    return SeenImages(torch.cat(pooled).numpy(), apart.double().numpy())


def read_all(paths: Sequence[Path], size: tuple[int, int]) -> Iterable[np.ndarray]:
    return (resize_image(read_image(path), *size) for path in paths)
