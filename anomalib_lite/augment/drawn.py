"""OK images beside copies of them with drawn defects, for choices that may look at no real one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from anomalib_lite.augment.synthetic import Kind, synthesize
from anomalib_lite.data.images import ImageSet, to_float, to_pixels
from anomalib_lite.data.sample import NOK, OK, UNNUMBERED, Batch


def drawn_batches(
    images: ImageSet,
    tried: Sequence[int],
    count: int,
    rng: np.random.Generator,
    size: int = 16,
    kinds: Sequence[Kind] | None = None,
) -> Iterator[Batch]:
    """The images numbered `tried` as they are, then `count` copies of them with one drawn defect each, with masks.

    size: of the batches. kinds: of the defects, see `synthesize`.
    """
    plain = [(index, False) for index in tried]
    drawn = [(tried[k % len(tried)], True) for k in range(count)]
    for start in range(0, len(plain) + len(drawn), size):
        part = (plain + drawn)[start : start + size]
        batch = images[[index for index, _ in part]]
        pixels = to_pixels(batch.image)
        others = images[rng.choice(tried, len(part)).tolist()]
        textures = to_pixels(others.image)
        for k, (_, defective) in enumerate(part):
            if defective:
                pixels[k], mask = synthesize(pixels[k], textures[k], rng, kinds)
                batch.mask[k, 0] = torch.from_numpy(mask)
                batch.label[k] = NOK if mask.any() else OK
        batch.image, batch.index = to_float(pixels), torch.full_like(batch.index, UNNUMBERED)
        yield batch
