"""Measures the quality of generated images, with real images as the baseline: similarity to them, and diversity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from anomalib_lite.backbones.backbone import Backbone, build
from anomalib_lite.data.decode import read_sample, resize_image
from anomalib_lite.data.images import to_float
from anomalib_lite.data.sample import Sample
from anomalib_lite.generators.structure import edge_overlap, luminance_ssim

MOST_IMAGES = 1000  # images used of each set
PAIRS = 200  # pairs of real images whose structure is compared


def measure(
    real: Sequence[Sample],
    generated: Sequence[Sample],
    size: tuple[int, int],
    structure: dict[str, list[float]],
    seed: int,
) -> dict[str, Any]:
    """Returns JSON-ready measures: frechet, kernel, diversity, edge_overlap and ssim; or None, and why in `missing`.

    Distances are relative to the mean square of the real images' features. size: (height, width) to which all images
    are resized. structure: edge_overlap and ssim of the generated images with their content images.
    """
    rng = np.random.default_rng(seed)
    real, generated = ([x[i] for i in sorted(rng.permutation(len(x))[:MOST_IMAGES])] for x in (real, generated))
    net = bundled_backbone()
    (real_pooled, real_apart), (pooled, apart) = [
        extract_features(tqdm(read_all(samples, size), f"measure {kind} images", len(samples), leave=False), net)
        for kind, samples in (("real", real), ("generated", generated))
    ]
    missing: dict[str, str] = {}
    report: dict[str, Any] = {"n_real": len(real), "n_generated": len(generated), "size": list(size)}
    report |= {"missing": missing, **_distances(real_pooled, pooled, rng, missing), "diversity": {}}
    for name, distances in (("generated", apart), ("real", real_apart)):
        report["diversity"][name] = float(distances.mean()) if len(distances) else None
        if not len(distances):
            missing[f"diversity.{name}"] = f"there is only one {name} image"
    return report | _structure(real, size, structure, rng, missing)


def _distances(
    real: np.ndarray, generated: np.ndarray, rng: np.random.Generator, missing: dict[str, str]
) -> dict[str, Any]:
    scale = np.sqrt(np.mean(real**2))  # one factor for all channels, as the kernel has no scale of its own
    a, b = generated / scale, real / scale
    if min(len(a), len(b)) < 4:
        reason = f"needs four images per set; there are {len(b)} real and {len(a)} generated ones"
        missing |= {"frechet": reason, "kernel": reason}
        return {"frechet": None, "kernel": None}
    frechet = {"all": frechet_distance(a, b), **frechet_at_equal_sizes(a, b, rng)}
    value, error = kernel_distance(a, b, rng)
    kernel: dict[str, float | None] = {"generated": value, "generated_se": error, "real": None, "real_se": None}
    if len(b) < 8:
        missing["kernel.real"] = f"the baseline needs eight real images, but there are {len(b)}"
    else:
        order = rng.permutation(len(b))
        kernel["real"], kernel["real_se"] = kernel_distance(b[order[: len(b) // 2]], b[order[len(b) // 2 :]], rng)
    return {"frechet": frechet, "kernel": kernel}


def _structure(
    real: Sequence[Sample],
    size: tuple[int, int],
    measured: dict[str, list[float]],
    rng: np.random.Generator,
    missing: dict[str, str],
) -> dict[str, Any]:
    pairs = (tuple(read_all([real[i], real[j]], size)) for i, j in _pairs(len(real), rng))
    baseline = [(edge_overlap(*pair), luminance_ssim(*pair)) for pair in pairs]
    if not baseline:
        missing["real_pairs"] = "there is only one real image"
    columns = zip(*baseline, strict=True) if baseline else ((), ())
    return {
        name: {
            "generated": float(np.mean(measured[name])),
            "generated_low": float(np.quantile(measured[name], 0.05)),
            "real_pairs": float(np.mean(of_pairs)) if of_pairs else None,
            "real_pairs_low": float(np.quantile(of_pairs, 0.05)) if of_pairs else None,
        }
        for name, of_pairs in zip(("edge_overlap", "ssim"), columns, strict=True)
    }


def _pairs(n: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Returns all pairs of n images, or `PAIRS` random ones if there are more."""
    if n * (n - 1) // 2 <= PAIRS:
        return [(i, j) for i in range(n) for j in range(i)]
    chosen: set[tuple[int, int]] = set()
    while len(chosen) < PAIRS:
        i, j = sorted(rng.choice(n, 2, replace=False).tolist())
        chosen.add((j, i))
    return sorted(chosen)


HALVES = 50  # random halves per standard error
CHOICES = 10  # random subsets per Frechet distance


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Computes the squared Frechet distance of Gaussians fitted to features a, b: (n, C) with at least two rows each.

    For equal distributions it decreases with n, so compare only distances between sets of equal sizes. The trace of the
    covariances' geometric mean is computed as the sum of the singular values of the centred features' product, which
    avoids the root of a singular matrix.
    Source: Heusel et al., NeurIPS 2017.
    """
    centred = [(x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (a.astype(np.float64), b.astype(np.float64))]
    shift = np.sum((a.mean(axis=0, dtype=np.float64) - b.mean(axis=0, dtype=np.float64)) ** 2)
    shared = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    return float(max(0.0, shift + np.sum(centred[0] ** 2) + np.sum(centred[1] ** 2) - 2 * shared))


def kernel_distance(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Computes the unbiased squared maximum mean discrepancy of features a, b, (n, C) with n >= 4, and its error.

    The kernel is (x . y / C + 1)^3. For equal distributions the mean is 0 at any number of images, so values may be
    negative. The standard error is the spread over random halves of both sets (the delete-half jackknife of Shao and
    Wu, Annals of Statistics 1989); for distances near 0 it tends to be too large.
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
    return float(between(aa) + between(bb) - 2 * ab.mean()), float(np.std(halves))


def frechet_at_equal_sizes(generated: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Computes the Frechet distance of generated from real images and, as its baseline, between real images.

    All sets have the same size, `images_each`. Needs four real and two generated images. Returns the mean and the
    standard deviation (`_sd`) of both distances over random subsets.
    """
    size = min(len(real) // 2, len(generated))
    to_real, baseline = [], []
    for _ in range(CHOICES):
        order = rng.permutation(len(real))
        half, other = real[order[:size]], real[order[size : 2 * size]]
        to_real.append(frechet_distance(generated[rng.permutation(len(generated))[:size]], half))
        baseline.append(frechet_distance(half, other))
    result: dict[str, float] = {"images_each": size}
    for name, distances in (("generated", to_real), ("real", baseline)):
        result |= {name: float(np.mean(distances)), f"{name}_sd": float(np.std(distances))}
    return result


BATCH = 8
COMPARED = 64  # images whose pairwise distances are computed


@cache
def bundled_backbone() -> Backbone:
    """Returns EfficientNet-Lite0 with the ImageNet weights of the installed package, with all levels to stride 32."""
    net = build("tf_efficientnet_lite0", (1, 2, 3, 4), "bundled", (0.5,) * 3, (0.5,) * 3)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def extract_features(images: Iterable[np.ndarray], net: Backbone) -> tuple[np.ndarray, np.ndarray]:
    """Extracts the features of images, uint8 (H, W, 3), all of one size: pooled features and perceptual distances.

    The first are (n, C) float64, the last layer averaged over the image. The second are of all pairs of the first
    `COMPARED` images: squared distances of unit feature vectors, averaged over positions and layers, 0 for equal images
    and at most 4. This is LPIPS (Zhang et al., CVPR 2018) without its learned channel weights.
    """
    pooled, directions, remaining = list[Tensor](), list[Tensor](), iter(images)
    while batch := list(islice(remaining, BATCH)):
        features = net(to_float(np.stack(batch)))
        pooled.append(features[-1].double().mean(dim=(2, 3)))
        if len(directions) * BATCH < COMPARED:
            units = [torch.nn.functional.normalize(layer, dim=1, eps=1e-8) for layer in features]
            # scaled so that squared distances are means over positions and layers
            parts = [u.flatten(1) / (u.shape[2] * u.shape[3] * len(units)) ** 0.5 for u in units]
            directions.append(torch.cat(parts, dim=1))
    distances = torch.pdist(torch.cat(directions)[:COMPARED]).square()
    return torch.cat(pooled).numpy(), distances.double().numpy()


def read_all(samples: Sequence[Sample], size: tuple[int, int]) -> Iterable[np.ndarray]:
    return (resize_image(read_sample(sample), *size) for sample in samples)
