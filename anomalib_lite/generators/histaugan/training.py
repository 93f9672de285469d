"""Which images are drawn, the training in a folder from which a killed one goes on, and the attributes it leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import Progress
from anomalib_lite.generators.histaugan.module import HistAuGANModule
from anomalib_lite.generators.histaugan.networks import Architecture, Networks
from anomalib_lite.runs.atomic import atomic_path, write_json
from anomalib_lite.runs.folder import resumable

JITTER = 0.2  # half-width of the factors of brightness, contrast and saturation


class Draw(NamedTuple):
    """image: index into all images. jitter: factors of brightness, contrast and saturation."""

    image: int
    domain: int
    top: int
    left: int
    flip: bool
    jitter: tuple[float, float, float]


@dataclass(frozen=True)
class DrawRule:
    """crop: (height, width) in px. flip: half of the crops are mirrored, left to right. jitter: colours are changed.

    template_share: probability that a step's image comes from the second list (the template's domain).
    """

    crop: tuple[int, int]
    flip: bool
    template_share: float
    jitter: bool = False


class Images(Dataset[tuple[Tensor, Tensor]]):
    """OK images, and after them the template where there is one, all of one size; indexed by draws."""

    def __init__(self, ok: Sequence[Path], template: Path | None, size: tuple[int, int], rule: DrawRule) -> None:
        paths = [*ok, *([] if template is None else [template])]
        self.images = ImageSet([Sample(path, OK) for path in paths], size, name="images for the GAN")
        self.size, self.rule = size, rule
        self.of_domain = [range(len(ok)), range(len(ok), len(paths))][: 1 if template is None else 2]

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        height, width = self.rule.crop
        image = self.images[draw.image].image[0]
        image = image[:, draw.top : draw.top + height, draw.left : draw.left + width]
        if draw.flip:
            image = image.flip(-1)
        if self.rule.jitter:  # in this order, as torchvision's ColorJitter defines the three
            from kornia import enhance  # seconds

            image = enhance.adjust_brightness_accumulative(image, draw.jitter[0])
            image = enhance.adjust_contrast_with_mean_subtraction(image, draw.jitter[1])
            image = enhance.adjust_saturation_with_gray_subtraction(image, draw.jitter[2])
        return image.contiguous(), torch.tensor(draw.domain)

    def __len__(self) -> int:
        return len(self.of_domain[0])

    def draw(self, rng: np.random.Generator, domain: int, image: int) -> Draw:
        top, left = (int(rng.integers(s - c + 1)) for s, c in zip(self.size, self.rule.crop, strict=True))
        flip = bool(rng.random() < 0.5) and self.rule.flip
        b, c, s = (float(f) for f in rng.uniform(1 - JITTER, 1 + JITTER, 3))
        return Draw(image, domain, top, left, flip, (b, c, s))


class Draws(Sampler[Draw]):
    """An epoch's draws, which depend on the seed and the epoch alone: the OK images in shuffled order, where each place
    goes to the template with its probability.

    length: draws, filled up to whole batches; the images are gone round where they are fewer. Lightning calls
    `set_epoch` before each epoch.
    """

    def __init__(self, images: Images, length: int, batch: int, seed: int) -> None:
        self.images, self.length, self.seed, self.epoch = images, -(-length // batch) * batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.images))
        for place in range(self.length):
            domain, image = 0, int(order[place % len(order)])
            if len(self.images.of_domain) > 1 and rng.random() < self.images.rule.template_share:
                domain, image = 1, int(rng.choice(self.images.of_domain[1]))
            yield self.images.draw(rng, domain, image)


DESCRIPTION, WEIGHTS, CHECKPOINTS = "histaugan.json", "histaugan.safetensors", "checkpoints"


def train(
    module: HistAuGANModule,
    images: Images,
    length: int,
    folder: Path,
    accelerator: str,
    precision: Any,
    logger: Any,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Goes on from the last checkpoint in `folder`, if there is one. length: draws an epoch.

    Errors: KeyboardInterrupt after Ctrl-C, which Lightning swallows; UserError for a checkpoint that holds code.
    """
    schedule, last = module.schedule, folder / CHECKPOINTS / "last.ckpt"
    keep = ModelCheckpoint(
        last.parent, filename=last.stem, enable_version_counter=False, every_n_epochs=schedule.checkpoint_every
    )
    callbacks = [*callbacks, keep, Progress()]
    trainer = Trainer(
        accelerator=accelerator, devices=1, precision=precision, max_epochs=schedule.epochs, callbacks=callbacks,
        logger=logger or False, default_root_dir=folder, log_every_n_steps=1, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    batches = DataLoader(images, schedule.batch, sampler=Draws(images, length, schedule.batch, module.seed))
    trainer.fit(module, batches, ckpt_path=resumable(last.parent), weights_only=True)


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
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


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


Sampling = Literal["random", "statistics", "encoded"]
FEWEST = 64  # crops encoded of a domain, so that a single template has a spread too


def encode_domains(networks: Networks, images: Images, seed: int) -> list[Tensor]:
    """Each domain's attributes (N, attributes) on the CPU: one random crop an image, and at least 64 in all.

    Sets the networks' attribute_mean and attribute_std from them.
    """
    rng = np.random.default_rng([seed, 1])
    device = networks.attribute_mean.device
    found = []
    for domain, members in enumerate(images.of_domain):
        rounds = -(-FEWEST // len(members))
        crops = [images[images.draw(rng, domain, image)] for _ in range(rounds) for image in members]
        bar = tqdm(crops, f"attributes of domain {domain}", delay=2, leave=False)
        codes = [networks.encode(image[None].to(device), label[None].to(device)) for image, label in bar]
        found.append(torch.cat(codes).float().cpu())
        networks.attribute_mean[domain] = found[domain].mean(dim=0)
        networks.attribute_std[domain] = found[domain].std(dim=0)
    return found
