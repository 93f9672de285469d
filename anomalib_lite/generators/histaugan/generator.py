"""HistAuGAN behind the generators' contract: which images are drawn, the training in a folder from which a killed one
goes on, and the attributes it leaves.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from anomalib_lite.data.decode import read_image, resize_image
from anomalib_lite.data.images import ImageSet, to_float
from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import Generated, Generator, Progress, device_for
from anomalib_lite.generators.histaugan.module import HistAuGANModule, Thaw
from anomalib_lite.generators.histaugan.networks import STRIDE, Networks
from anomalib_lite.runs.atomic import atomic_path, write_json
from anomalib_lite.runs.checkpoints import WholeCheckpoints, resumable
from anomalib_lite.settings.training import Architecture, GANSchedule, LossWeights, finetuning_schedule

Sampling = Literal["random", "statistics", "encoded"]
DESCRIPTION, WEIGHTS, CHECKPOINTS = "histaugan.json", "histaugan.safetensors", "checkpoints"
Size = int | Sequence[int]


class HistAuGAN(Generator):
    """Images with an OK image's content and another colour and light.

    Wagner et al., "Structure-Preserving Multi-Domain Stain Color Augmentation Using Style-Transfer with Disentangled
    Representations", MICCAI 2021. Without a template there is one domain, the OK images; with one, it is the second.

    size, crop: pixels, one number or (height, width), of the images and of what a training step sees of them.
    template_probability: of drawing the template in training; template_share: of its domain in sampling.
    sampling: attributes from N(0, I), from the domain's statistics, or encoded from one of the domain's images.
    finetune: trains a GAN of one domain on the OK images, or takes the finished one in `start_from`, and goes on with
    crops of the template, mirrored and changed in colour, as `finetuning` says.
    accelerator, precision: as Lightning's Trainer names them.
    """

    after_training = ("sampling", "template_share")

    def __init__(
        self,
        size: Size = 128,
        crop: Size = 96,
        architecture: Architecture | None = None,
        losses: LossWeights | None = None,
        schedule: GANSchedule | None = None,
        flip: bool = True,
        template_probability: float = 0.1,
        template_share: float = 0.5,
        sampling: Sampling = "statistics",
        finetune: Literal["standard", "blockwise"] | None = None,
        finetuning: GANSchedule | None = None,
        start_from: str | Path | None = None,
        accelerator: str = "cpu",
        precision: str = "32-true",
    ) -> None:
        self.size, self.crop = _pair(size), _pair(crop)
        self.architecture, self.losses = architecture or Architecture(), losses or LossWeights()
        self.accelerator, self.precision = accelerator, precision
        self.schedule, self.finetuning = schedule or GANSchedule(), finetuning or finetuning_schedule()
        self.flip, self.template_probability, self.template_share = flip, template_probability, template_share
        self.sampling, self.finetune, self.start_from = sampling, finetune, start_from
        self._check()
        self.networks: Networks | None = None

    def _check(self) -> None:
        if any(c % STRIDE or not 32 <= c <= s for c, s in zip(self.crop, self.size, strict=True)):
            raise UserError(
                f"HistAuGAN's crop must be a multiple of {STRIDE}, at least 32 px, and fit in the images: "
                f"crop {self.crop}, size {self.size}."
            )
        if min(self.schedule.batch, self.finetuning.batch) < 2:
            raise UserError("HistAuGAN crosses the images of a batch with each other: its batch must be 2 or more.")

    def fit(self, ok: Sequence[Path], template: Path | None, folder: Path, seed: int, logger: Any = None) -> None:
        if not ok:
            raise UserError("HistAuGAN learns from OK images, and there are none.")
        if self.finetune and template is None:
            raise UserError("Fine-tuning HistAuGAN needs a template: name one, or set finetune to null.")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / DESCRIPTION).is_file():
            if self.finetune and template is not None:
                self._fit_finetuned(ok, template, folder, seed, logger)
            else:
                self._fit(ok, template, folder, seed, logger)
        self.load(folder)

    def _fit(self, ok: Sequence[Path], template: Path | None, folder: Path, seed: int, logger: Any) -> None:
        images = Images(ok, template, self.size, self.crop, self.flip, self.template_probability)
        networks = Networks(self.architecture, len(images.of_domain), self.crop, seed)
        module = HistAuGANModule(networks, self.losses, self.schedule, seed)
        self._train(module, images, len(ok), folder, logger)
        origins = ["generated", "template_generated"][: networks.domains]
        finish(networks, images, folder, seed, {"size": list(self.size), "origins": origins})

    def _fit_finetuned(self, ok: Sequence[Path], template: Path, folder: Path, seed: int, logger: Any) -> None:
        base = Path(self.start_from) if self.start_from else folder / "base"
        if not self.start_from and not (base / DESCRIPTION).is_file():
            base.mkdir(exist_ok=True)
            self._fit(ok, None, base, seed, logger)
        networks, _, notes = read(base)
        if networks.domains > 1:
            raise UserError(f"Fine-tuning starts from a GAN of one domain; {base} holds one of {networks.domains}.")
        images = Images([template], None, _pair(notes["size"]), networks.crop, self.flip, jitter=True)
        networks.train().requires_grad_(True)
        module = HistAuGANModule(networks, self.losses, self.finetuning, seed)
        thaw = [Thaw(networks, self.finetuning.epochs)] if self.finetune == "blockwise" else []
        self._train(module, images, len(ok), folder, logger, thaw)
        finish(networks, images, folder, seed, {"size": list(images.size), "origins": ["template_generated"]})

    def _train(
        self, module: HistAuGANModule, images: Images, length: int, folder: Path, logger: Any, thaw: Sequence[Thaw] = ()
    ) -> None:
        """Goes on from the last checkpoint in `folder`, if there is one. length: draws an epoch.

        Errors: KeyboardInterrupt after Ctrl-C, which Lightning swallows; UserError for a checkpoint that holds code.
        """
        schedule, last = module.schedule, folder / CHECKPOINTS / "last.ckpt"
        keep = ModelCheckpoint(
            last.parent, filename=last.stem, enable_version_counter=False, every_n_epochs=schedule.checkpoint_every
        )
        trainer = Trainer(
            accelerator=self.accelerator, devices=1, precision=cast("Any", self.precision), max_epochs=schedule.epochs,
            callbacks=[*thaw, keep, Progress()], logger=logger or False, default_root_dir=folder, log_every_n_steps=1,
            enable_model_summary=False, use_distributed_sampler=False, plugins=[WholeCheckpoints()],
        )  # fmt: skip
        batches = DataLoader(images, schedule.batch, sampler=Draws(images, length, schedule.batch, module.seed))
        trainer.fit(module, batches, ckpt_path=resumable(last.parent), weights_only=True)

    def load(self, folder: Path) -> None:
        self.networks, self._encoded, notes = read(folder)
        self.networks.to(device_for(self.accelerator))
        self._size = tuple(notes["size"])
        self._origins = notes["origins"]

    def sample(self, n: int, seed: int, ok: Sequence[Path]) -> Iterator[Generated]:
        """Contents are gone through in shuffled order; each image depends on the seed and its place alone."""
        networks = self._trained()
        for place in range(n):
            rng = np.random.default_rng([seed, place])
            round_, within = divmod(place, len(ok))
            order = np.random.default_rng([seed, round_, 0]).permutation(len(ok))
            content = int(order[within])
            domain = int(len(self._origins) > 1 and rng.random() < self.template_share)
            image = self.translate(read_image(ok[content]), self._attribute(networks, domain, rng), domain)
            yield Generated(image, content, self._origins[domain])

    def translate(self, image: np.ndarray, z: Tensor, domain: int) -> np.ndarray:
        """The content of an image (H, W, 3) uint8 with an attribute (attributes,) -> (height, width, 3) uint8."""
        networks = self._trained()
        batch = to_float(resize_image(image, *self._size)[None]).to(networks.attribute_mean.device)
        made = networks.translate(batch, z[None].to(batch.device), torch.tensor([domain], device=batch.device))
        return (made[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy()

    def restyle(self, image: Tensor, p: float = 0.5) -> Tensor:
        """HistAuGAN as an augmentation of batches (B, 3, H, W) in [0, 1]: with probability p an image keeps its content
        and gets an attribute of a drawn domain, from N(mean, std^2) of that domain.
        """
        networks = self._trained().to(image.device)
        chosen = torch.rand(len(image)) < p
        domain = torch.randint(networks.domains, (len(image),))
        z = torch.randn(len(image), networks.attribute_mean.shape[1])
        if not chosen.any():
            return image
        chosen, domain, z = (drawn.to(image.device) for drawn in (chosen, domain, z))
        z = networks.attribute_mean[domain] + networks.attribute_std[domain] * z
        result = image.clone()
        result[chosen] = networks.translate(image[chosen], z[chosen], domain[chosen]).to(image.dtype)
        return result

    def _attribute(self, networks: Networks, domain: int, rng: np.random.Generator) -> Tensor:
        """One vector: from N(0, I), from the domain's mean and standard deviation, or of one of its images."""
        if self.sampling == "encoded":
            return self._encoded[domain][int(rng.integers(len(self._encoded[domain])))]
        z = torch.from_numpy(rng.standard_normal(networks.attribute_mean.shape[1])).float()
        if self.sampling == "random":
            return z
        return networks.attribute_mean[domain].cpu() + networks.attribute_std[domain].cpu() * z

    def _trained(self) -> Networks:
        if self.networks is None:
            raise UserError("This HistAuGAN has not been trained or loaded yet.")
        return self.networks


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


JITTER = 0.2  # half-width of the factors of brightness, contrast and saturation


class Draw(NamedTuple):
    """image: index into all images. jitter: factors of brightness, contrast and saturation."""

    image: int
    domain: int
    top: int
    left: int
    flip: bool
    jitter: tuple[float, float, float]


class Images(Dataset[tuple[Tensor, Tensor]]):
    """OK images, and after them the template where there is one, all of one size; indexed by draws.

    crop: (height, width) in px. flip: half of the crops are mirrored, left to right. template_probability: that a draw
    is of the template. jitter: colours are changed.
    """

    def __init__(
        self,
        ok: Sequence[Path],
        template: Path | None,
        size: tuple[int, int],
        crop: tuple[int, int],
        flip: bool,
        template_probability: float = 0.0,
        jitter: bool = False,
    ) -> None:
        paths = [*ok, *([] if template is None else [template])]
        self.images = ImageSet([Sample(path, OK) for path in paths], size, name="images for the GAN")
        self.size, self.crop, self.flip, self.jitter = size, crop, flip, jitter
        self.template_probability = template_probability
        self.of_domain = [range(len(ok)), range(len(ok), len(paths))][: 1 if template is None else 2]

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        height, width = self.crop
        image = self.images[draw.image].image[0]
        image = image[:, draw.top : draw.top + height, draw.left : draw.left + width]
        if draw.flip:
            image = image.flip(-1)
        if self.jitter:  # in this order, as torchvision's ColorJitter defines the three
            from kornia import enhance  # seconds

            image = enhance.adjust_brightness_accumulative(image, draw.jitter[0])
            image = enhance.adjust_contrast_with_mean_subtraction(image, draw.jitter[1])
            image = enhance.adjust_saturation_with_gray_subtraction(image, draw.jitter[2])
        return image.contiguous(), torch.tensor(draw.domain)

    def __len__(self) -> int:
        return len(self.of_domain[0])

    def draw(self, rng: np.random.Generator, domain: int, image: int) -> Draw:
        top, left = (int(rng.integers(s - c + 1)) for s, c in zip(self.size, self.crop, strict=True))
        flip = bool(rng.random() < 0.5) and self.flip
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
            if len(self.images.of_domain) > 1 and rng.random() < self.images.template_probability:
                domain, image = 1, int(rng.choice(self.images.of_domain[1]))
            yield self.images.draw(rng, domain, image)


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
