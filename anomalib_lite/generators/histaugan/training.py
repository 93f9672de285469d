"""Images and networks -> trained networks, in a folder from which a killed training goes on."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from safetensors.torch import load_file, save_file
from torch import Tensor

from anomalib_lite.errors import UserError
from anomalib_lite.generators.histaugan.attributes import encode_domains
from anomalib_lite.generators.histaugan.draws import Images, training_batches
from anomalib_lite.generators.histaugan.module import HistAuGANModule
from anomalib_lite.generators.histaugan.networks import Architecture, Networks
from anomalib_lite.runs.atomic import atomic_path, write_json

log = logging.getLogger(__name__)

DESCRIPTION, WEIGHTS = "histaugan.json", "histaugan.safetensors"


@dataclass(frozen=True)
class Hardware:
    """As Lightning's Trainer names them."""

    accelerator: str = "cpu"
    devices: int = 1
    precision: str = "32-true"


class History(Callback):
    """history.csv: one row an epoch with the mean of every loss; rewritten whole, so that it is never torn."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows: list[dict[str, float]] = list(state_dict["rows"])

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        losses = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"epoch": trainer.current_epoch + 1} | losses)
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, sorted({name for row in self.rows for name in row}, key=_epoch_first))
            writer.writeheader()
            writer.writerows(self.rows)


def _epoch_first(name: str) -> tuple[bool, str]:
    return name != "epoch", name


def train(
    module: HistAuGANModule,
    images: Images,
    length: int,
    folder: Path,
    hardware: Hardware,
    logger: Any,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Goes on from `folder`/last.ckpt where it is. length: draws an epoch.

    Errors: KeyboardInterrupt after Ctrl-C, which Lightning swallows.
    """
    schedule = module.schedule
    trainer = Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        precision=hardware.precision,
        max_epochs=schedule.epochs,
        callbacks=[
            *callbacks,
            History(folder / "history.csv"),
            ModelCheckpoint(
                folder, filename="last", enable_version_counter=False, every_n_epochs=schedule.checkpoint_every
            ),
            TQDMProgressBar(refresh_rate=1),
        ],
        logger=logger or False,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
    last = folder / "last.ckpt"
    if last.is_file():
        log.info("resuming HistAuGAN's training from %s", last)
    batches = training_batches(images, length, schedule.batch, module.seed)
    resume = last if last.is_file() else None
    trainer.fit(module, batches, ckpt_path=resume, weights_only=False)  # our own file: optimizers and history
    if trainer.interrupted:
        raise KeyboardInterrupt


def finish(networks: Networks, images: Images, folder: Path, seed: int, notes: dict[str, Any]) -> None:
    """Computes the attributes' statistics and writes what `read` reads, the description last: it marks the end."""
    networks.eval()
    encoded = encode_domains(networks, images, seed)
    tensors = {name: value.detach().cpu().contiguous() for name, value in networks.state_dict().items()}
    tensors |= {f"encoded.{domain}": codes for domain, codes in enumerate(encoded)}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    built = {"architecture": asdict(networks.architecture), "domains": networks.domains, "crop": list(networks.crop)}
    write_json(folder / DESCRIPTION, built | notes)
    (folder / "last.ckpt").unlink(missing_ok=True)


def read(folder: Path) -> tuple[Networks, list[Tensor], dict[str, Any]]:
    """The trained networks in eval mode, each domain's encoded attributes, and the notes.

    Errors: UserError where the folder holds no finished GAN.
    """
    if not (folder / DESCRIPTION).is_file():
        raise UserError(f"{folder} holds no finished HistAuGAN ({DESCRIPTION} is missing). Train it first.")
    notes = json.loads((folder / DESCRIPTION).read_text())
    networks = Networks(Architecture(**notes["architecture"]), notes["domains"], tuple(notes["crop"]))
    tensors = load_file(folder / WEIGHTS)
    encoded = [tensors.pop(f"encoded.{domain}") for domain in range(networks.domains)]
    networks.load_state_dict(tensors)
    return networks.eval().requires_grad_(False), encoded, notes


def device_of(hardware: Hardware) -> torch.device:
    return torch.device("cuda" if hardware.accelerator in ("gpu", "cuda") else "cpu")
