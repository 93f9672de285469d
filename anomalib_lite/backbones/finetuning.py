"""Fine-tuning of a backbone on a self-supervised task before it becomes the teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from anomalib_lite.augment.cutpaste import cutpaste, scar
from anomalib_lite.augment.transforms import strongly_changed
from anomalib_lite.backbones.backbone import Backbone
from anomalib_lite.data.images import ImageSet, loader, to_float, to_pixels
from anomalib_lite.data.sample import NOK, OK, Batch, Sample
from anomalib_lite.errors import UserError
from anomalib_lite.runs.checkpoints import diverged_batch, stop_where_diverged
from anomalib_lite.settings.training import Teacher

Normalisation = nn.modules.batchnorm._BatchNorm  # all layers with running statistics
HELD_OUT = 2**31 - 1  # instead of the epoch, so that held-out examples never change


@dataclass
class Examples:
    """Images (N, 3, H, W) in [0, 1], int64 labels (N,) that index the task's classes, and weights (N,) in the loss."""

    image: Tensor
    label: Tensor
    weight: Tensor


class Task(ABC):
    classes: tuple[str, ...]
    wants_generated = False  # whether it uses generated images
    wants_nok = False  # whether it can use NOK images

    def samples(self, ok: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
        """Returns the samples to train on, here the OK ones; `others` are generated and, if requested, NOK images."""
        return list(ok)

    @abstractmethod
    def examples(self, batch: Batch, seed: int) -> Examples:
        """Makes examples from a batch of these samples; deterministic given batch and seed."""


class CutPaste(Task):
    """Classifies OK images against copies with a pasted piece or strip of themselves; needs OK images only.

    Li, Sohn, Yoon, Pfister, "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization", CVPR 2021, its
    three-way variant. Every OK image gives one example per class, with the image's weight.
    """

    classes = ("normal", "cutpaste", "scar")

    def examples(self, batch: Batch, seed: int) -> Examples:
        pixels = np.ascontiguousarray(to_pixels(batch.image))
        streams = [np.random.default_rng([seed, index]) for index in batch.index.tolist()]
        pasted = [np.stack([paste(p, r) for p, r in zip(pixels, streams, strict=True)]) for paste in (cutpaste, scar)]
        image = torch.cat([batch.image, *map(to_float, pasted)])
        return Examples(image, torch.arange(3).repeat_interleave(len(batch)), batch.weight.repeat(3))


class OKAgainstGenerated(Task):
    """Classifies OK images and the template against generated and, if given, NOK images.

    If there are none, against strongly augmented copies of the OK images, with the image's weight.
    """

    classes = ("OK", "generated")
    wants_generated = True
    wants_nok = True

    def __init__(self) -> None:
        self.augments = False

    def samples(self, ok: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
        self.augments = not others
        return [*(replace(s, label=OK) for s in ok), *(replace(s, label=NOK) for s in others)]

    def examples(self, batch: Batch, seed: int) -> Examples:
        if not self.augments:
            return Examples(batch.image, batch.label, batch.weight)
        image = torch.cat([batch.image, strongly_changed(batch.image, (seed * 2**20 + int(batch.index[0])) % 2**63)])
        return Examples(image, torch.arange(2).repeat_interleave(len(batch)), batch.weight.repeat(2))


@dataclass
class Settings(Teacher):
    """Settings of the fine-tuning; `optimizer` is a factory, `scheduler` a factory or None."""

    def __post_init__(self) -> None:
        if not 0 <= self.head_epochs < self.epochs:
            raise UserError(
                f"teacher.head_epochs ({self.head_epochs}) must be fewer than teacher.epochs ({self.epochs}), as the "
                "backbone learns in the others. To keep the backbone unchanged, use teacher=frozen."
            )
        if self.nok and not self.task.wants_nok:
            raise UserError(
                f"teacher.nok: {type(self.task).__name__} uses OK images only; use teacher=finetuned_classifier."
            )


@dataclass(frozen=True)
class Outcome:
    """Accuracies on held-out images, all of equal weight, and the names of the blocks that were trained."""

    accuracy_before: float  # with the original backbone, and the trained head if it was trained alone first
    accuracy_after: float
    accuracy_by_chance: float  # of always predicting the most frequent class
    blocks: list[str]


def finetune(backbone: Backbone, train: ImageSet, held_out: ImageSet, settings: Settings, **trainer: Any) -> Outcome:
    """Fine-tunes the backbone in place; the head is dropped. `trainer`: arguments of Lightning's Trainer.

    Call it with isolated random state, since it seeds torch with `settings.seed`.
    """
    torch.manual_seed(settings.seed)
    module = FineTuning(backbone, settings)
    lightning = Trainer(
        max_epochs=settings.epochs,
        limit_train_batches=settings.batches,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        **trainer,
    )
    held_out_loader = loader(held_out, settings.batch_size)
    lightning.validate(module, held_out_loader, verbose=False)
    lightning.fit(module, loader(train, settings.batch_size, shuffle_seed=settings.seed), held_out_loader)
    backbone.cpu().eval().requires_grad_(True)
    return Outcome(
        accuracy_before=module.accuracies[settings.head_epochs],
        accuracy_after=module.accuracies[-1],
        accuracy_by_chance=max(module.counts) / sum(module.counts),
        blocks=module.blocks,
    )


class FineTuning(LightningModule):
    def __init__(self, backbone: Backbone, settings: Settings) -> None:
        super().__init__()
        self.backbone, self.task, self.settings = backbone, settings.task, settings
        self.blocks = unfreeze_last(backbone.net, settings.unfreeze)
        widths, classes = [backbone.channels[-1], *settings.hidden], len(self.task.classes)
        layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU(), nn.Dropout(settings.dropout))]
        self.head = nn.Sequential(*layers, nn.Linear(widths[-1], 1 if classes == 2 else classes))
        self.accuracies: list[float] = []  # before training, then after each epoch
        self.counts = [0] * len(self.task.classes)
        self._correct = 0
        self.to(memory_format=torch.channels_last)
        self.train()  # Lightning keeps the mode of each module

    def train(self, mode: bool = True) -> FineTuning:
        super().train(mode)
        keep_statistics(self.backbone.net, self.blocks if self._backbone_learns else [])
        return self

    @property
    def _backbone_learns(self) -> bool:
        return self.current_epoch >= self.settings.head_epochs

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) in [0, 1] to logits (N, classes), or (N, 1) for two classes."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._backbone_learns):
            feature = self.backbone(image.contiguous(memory_format=torch.channels_last))[-1]
        return self.head(feature.mean(dim=(2, 3)))

    def on_train_epoch_start(self) -> None:
        self.train()  # modes change when the backbone starts to learn

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Examples:
        epoch = self.current_epoch if self.trainer.training else HELD_OUT
        return self.task.examples(batch, self.settings.seed * 2**31 + epoch)

    def training_step(self, examples: Examples, step: int) -> Tensor:
        losses = classification_loss(self(examples.image), examples.label)
        loss = (losses * examples.weight).sum() / examples.weight.sum()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(losses), prog_bar=True)
        if not loss.isfinite():
            file = diverged_batch(Path(self.trainer.default_root_dir))
            when = f"epoch {self.current_epoch + 1} of the teacher"
            stop_where_diverged(loss, examples.image, file, when, "Lower the learning rate (teacher.optimizer.lr)")
        return loss

    def on_validation_epoch_start(self) -> None:
        self.counts, self._correct = [0] * len(self.task.classes), 0

    def validation_step(self, examples: Examples, step: int) -> None:
        logits, label = self(examples.image), examples.label
        predicted = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)
        self._correct += int((predicted == label).sum())
        for k, count in zip(*(t.tolist() for t in label.unique(return_counts=True)), strict=True):
            self.counts[k] += count
        self.log("val_loss", classification_loss(logits, label).mean(), batch_size=len(label))

    def on_validation_epoch_end(self) -> None:
        self.accuracies.append(self._correct / sum(self.counts))
        self.log("val_accuracy", self.accuracies[-1], prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = self.settings.optimizer([p for p in self.parameters() if p.requires_grad])
        if self.settings.scheduler is None:
            return optimizer
        scheduler = self.settings.scheduler(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def classification_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Computes (N,) binary cross-entropy for one logit (two classes), cross-entropy for several."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], label.float(), reduction="none")
    return F.cross_entropy(logits, label, reduction="none")


def block_of(name: str) -> str:
    """Returns the block that a tensor belongs to: its name up to the first numbers in it, else its first part.

    `layer2.0.downsample.0.weight` -> `layer2.0`, `blocks.2.1.conv_pw.weight` -> `blocks.2.1`, `conv1.weight` ->
    `conv1`.
    """
    parts = name.removeprefix("model.").split(".")  # timm wraps transformers
    first = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if first is None:
        return parts[0]
    numbers = list(takewhile(str.isdigit, parts[first:]))
    return ".".join(parts[: first + len(numbers)])


def blocks(net: nn.Module) -> list[str]:
    """Returns the names of blocks with parameters, in the network's order."""
    return list(dict.fromkeys(block_of(name) for name, _ in net.named_parameters()))


def unfreeze_last(net: nn.Module, count: int | None) -> list[str]:
    """Unfreezes the last `count` blocks (None: all), freezes the others, and returns the unfrozen ones."""
    names = blocks(net)
    if count is not None and not 1 <= count <= len(names):
        raise UserError(
            f"teacher.unfreeze must be null (the whole backbone) or from 1 to {len(names)}, but is {count}; "
            f"the backbone's blocks are {', '.join(names)}. To keep the backbone unchanged, use teacher=frozen."
        )
    learning = names if count is None else names[-count:]
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(block_of(name) in learning)
    return learning


def keep_statistics(net: nn.Module, learning: list[str]) -> None:
    """Sets normalisation outside the learning blocks to eval mode, as its statistics belong to its weights."""
    for name, module in net.named_modules():
        if isinstance(module, Normalisation) and block_of(f"{name}.weight") not in learning:
            module.eval()
