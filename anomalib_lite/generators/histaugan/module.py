"""HistAuGAN's training: cross-cycle images, the losses of generator and discriminators, and block-wise fine-tuning."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from anomalib_lite.generators.histaugan.networks import Networks
from anomalib_lite.runs.checkpoints import diverged_batch, stop_where_diverged
from anomalib_lite.settings.training import GANSchedule, LossWeights


class Crossing(NamedTuple):
    """A batch of images with exchanged contents; all images are (B, 3, H, W) in [-1, 1]."""

    content: Tensor  # (B, 4 * channels, h, w)
    mean: Tensor  # of the attributes, (B, attributes)
    log_variance: Tensor
    reconstructed: Tensor  # from their own content and attributes
    encoded: Tensor  # from another image's content and their own attributes
    random: Tensor  # from another image's content and random attributes
    cycled: Tensor  # `encoded` with contents exchanged back: a reconstruction
    drawn: Tensor  # the random attributes
    recovered: Tensor  # attributes encoded from `random`


def cross(networks: Networks, image: Tensor, domain: Tensor, noise: torch.Generator) -> Crossing:
    """Exchanges the contents of the images in a batch, twice (the cross-cycle of DRIT).

    Each image (B, 3, H, W) in [-1, 1] gets the content of the image half a batch further on, cyclically; in an even
    batch this forms pairs, as in DRIT. Raises ValueError for a single image. domain: one-hot (B, D).
    """
    if len(image) < 2:
        raise ValueError("Contents are exchanged between images: a batch needs at least two.")
    half = len(image) // 2

    def noise_like(mean: Tensor) -> Tensor:
        return torch.randn(mean.shape, generator=noise, device=mean.device)

    content = networks.content(image, noise)
    mean, log_variance = networks.attribute(image, domain)
    z = mean + (0.5 * log_variance).exp() * noise_like(mean)
    drawn = noise_like(mean)
    other = content.roll(-half, dims=0)
    decoded = networks.decoder(torch.cat([content, other, other]), torch.cat([z, z, drawn]), torch.cat([domain] * 3))
    reconstructed, encoded, random = decoded.chunk(3)

    content_again = networks.content(encoded, noise).roll(half, dims=0)
    mean_again, log_variance_again = networks.attribute(encoded, domain)
    z_again = mean_again + (0.5 * log_variance_again).exp() * noise_like(mean_again)
    cycled = networks.decoder(content_again, z_again, domain)
    recovered, _ = networks.attribute(random, domain)
    return Crossing(content, mean, log_variance, reconstructed, encoded, random, cycled, drawn, recovered)


def bce_to(logits: Tensor, target: float | Tensor) -> Tensor:
    """Computes the binary cross-entropy with one target for all logits, or one for each."""
    return F.binary_cross_entropy_with_logits(logits, torch.as_tensor(target).to(logits).expand_as(logits))


def attribute_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Computes the KL divergence from N(0, I), summed over the batch as in the official code (whose batch is 2)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()


CONTENT_STEPS = 3  # with two domains, all but every third step train only the content discriminator
CONTENT_CLIP = 5.0  # largest norm of its gradient
BETAS = (0.5, 0.999)  # of Adam


class HistAuGANModule(LightningModule):
    """Trains `networks` on batches of images (B, 3, H, W) in [0, 1] and domains (B,) int64.

    The noise depends only on the seed and the epoch, so that a resumed training draws the same. With one domain, the
    domain losses and the content discriminator's steps are left out.
    """

    def __init__(self, networks: Networks, weights: LossWeights, schedule: GANSchedule, seed: int) -> None:
        super().__init__()
        self.networks, self.weights, self.schedule, self.seed = networks, weights, schedule, seed
        self.automatic_optimization = False
        self.noise = torch.Generator()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        networks, content = self.networks, self.networks.content_discriminator
        generator = nn.ModuleList([networks.content, networks.attribute, networks.decoder])
        discriminators = nn.ModuleList([networks.encoded_discriminator, networks.random_discriminator])
        rate, decay = self.schedule.learning_rate, self.schedule.weight_decay
        parts = [generator, discriminators, *([] if content is None else [content])]
        return [torch.optim.Adam(part.parameters(), rate, BETAS, weight_decay=decay) for part in parts]

    def on_train_epoch_start(self) -> None:
        self.noise = torch.Generator(self.device).manual_seed(1_000_003 * self.seed + self.current_epoch)
        schedule = self.schedule
        factors = (1.0, schedule.discriminator_rate, schedule.content_rate)
        rate = schedule.learning_rate * 0.1 ** (self.current_epoch // schedule.decay_epoch)
        for optimizer, factor in zip(self._optimizers(), factors, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = factor * rate

    def training_step(self, batch: tuple[Tensor, Tensor], step: int) -> None:
        networks, weights = self.networks, self.weights
        image, domain = 2 * batch[0] - 1, networks.one_hot(batch[1])
        if networks.content_discriminator is not None and self._content_step(step):
            with torch.no_grad():
                content = networks.content(image, self.noise)
            loss = bce_to(networks.content_discriminator(content), domain)
            terms = self._step(2, {"content_discriminator": (1.0, loss)}, CONTENT_CLIP)
        else:
            crossing = cross(networks, image, domain, self.noise)
            terms = self._step(1, discriminator_terms(networks, image, domain, crossing, weights))
            with self.toggled_optimizer(self._optimizers()[0]):  # computes no gradients of the discriminators
                terms |= self._step(0, generator_terms(networks, image, domain, crossing, weights))
        in_bar = ("self_reconstruction", "adversarial", "content_discriminator")
        file, when = diverged_batch(Path(self.trainer.default_root_dir)), f"epoch {self.current_epoch + 1} of HistAuGAN"
        loss = torch.stack([*terms.values()]).sum()
        stop_where_diverged(loss, batch[0], file, when, "Lower generator.schedule.learning_rate")
        for name, value in terms.items():
            self.log(name, value, on_step=False, on_epoch=True, batch_size=len(image), prog_bar=name in in_bar)

    def _content_step(self, step: int) -> bool:
        return (step + 1) % CONTENT_STEPS != 0 and step < self.trainer.num_training_batches - 2

    def _step(self, which: int, terms: dict[str, tuple[float, Tensor]], clip: float = 0.0) -> dict[str, Tensor]:
        """Takes one step of an optimizer on the terms' weighted sum, and returns the terms' values."""
        optimizer = self._optimizers()[which]
        optimizer.zero_grad()
        self.manual_backward(torch.stack([weight * value for weight, value in terms.values()]).sum())
        if clip:
            self.clip_gradients(optimizer, gradient_clip_val=clip, gradient_clip_algorithm="norm")
        optimizer.step()
        return {name: value.detach() for name, (_, value) in terms.items()}

    def _optimizers(self) -> list[Any]:
        return list(self.optimizers())


def discriminator_terms(
    networks: Networks, image: Tensor, domain: Tensor, crossing: Crossing, weights: LossWeights
) -> dict[str, tuple[float, Tensor]]:
    """Computes the losses of both image discriminators: weight and value by name."""
    terms: dict[str, tuple[float, Tensor]] = {}
    for kind, fake in (("encoded", crossing.encoded), ("random", crossing.random)):
        discriminator = getattr(networks, f"{kind}_discriminator")
        (real_logits, domain_logits), (fake_logits, _) = discriminator(image), discriminator(fake.detach())
        terms[f"discriminator_{kind}"] = weights.adversarial, bce_to(real_logits, 1) + bce_to(fake_logits, 0)
        if networks.domains > 1:
            domain_loss = bce_to(domain_logits, domain)
            terms[f"discriminator_{kind}_domain"] = weights.domain_discriminator, domain_loss
    return terms


def generator_terms(
    networks: Networks, image: Tensor, domain: Tensor, crossing: Crossing, weights: LossWeights
) -> dict[str, tuple[float, Tensor]]:
    """Computes the losses of the encoders and the decoder: weight and value by name."""
    # twice the mean, because the official code adds the means of the batch's two halves
    latent = 2 * F.l1_loss(crossing.recovered, crossing.drawn)
    adversarial, domain_losses = [], []
    for kind, fake in (("encoded", crossing.encoded), ("random", crossing.random)):
        logits, domain_logits = getattr(networks, f"{kind}_discriminator")(fake)
        adversarial.append(bce_to(logits, 1))
        domain_losses.append(bce_to(domain_logits, domain))
    terms = {
        "adversarial": (weights.adversarial, adversarial[0] + adversarial[1]),
        "self_reconstruction": (weights.self_reconstruction, F.l1_loss(crossing.reconstructed, image)),
        "cross_cycle": (weights.cross_cycle, F.l1_loss(crossing.cycled, image)),
        "content_l2": (weights.content_l2, crossing.content.square().mean()),
        "attribute_kl": (weights.attribute_kl, attribute_kl(crossing.mean, crossing.log_variance)),
        "latent_regression": (weights.latent_regression, latent),
    }
    if networks.content_discriminator is not None:
        confusion = bce_to(networks.content_discriminator(crossing.content), 1 - domain)
        terms["domain"] = weights.domain_generator, domain_losses[0] + domain_losses[1]
        terms["content_confusion"] = weights.content_confusion, confusion
    return terms


class Thaw(Callback):
    """Block-wise fine-tuning: unfreezes one more block in each fifth of the epochs; discriminators always train.

    The blocks are those of the encoders and the decoder, from the output backwards.
    """

    def __init__(self, networks: Networks, epochs: int) -> None:
        decoder, self.epochs = networks.decoder, epochs
        last = ([decoder.colours, decoder.up2], [decoder.up1], [decoder.mixing, decoder.shared])
        self.blocks = [nn.ModuleList(block) for block in (*last, [networks.attribute], [networks.content])]

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        trained = 1 + trainer.current_epoch * len(self.blocks) // self.epochs
        for index, block in enumerate(self.blocks):
            block.requires_grad_(index < trained)
