"""What else a trained pyramid does with images: harmonisation, editing, painting, super-resolution, animation.

Shaham et al., ICCV 2019, section 5. Images are uint8 (H, W, 3) RGB; a random generator makes the fine detail.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor

from anomalib_lite.errors import UserError
from anomalib_lite.generators.singan.pyramid import Size, resize, to_pixels, to_tensor
from anomalib_lite.generators.singan.sample import check_start
from anomalib_lite.generators.singan.scales import Pyramid, climb, fixed_noise, last, random_noise

HARMONISE_GROWTH, EDIT_GROWTH, MASK_BLUR = 7, 20, 5.0  # px in an image of 250 px: the mask's, and its blur's sigma


def harmonise(
    pyramid: Pyramid, composite: np.ndarray, mask: np.ndarray, start_scale: int, draw: torch.Generator
) -> np.ndarray:
    """An object pasted into the training image takes on its texture; outside the mask the training image stays.

    composite: of the training image's proportions. mask: bool (H, W), True on the object. start_scale: coarser ones
    change more of the object; from 1.
    """
    return _within(pyramid, _refined(pyramid, composite, start_scale, draw), mask, HARMONISE_GROWTH)


def edit(pyramid: Pyramid, edited: np.ndarray, mask: np.ndarray, start_scale: int, draw: torch.Generator) -> np.ndarray:
    """Regions copied elsewhere within the training image blend in: as `harmonise`, with a wider transition."""
    return _within(pyramid, _refined(pyramid, edited, start_scale, draw), mask, EDIT_GROWTH)


def paint_to_image(pyramid: Pyramid, paint: np.ndarray, start_scale: int, draw: torch.Generator) -> np.ndarray:
    """A flat drawing becomes an image of the training image's texture. start_scale: from 1; coarse ones do best."""
    return to_pixels(_refined(pyramid, paint, start_scale, draw)).numpy()


@torch.no_grad()
def super_resolve(pyramid: Pyramid, factor: float, draw: torch.Generator) -> np.ndarray:
    """The training image `factor` times as large: upsampled in equal steps of about a scale's, the finest generator
    adding detail at each.
    """
    if factor <= 1:
        raise UserError(f"Super-resolution enlarges: the factor must be above 1, but is {factor}.")
    finest = pyramid.scales[-1]
    sizes = _growing(finest.size, factor, _step(pyramid))
    noise = random_noise(draw, pyramid.real.device)
    image = pyramid.real
    for size in sizes:
        image = finest.generator(finest.amplitude * noise(len(pyramid.scales), size), resize(image, size))
    return to_pixels(image).numpy()


@torch.no_grad()
def animate(
    pyramid: Pyramid, frames: int, start_scale: int, draw: torch.Generator, alpha: float = 0.1, beta: float = 0.9
) -> Iterator[np.ndarray]:
    """A random walk of the noise around the fixed one, from `start_scale` on.

    alpha: how strongly each frame is drawn back to the training image. beta: smoothness of the walk.
    """
    check_start(start_scale, len(pyramid.scales))
    fresh, fixed = random_noise(draw, pyramid.real.device), fixed_noise(pyramid)
    rest = [fixed(n, size) for n, size in enumerate(pyramid.sizes)]
    before = rest
    now = [0.95 * z + 0.05 * fresh(n, z.shape[-2:]) for n, z in enumerate(rest)]
    for _ in range(frames):
        after = []
        for n, (home, old, new) in enumerate(zip(rest, before, now, strict=True)):
            step = beta * (new - old) + (1 - beta) * fresh(n, new.shape[-2:])
            after.append(alpha * home + (1 - alpha) * (new + step))
        before, now = now, after
        noises = rest[:start_scale] + now[start_scale:]
        yield to_pixels(last(climb(pyramid.scales, lambda n, _, noises=noises: noises[n]))).numpy()


@torch.no_grad()
def _refined(pyramid: Pyramid, image: np.ndarray, start_scale: int, draw: torch.Generator) -> Tensor:
    """The image, reduced to the scale below `start_scale`, refined from there on."""
    check_start(start_scale, len(pyramid.scales))
    if start_scale == 0:
        raise UserError("start_scale must be 1 or higher: scale 0 takes no image in.")
    given = to_tensor(torch.from_numpy(np.ascontiguousarray(image))).to(pyramid.real.device)
    given = resize(given, pyramid.scales[start_scale - 1].size)
    return last(climb(pyramid.scales, random_noise(draw, pyramid.real.device), start_scale, given))


def _within(pyramid: Pyramid, refined: Tensor, mask: np.ndarray, growth: int) -> np.ndarray:
    """The refined image inside the grown, softened mask, the training image outside."""
    height, width = refined.shape[-2:]
    scale = max(height, width) / 250
    side = 2 * round(growth * scale) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    inside = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    soft = cv2.GaussianBlur(cv2.dilate(inside, disk).astype(np.float32), (0, 0), MASK_BLUR * scale)
    share = torch.from_numpy(soft).to(refined.device)
    return to_pixels((1 - share) * pyramid.real + share * refined).numpy()


def _step(pyramid: Pyramid) -> float:
    """From scale to scale."""
    sizes = pyramid.sizes
    return (max(sizes[-1]) / max(sizes[0])) ** (1 / (len(sizes) - 1))


def _growing(size: Size, factor: float, step: float) -> list[Size]:
    count = max(1, round(math.log(factor) / math.log(step)))
    growths = [factor ** (k / count) for k in range(1, count + 1)]
    return [(round(size[0] * growth), round(size[1] * growth)) for growth in growths]
