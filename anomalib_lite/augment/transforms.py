"""Random changes of training batches, by kornia's transforms."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from anomalib_lite.data.sample import UNNUMBERED, Batch
from anomalib_lite.errors import UserError


class Augment(nn.Module):
    """Changes of geometry move image, mask and template of a batch together; changes of colour see the image alone.

    Which is which, kornia's base classes tell: `IntensityAugmentationBase2D` changes the image, any other
    `AugmentationBase2D` moves it. A transform of one's own derives from one of them.
    """

    def __init__(
        self,
        transforms: Sequence[nn.Module] = (),
        restyle: float = 0.0,
        weight: float = 1.0,
        seed: int = 0,
        restyler: Callable[[Tensor, float], Tensor] | None = None,
    ) -> None:
        """Args:
        transforms: Applied in this order.
        restyle: Probability that an image gets another colour and light from `restyler`, before the transforms.
        weight: Factor of a changed image's weight in the loss.
        seed: With the training step it decides every change, so that a training that goes on after an
            interruption sees what it would have seen.
        restyler: A trained generator's: images (B, 3, H, W) in [0, 1] and the probability -> as many images.
        """
        super().__init__()
        for transform in transforms:
            _check(transform)
        self.transforms, self.restyle, self.weight, self.seed = nn.ModuleList(transforms), restyle, weight, seed
        self.restyler = restyler

    @property
    def active(self) -> bool:
        return bool(self.transforms or self.restyle)

    @torch.no_grad()
    def forward(self, batch: Batch, step: int, part: int = 0) -> Batch:
        """The changed batch; the given one stays as it is. Changed images are no longer numbered.

        Args:
            batch: What is learned from.
            step: Of the training.
            part: Of a batch that several processes divide, which each draw their own changes.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed([self.seed, step, *([part] if part else [])]))
            image, mask, template = self._change(batch)
        if image.shape != batch.image.shape:
            raise UserError(
                f"augment.transforms made images of {tuple(image.shape[2:])} px out of {tuple(batch.image.shape[2:])}: "
                "leave out what crops, pads or resizes to another size."
            )
        changed = (image != batch.image).flatten(1).any(1)
        return dataclasses.replace(
            batch,
            image=image.contiguous(memory_format=torch.channels_last),
            mask=mask,
            template=template,
            weight=torch.where(changed, batch.weight * self.weight, batch.weight),
            index=torch.where(changed, UNNUMBERED, batch.index),
        )

    def _change(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Moved as channels of one picture, image, mask and template cannot part."""
        from kornia.augmentation import IntensityAugmentationBase2D  # seconds

        image = batch.image
        if self.restyle and self.restyler is not None:
            image = self.restyler(image, self.restyle)
        rest = [batch.mask.float(), *([] if batch.template is None else [batch.template])]
        picture = torch.cat([image, *rest], 1)
        for transform in self.transforms:
            if isinstance(transform, IntensityAugmentationBase2D):
                picture = torch.cat([transform(picture[:, :3]).clamp(0, 1), picture[:, 3:]], 1)
            else:
                picture = transform(picture)
        template = None if batch.template is None else picture[:, 4:]
        return picture[:, :3], picture[:, 3:4] > 0.5, template


def _check(transform: nn.Module) -> None:
    import kornia.augmentation as K

    if not isinstance(transform, K.AugmentationBase2D) or isinstance(transform, K.MixAugmentationBaseV2):
        raise UserError(
            f"augment.transforms takes kornia's transforms of single images, not {type(transform).__name__}. One of "
            "your own derives from kornia.augmentation.GeometricAugmentationBase2D or IntensityAugmentationBase2D."
        )


SHARE = 0.5  # probability of each change; all are skipped for one image in 32


def strongly_changed(image: Tensor, seed: int) -> Tensor:
    """Copies in other colours, turned and sheared, blurred, noisy, with a part erased; drawn for each image.

    image: (B, 3, H, W) in [0, 1]; returns the like. The global random state is left as it was.
    """
    import kornia.augmentation as K  # seconds

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed))
        changes = K.AugmentationSequential(
            K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=SHARE),
            K.RandomAffine(15.0, (0.1, 0.1), (0.85, 1.15), 10.0, padding_mode="reflection", p=SHARE),
            K.RandomGaussianBlur((7, 7), (1.0, 2.0), p=SHARE),
            K.RandomGaussianNoise(std=0.05, p=SHARE),
            K.RandomErasing((0.02, 0.15), (0.3, 3.3), value=0.5, p=SHARE),
            data_keys=["input"],
        )
        return changes(image).clamp(0, 1)


def torch_seed(entropy: int | Sequence[int]) -> int:
    """torch reads 32 bits of a seed: numbers beyond that, or beside each other, are mixed, not shifted together."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
