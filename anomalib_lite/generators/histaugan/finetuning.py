"""A trained GAN, trained further on the template: all of it at once, or block by block."""

from __future__ import annotations

from typing import Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from anomalib_lite.generators.histaugan.networks import Networks

Finetuning = Literal["standard", "blockwise"]


def blocks(networks: Networks) -> list[nn.ModuleList]:
    """What encoders and decoder consist of, from the pixels of the output backwards."""
    decoder = networks.decoder
    return [
        nn.ModuleList([decoder.colours, decoder.up2]),
        nn.ModuleList([decoder.up1]),
        nn.ModuleList([decoder.mixing, decoder.shared]),
        nn.ModuleList([networks.attribute]),
        nn.ModuleList([networks.content]),
    ]


class Thaw(Callback):
    """Block-wise: one block more learns in each fifth of the epochs; discriminators always do."""

    def __init__(self, networks: Networks, epochs: int) -> None:
        self.blocks, self.epochs = blocks(networks), epochs

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        thawed = 1 + trainer.current_epoch * len(self.blocks) // self.epochs
        for place, block in enumerate(self.blocks):
            block.requires_grad_(place < thawed)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        for block in self.blocks:
            block.requires_grad_(True)
