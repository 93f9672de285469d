"""How far one set of images lies from another, by their features: Frechet distance and kernel distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

HALVES = 50  # random halves behind each standard error


@dataclass(frozen=True)
class Estimate:
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
    aa, bb, ab = polynomial_kernel(a, a), polynomial_kernel(b, b), polynomial_kernel(a, b)

    def of_half() -> float:
        i, j = (rng.permutation(len(x))[: len(x) // 2] for x in (a, b))
        return _discrepancy(aa[np.ix_(i, i)], bb[np.ix_(j, j)], ab[np.ix_(i, j)])

    return Estimate(_discrepancy(aa, bb, ab), float(np.std([of_half() for _ in range(HALVES)])))


def polynomial_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, C), (m, C) -> (n, m)."""
    return (a.astype(np.float64) @ b.astype(np.float64).T / a.shape[1] + 1) ** 3


def at_equal_sizes(
    distance: Callable[[np.ndarray, np.ndarray], float],
    generated: np.ndarray,
    real: np.ndarray,
    rng: np.random.Generator,
    repeats: int = 10,
) -> tuple[int, Estimate, Estimate]:
    """Generated against real images, and real ones against real ones, all sets equally large: the second is the
    yardstick of the first.

    Returns the sets' size, and the mean and standard deviation over random choices. Needs four real images and two
    generated ones.
    """
    size = min(len(real) // 2, len(generated))
    to_real, yardstick = [], []
    for _ in range(repeats):
        order = rng.permutation(len(real))
        half, other = real[order[:size]], real[order[size : 2 * size]]
        to_real.append(distance(generated[rng.permutation(len(generated))[:size]], half))
        yardstick.append(distance(half, other))
    return size, *(Estimate(float(np.mean(v)), float(np.std(v))) for v in (to_real, yardstick))


def _discrepancy(aa: np.ndarray, bb: np.ndarray, ab: np.ndarray) -> float:
    return float(_between(aa) + _between(bb) - 2 * ab.mean())


def _between(kernel: np.ndarray) -> float:
    """Mean over pairs of different images."""
    n = len(kernel)
    return (kernel.sum() - np.trace(kernel)) / (n * (n - 1))
