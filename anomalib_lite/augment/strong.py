"""Changes strong enough that an OK image no longer looks like one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomalib_lite.augment.seeds import torch_seed

SHARE = 0.5  # probability of each change; all are skipped for one image in 32


def strongly_changed(image: Tensor, seed: int) -> Tensor:
    """Copies in other colours, turned and sheared, blurred, noisy, with a part erased; drawn for each image.

    image: (B, 3, H, W) in [0, 1]; returns the like. The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed))
        return _changes()(image).clamp(0, 1)


def _changes() -> nn.Module:
    import kornia.augmentation as K  # seconds

    return K.AugmentationSequential(
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=SHARE),
        K.RandomAffine(15.0, (0.1, 0.1), (0.85, 1.15), 10.0, padding_mode="reflection", p=SHARE),
        K.RandomGaussianBlur((7, 7), (1.0, 2.0), p=SHARE),
        K.RandomGaussianNoise(std=0.05, p=SHARE),
        K.RandomErasing((0.02, 0.15), (0.3, 3.3), value=0.5, p=SHARE),
        data_keys=["input"],
    )
