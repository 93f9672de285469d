"""Random augmentation of training batches, by kornia's transforms."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from anomalib_lite.data.sample import UNNUMBERED, Batch
from anomalib_lite.errors import UserError


class Augment(nn.Module):
    """Applies geometric transforms to image, mask and template together, and colour transforms to the image only.

    kornia's base classes tell them apart: `IntensityAugmentationBase2D` changes the image, any other
    `AugmentationBase2D` moves it. Custom transforms derive from one of them.

    Args:
        transforms: Applied in this order.
        restyle: Probability that `restyler` changes an image's colour and light, before the transforms.
        weight: Factor of a changed image's weight in the loss.
        seed: Determines all changes together with the training step, so that a resumed training repeats them.
        restyler: Of a trained generator: maps images (B, 3, H, W) in [0, 1] and the probability to as many images.
    """

    def __init__(
        self,
        transforms: Sequence[nn.Module] = (),
        restyle: float = 0.0,
        weight: float = 1.0,
        seed: int = 0,
        restyler: Callable[[Tensor, float], Tensor] | None = None,
    ) -> None:
        super().__init__()
        for transform in transforms:
            import kornia.augmentation as K  # takes seconds

            if not isinstance(transform, K.AugmentationBase2D) or isinstance(transform, K.MixAugmentationBaseV2):
                raise UserError(
                    f"augment.transforms takes kornia's transforms of single images, not {type(transform).__name__}. "
                    "Derive custom ones from kornia.augmentation.GeometricAugmentationBase2D or "
                    "IntensityAugmentationBase2D."
                )
        self.transforms, self.restyle, self.weight, self.seed = nn.ModuleList(transforms), restyle, weight, seed
        self.restyler = restyler

    @property
    def active(self) -> bool:
        return bool(self.transforms or self.restyle)

    @torch.no_grad()
    def forward(self, batch: Batch, step: int, part: int = 0) -> Batch:
        """Returns the augmented batch; the given one is not modified. Changed images lose their index.

        part: index of the process, if several share a batch, so that each draws other changes.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed([self.seed, step, *([part] if part else [])]))
            image, mask, template = self._change(batch)
        if image.shape != batch.image.shape:
            raise UserError(
                f"augment.transforms resized images of {tuple(batch.image.shape[2:])} to {tuple(image.shape[2:])} px: "
                "remove transforms that crop, pad or resize to another size."
            )
        changed = (image != batch.image).flatten(1).any(1)
        image = image.contiguous(memory_format=torch.channels_last)
        weight = torch.where(changed, batch.weight * self.weight, batch.weight)
        index = torch.where(changed, UNNUMBERED, batch.index)
        return replace(batch, image=image, mask=mask, template=template, weight=weight, index=index)

    def _change(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Stacks image, mask and template as channels of one picture, so that they move together."""
        from kornia.augmentation import IntensityAugmentationBase2D  # takes seconds to import

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


SHARE = 0.5  # probability of each change; one image in 32 gets none


def strongly_changed(image: Tensor, seed: int) -> Tensor:
    """Recolours, rotates, shears, blurs, adds noise to and erases parts of images (B, 3, H, W) in [0, 1], at random."""
    import kornia.augmentation as K  # takes seconds to import

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
    """Mixes numbers into 32 bits, which is all that torch uses of a seed."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
