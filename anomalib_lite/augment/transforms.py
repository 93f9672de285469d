"""Random changes of training batches: mirrored, turned, shifted, in another light."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from anomalib_lite.augment.seeds import torch_seed
from anomalib_lite.data.sample import UNNUMBERED, Batch
from anomalib_lite.errors import UserError

PADDING = ("reflection", "border", "zeros")


class Augment(nn.Module):
    """Image, mask and template of a batch get the same random change of geometry; the image alone that of colour.

    horizontal, vertical: probabilities of a flip. rotation: degrees, and shift: share of the side, at most, in either
    direction; drawn for each image. padding: what lies beyond a turned or shifted image: reflection, border or zeros.
    brightness, contrast, saturation, hue: ranges as of torchvision's ColorJitter; jitter: probability that the colours
    are changed. restyle: probability of another colour and light by a trained generator, which `restyler` then must
    be: from images (B, 3, H, W) in [0, 1] and the probability to as many images. weight: factor of a changed image's
    weight in the loss. seed: with the training step it decides every change, so that a training that goes on after an
    interruption sees what it would have seen.
    """

    def __init__(
        self,
        horizontal: float = 0.0,
        vertical: float = 0.0,
        rotation: float = 0.0,
        shift: float = 0.0,
        padding: str = "reflection",
        jitter: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        restyle: float = 0.0,
        weight: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if padding not in PADDING:
            raise UserError(f"augment.padding must be one of {', '.join(PADDING)}, not '{padding}'.")
        if weight < 0:
            raise UserError(f"augment.weight must not be negative, but is {weight}.")
        import kornia.augmentation as K  # seconds

        if not 0 <= restyle <= 1:
            raise UserError(f"augment.restyle is a probability between 0 and 1, not {restyle}.")
        self.seed, self.weight, self.restyle = seed, weight, restyle
        self.restyler: Callable[[Tensor, float], Tensor] | None = None
        geometry: list[nn.Module] = []
        if horizontal:
            geometry.append(K.RandomHorizontalFlip(p=horizontal))
        if vertical:
            geometry.append(K.RandomVerticalFlip(p=vertical))
        if rotation or shift:
            geometry.append(K.RandomAffine(rotation, (shift, shift), padding_mode=padding, p=1.0))
        self.geometry = nn.ModuleList(geometry)
        ranges = (brightness, contrast, saturation, hue)
        self.colour = K.ColorJitter(*ranges, p=jitter) if jitter and any(ranges) else None

    @property
    def active(self) -> bool:
        return bool(self.geometry or self.colour or self.restyle)

    @torch.no_grad()
    def forward(self, batch: Batch, step: int, part: int = 0) -> Batch:
        """The changed batch; the given one stays as it is. Changed images are no longer numbered.

        part: of a batch that several processes divide, which each draw their own changes.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed([self.seed, step, *([part] if part else [])]))
            image, mask, template = self._move(batch)
            if self.restyler is not None:
                image = self.restyler(image, self.restyle)
            if self.colour is not None:
                image = self.colour(image)
        changed = (image != batch.image).flatten(1).any(1)
        return dataclasses.replace(
            batch,
            image=image.contiguous(memory_format=torch.channels_last),
            mask=mask,
            template=template,
            weight=torch.where(changed, batch.weight * self.weight, batch.weight),
            index=torch.where(changed, UNNUMBERED, batch.index),
        )

    def _move(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Moved as channels of one picture, image, mask and template cannot part."""
        parts = [batch.image, batch.mask.float(), *([] if batch.template is None else [batch.template])]
        stacked = torch.cat(parts, 1)
        for transform in self.geometry:
            stacked = transform(stacked)
        template = None if batch.template is None else stacked[:, 4:]
        return stacked[:, :3], stacked[:, 3:4] > 0.5, template
