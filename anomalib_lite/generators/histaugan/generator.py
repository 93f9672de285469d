"""HistAuGAN as a generator: its training data, its resumable training, and drawing images with random attributes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, chain
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

from anomalib_lite.data.decode import read_sample, resize_image
from anomalib_lite.data.images import ImageSet, to_float, to_pixels
from anomalib_lite.data.sample import Sample
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import Generated, Generator, Progress, device_for
from anomalib_lite.generators.histaugan.module import HistAuGANModule, Thaw
from anomalib_lite.generators.histaugan.networks import STRIDE, Networks
from anomalib_lite.runs.atomic import atomic_path, write_json
from anomalib_lite.runs.checkpoints import WholeCheckpoints, resumable
from anomalib_lite.settings.training import Architecture, GANSchedule, LossWeights, finetuning_schedule

DESCRIPTION, WEIGHTS, CHECKPOINTS = "histaugan.json", "histaugan.safetensors", "checkpoints"
Pair = tuple[int, int]


@dataclass(eq=False)
class HistAuGAN(Generator):
    """Draws images with the content of an OK image and other colours and light.

    Wagner et al., "Structure-Preserving Multi-Domain Stain Color Augmentation Using Style-Transfer with Disentangled
    Representations", MICCAI 2021. The OK images are one domain; the template, if there is one, is the second.

    The options are those of `settings.training.HistAuGAN`. `finetune` first trains a GAN of one domain on the OK
    images, or takes that of `start_from`, and then fine-tunes it on flipped and recoloured crops of the template.
    """

    after_training = ("sampling", "template_share")

    size: Any = 128  # of the images in px: one number, or (height, width)
    crop: Any = 96  # of the training crops
    architecture: Architecture = field(default_factory=Architecture)
    losses: LossWeights = field(default_factory=LossWeights)
    schedule: GANSchedule = field(default_factory=GANSchedule)
    flip: bool = True
    template_probability: float = 0.1
    template_share: float = 0.5
    sampling: Literal["random", "statistics", "encoded"] = "statistics"
    finetune: Literal["standard", "blockwise"] | None = None
    finetuning: GANSchedule = field(default_factory=finetuning_schedule)
    start_from: str | Path | None = None
    accelerator: str = "cpu"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        self.size, self.crop = _pair(self.size), _pair(self.crop)
        # a group of settings that is null means its defaults
        self.architecture, self.losses = self.architecture or Architecture(), self.losses or LossWeights()
        self.schedule, self.finetuning = self.schedule or GANSchedule(), self.finetuning or finetuning_schedule()
        self.networks: Networks | None = None
        if any(c % STRIDE or not 32 <= c <= s for c, s in zip(self.crop, self.size, strict=True)):
            raise UserError(
                f"HistAuGAN's crop must be a multiple of {STRIDE}, at least 32 px, and fit in the images: "
                f"crop {self.crop}, size {self.size}."
            )
        if min(self.schedule.batch, self.finetuning.batch) < 2:
            raise UserError("HistAuGAN combines the images of a batch with each other: set its batch to 2 or more.")

    def fit(self, ok: Sequence[Sample], template: Sample | None, folder: Path, seed: int, logger: Any = None) -> None:
        if not ok:
            raise UserError("HistAuGAN learns from OK images, but there are none: add some.")
        if self.finetune and template is None:
            raise UserError("Fine-tuning HistAuGAN needs a template: name one, or set finetune to null.")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / DESCRIPTION).is_file():
            if self.finetune and template is not None:
                self._finetune(ok, template, folder, seed, logger)
            else:
                self._fit(ok, template, folder, seed, logger)
        self.load(folder)

    def _fit(self, ok: Sequence[Sample], template: Sample | None, folder: Path, seed: int, logger: Any) -> None:
        images = Images([ok] if template is None else [ok, [template]], self.size, self.crop, self.flip)
        networks = Networks(self.architecture, len(images.of_domain), self.crop, seed)
        module = HistAuGANModule(networks, self.losses, self.schedule, seed)
        self._train(module, images, len(ok), folder, logger)
        finish(networks, images, folder, seed, ["generated", "template_generated"][: networks.domains])

    def _finetune(self, ok: Sequence[Sample], template: Sample, folder: Path, seed: int, logger: Any) -> None:
        base = Path(self.start_from) if self.start_from else folder / "base"
        if not self.start_from and not (base / DESCRIPTION).is_file():
            base.mkdir(exist_ok=True)
            self._fit(ok, None, base, seed, logger)
        networks, _, notes = read(base)
        if networks.domains > 1:
            raise UserError(
                f"Fine-tuning needs a GAN of one domain, but that in {base} has {networks.domains}: set start_from to "
                "one that was trained without a template."
            )
        images = Images([[template]], _pair(notes["size"]), networks.crop, self.flip, jitter=True)
        module = HistAuGANModule(networks.train().requires_grad_(True), self.losses, self.finetuning, seed)
        thaw = [Thaw(networks, self.finetuning.epochs)] if self.finetune == "blockwise" else []
        self._train(module, images, len(ok), folder, logger, thaw)
        finish(networks, images, folder, seed, ["template_generated"])

    def _train(
        self, module: HistAuGANModule, images: Images, length: int, folder: Path, logger: Any, thaw: Sequence[Thaw] = ()
    ) -> None:
        """Trains from the last checkpoint in `folder`, if there is one. length: number of draws per epoch.

        Raises KeyboardInterrupt after Ctrl-C, which Lightning swallows, and UserError for a checkpoint that holds code.
        """
        schedule, last = module.schedule, folder / CHECKPOINTS / "last.ckpt"
        checkpointing = ModelCheckpoint(
            last.parent, filename=last.stem, enable_version_counter=False, every_n_epochs=schedule.checkpoint_every
        )
        trainer = Trainer(
            accelerator=self.accelerator, devices=1, precision=cast("Any", self.precision), max_epochs=schedule.epochs,
            callbacks=[*thaw, checkpointing, Progress()], logger=logger or False, default_root_dir=folder,
            log_every_n_steps=1, enable_model_summary=False, use_distributed_sampler=False,
            plugins=[WholeCheckpoints()],
        )  # fmt: skip
        draws = Draws(images, length, schedule.batch, module.seed, self.template_probability)
        batches = DataLoader(images, schedule.batch, sampler=draws)
        trainer.fit(module, batches, ckpt_path=resumable(last.parent), weights_only=True)

    def load(self, folder: Path) -> None:
        self.networks, self._encoded, notes = read(folder)
        self.networks.to(device_for(self.accelerator))
        self._size, self._origins = _pair(notes["size"]), notes["origins"]

    def sample(self, n: int, seed: int, ok: Sequence[Sample]) -> Iterator[Generated]:
        """Uses the OK images' contents in shuffled order; image i depends only on the seed and i."""
        networks = self._trained()
        for index in range(n):
            rng = np.random.default_rng([seed, index])
            pass_, position = divmod(index, len(ok))
            content = int(np.random.default_rng([seed, pass_, 0]).permutation(len(ok))[position])
            domain = int(len(self._origins) > 1 and rng.random() < self.template_share)
            image = self.translate(read_sample(ok[content]), self._attribute(networks, domain, rng), domain)
            yield Generated(image, content, self._origins[domain])

    def translate(self, image: np.ndarray, z: Tensor, domain: int) -> np.ndarray:
        """Draws an image, uint8 (height, width, 3), with the content of another, uint8 (H, W, 3), and attributes z."""
        networks = self._trained()
        batch = to_float(resize_image(image, *self._size)[None]).to(networks.attribute_mean.device)
        made = networks.translate(batch, z[None].to(batch.device), torch.tensor([domain], device=batch.device))
        return to_pixels(made.clamp(0, 1).cpu())[0]

    def restyle(self, image: Tensor, p: float = 0.5) -> Tensor:
        """Augments a batch (B, 3, H, W) in [0, 1]: with probability p an image gets new attributes.

        They are drawn from N(mean, std^2) of a random domain; the content stays.
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
        """Draws attributes from N(0, I), from the domain's mean and standard deviation, or from one of its images."""
        if self.sampling == "encoded":
            return self._encoded[domain][int(rng.integers(len(self._encoded[domain])))]
        z = torch.from_numpy(rng.standard_normal(networks.attribute_mean.shape[1])).float()
        if self.sampling == "random":
            return z
        return networks.attribute_mean[domain].cpu() + networks.attribute_std[domain].cpu() * z

    def _trained(self) -> Networks:
        if self.networks is None:
            raise UserError("This HistAuGAN has not been trained or loaded yet: call fit or load first.")
        return self.networks


def _pair(size: int | Sequence[int]) -> Pair:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


JITTER = 0.2  # half-width of the factors of brightness, contrast and saturation


class Draw(NamedTuple):
    """A random crop. image: index into all images. jitter: factors of brightness, contrast and saturation."""

    image: int
    domain: int
    top: int
    left: int
    flip: bool
    jitter: tuple[float, float, float]


class Images(Dataset[tuple[Tensor, Tensor]]):
    """The images of each domain, the OK images first, all of one size; indexed by a `Draw`.

    flip: mirrors half of the crops. jitter: changes the colours.
    """

    def __init__(
        self, domains: Sequence[Sequence[Sample]], size: Pair, crop: Pair, flip: bool, jitter: bool = False
    ) -> None:
        self.images = ImageSet([replace(s, template=None) for s in chain(*domains)], size, name="for the GAN")
        self.size, self.crop, self.flip, self.jitter = size, crop, flip, jitter
        ends = accumulate(map(len, domains))
        self.of_domain = [range(end - len(domain), end) for domain, end in zip(domains, ends, strict=True)]

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        height, width = self.crop
        image = self.images[draw.image].image[0, :, draw.top : draw.top + height, draw.left : draw.left + width]
        if draw.flip:
            image = image.flip(-1)
        if self.jitter:  # as torchvision's ColorJitter defines the three
            from kornia import enhance  # takes seconds

            image = enhance.adjust_brightness_accumulative(image, draw.jitter[0])
            image = enhance.adjust_contrast_with_mean_subtraction(image, draw.jitter[1])
            image = enhance.adjust_saturation_with_gray_subtraction(image, draw.jitter[2])
        return image.contiguous(), torch.tensor(draw.domain)

    def draw(self, rng: np.random.Generator, domain: int, image: int) -> Draw:
        top, left = (int(rng.integers(s - c + 1)) for s, c in zip(self.size, self.crop, strict=True))
        flip = bool(rng.random() < 0.5) and self.flip
        b, c, s = (float(f) for f in rng.uniform(1 - JITTER, 1 + JITTER, 3))
        return Draw(image, domain, top, left, flip, (b, c, s))


class Draws(Sampler[Draw]):
    """Yields an epoch's draws: the OK images in shuffled order, each replaced by the template with its probability.

    The draws depend only on the seed and the epoch; Lightning calls `set_epoch` before each epoch. length: number of
    draws, rounded up to whole batches; the images repeat if there are fewer.
    """

    def __init__(self, images: Images, length: int, batch: int, seed: int, template_probability: float = 0.0) -> None:
        self.images, self.length, self.seed, self.epoch = images, -(-length // batch) * batch, seed, 0
        self.template_probability = template_probability

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.images.of_domain[0]))
        for number in range(self.length):
            domain, image = 0, int(order[number % len(order)])
            if len(self.images.of_domain) > 1 and rng.random() < self.template_probability:
                domain, image = 1, int(rng.choice(self.images.of_domain[1]))
            yield self.images.draw(rng, domain, image)


FEWEST = 64  # least number of crops encoded per domain, so that a single template has a spread, too


def finish(networks: Networks, images: Images, folder: Path, seed: int, origins: list[str]) -> None:
    """Computes the attributes' statistics and writes the files for `read`; the description, the last, marks success.

    The statistics of a domain are those of one random crop per image, at least `FEWEST` in all.
    """
    rng, device, encoded = np.random.default_rng([seed, 1]), networks.eval().attribute_mean.device, {}
    for domain, members in enumerate(images.of_domain):
        rounds = -(-FEWEST // len(members))
        crops = [images[images.draw(rng, domain, image)] for _ in range(rounds) for image in members]
        bar = tqdm(crops, f"encode domain {domain}", delay=2, leave=False)
        codes = torch.cat([networks.encode(crop[None].to(device), of[None].to(device)) for crop, of in bar])
        codes = encoded[f"encoded.{domain}"] = codes.float().cpu()
        networks.attribute_mean[domain], networks.attribute_std[domain] = codes.mean(dim=0), codes.std(dim=0)
    tensors = {name: value.detach().cpu().contiguous() for name, value in networks.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors | encoded, temporary)
    design = {"architecture": asdict(networks.architecture), "domains": networks.domains, "crop": list(networks.crop)}
    write_json(folder / DESCRIPTION, design | {"size": list(images.size), "origins": origins})
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def read(folder: Path) -> tuple[Networks, list[Tensor], dict[str, Any]]:
    """Reads the trained networks in eval mode, each domain's encoded attributes, and the description.

    Raises UserError if the folder holds no finished GAN.
    """
    if not (folder / DESCRIPTION).is_file():
        raise UserError(f"{folder} holds no finished HistAuGAN ({DESCRIPTION} is missing): train it first.")
    notes = json.loads((folder / DESCRIPTION).read_text())
    networks = Networks(Architecture(**notes["architecture"]), notes["domains"], tuple(notes["crop"]))
    tensors = load_file(folder / WEIGHTS)
    encoded = [tensors.pop(f"encoded.{domain}") for domain in range(networks.domains)]
    networks.load_state_dict(tensors)
    return networks.eval().requires_grad_(False), encoded, notes
