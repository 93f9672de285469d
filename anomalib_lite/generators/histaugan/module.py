"""The training step: images made from each other's content and attributes, the losses of both games, three optimizers
each in its turn, and which blocks learn in a fine-tuning.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from anomalib_lite.generators.histaugan.networks import Networks
from anomalib_lite.runs.checkpoints import diverged_batch, stop_where_diverged
from anomalib_lite.settings.training import GANSchedule, LossWeights


@dataclass(frozen=True)
class Crossing:
    """content (B, 4 * channels, h, w); mean, log_variance (B, attributes) of the images' own attributes.

    Images (B, 3, H, W) in [-1, 1]: own, from an image's content and attribute; encoded, from another's content; random,
    from another's content and drawn attributes; back, from the encoded images, crossed once more.
    drawn, found: the drawn attributes, and those that the encoder finds in `random`.
    """

    content: Tensor
    mean: Tensor
    log_variance: Tensor
    own: Tensor
    encoded: Tensor
    random: Tensor
    back: Tensor
    drawn: Tensor
    found: Tensor


def cross(networks: Networks, image: Tensor, domain: Tensor, noise: torch.Generator) -> Crossing:
    """image (B, 3, H, W) in [-1, 1], domain: one-hot (B, D).

    Each image gets the content of the one half a batch further on. In an even batch that pairs them, as in DRIT; in an
    odd one they go round, and nothing is lost. An image alone would be crossed with itself: batches hold two or more.
    """
    if len(image) < 2:
        raise ValueError("Images are crossed with each other: a batch needs at least two.")
    half = len(image) // 2

    def drawn_like(mean: Tensor) -> Tensor:
        return torch.randn(mean.shape, generator=noise, device=mean.device)

    content = networks.content(image, noise)
    mean, log_variance = networks.attribute(image, domain)
    z = mean + (0.5 * log_variance).exp() * drawn_like(mean)
    drawn = drawn_like(mean)
    other = content.roll(-half, dims=0)
    made = networks.decoder(torch.cat([content, other, other]), torch.cat([z, z, drawn]), torch.cat([domain] * 3))
    own, encoded, random = made.chunk(3)

    content_again = networks.content(encoded, noise).roll(half, dims=0)
    mean_again, log_variance_again = networks.attribute(encoded, domain)
    z_again = mean_again + (0.5 * log_variance_again).exp() * drawn_like(mean_again)
    back = networks.decoder(content_again, z_again, domain)
    found, _ = networks.attribute(random, domain)
    return Crossing(content, mean, log_variance, own, encoded, random, back, drawn, found)


def towards(logits: Tensor, target: float | Tensor) -> Tensor:
    """Binary cross-entropy of logits towards a target, one for all or one each."""
    return F.binary_cross_entropy_with_logits(logits, torch.as_tensor(target).to(logits).expand_as(logits))


def attribute_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence from N(0, I), summed over the batch as in the official code (whose batch is 2), not averaged."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()


CONTENT_STEPS = 3  # of so many steps with two domains, all but one train the content discriminator alone
CONTENT_CLIP = 5.0  # norm of its gradient
BETAS = (0.5, 0.999)  # Adam's


class HistAuGANModule(LightningModule):
    """Trains `networks` on batches of images (B, 3, H, W) in [0, 1] and domains (B,) int64.

    Noise depends on the seed and the epoch alone, so that a resumed training draws what an unbroken one does. With one
    domain, every domain has the same name and the content nothing to hide: the domain terms and the content
    discriminator's steps are left out.
    """

    def __init__(self, networks: Networks, weights: LossWeights, schedule: GANSchedule, seed: int) -> None:
        super().__init__()
        self.networks, self.weights, self.schedule, self.seed = networks, weights, schedule, seed
        self.automatic_optimization = False
        self.noise = torch.Generator()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        networks, content = self.networks, self.networks.content_discriminator
        learners = nn.ModuleList([networks.content, networks.attribute, networks.decoder])
        judges = nn.ModuleList([networks.encoded_discriminator, networks.random_discriminator])
        rate, decay = self.schedule.learning_rate, self.schedule.weight_decay
        parts = [learners, judges, *([] if content is None else [content])]
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
        image, domain = 2 * batch[0] - 1, self.networks.one_hot(batch[1])
        if self._content_step(step):
            terms = {"content_discriminator": self._train_content_discriminator(image, domain)}
        else:
            networks, weights = self.networks, self.weights
            crossing = cross(networks, image, domain, self.noise)
            terms = self._step(1, discriminator_terms(networks, image, domain, crossing, weights))
            with self.toggled_optimizer(self._optimizers()[0]):  # spares the discriminators' gradients
                terms |= self._step(0, learner_terms(networks, image, domain, crossing, weights))
        shown = ("self_reconstruction", "adversarial", "content_discriminator")
        kept, when = diverged_batch(Path(self.trainer.default_root_dir)), f"epoch {self.current_epoch + 1} of HistAuGAN"
        loss = torch.stack([*terms.values()]).sum()
        stop_where_diverged(loss, batch[0], kept, when, "Lower generator.schedule.learning_rate")
        for name, value in terms.items():
            self.log(name, value, on_step=False, on_epoch=True, batch_size=len(image), prog_bar=name in shown)

    def _content_step(self, step: int) -> bool:
        if self.networks.content_discriminator is None:
            return False
        return (step + 1) % CONTENT_STEPS != 0 and step < self.trainer.num_training_batches - 2

    def _train_content_discriminator(self, image: Tensor, domain: Tensor) -> Tensor:
        discriminator = self.networks.content_discriminator
        assert discriminator is not None
        optimizer = self._optimizers()[2]
        with torch.no_grad():
            content = self.networks.content(image, self.noise)
        loss = towards(discriminator(content), domain)
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=CONTENT_CLIP, gradient_clip_algorithm="norm")
        optimizer.step()
        return loss.detach()

    def _step(self, which: int, terms: dict[str, tuple[float, Tensor]]) -> dict[str, Tensor]:
        """One step of an optimizer down the terms' weighted sum; returns their values."""
        optimizer = self._optimizers()[which]
        optimizer.zero_grad()
        self.manual_backward(torch.stack([weight * value for weight, value in terms.values()]).sum())
        optimizer.step()
        return {name: value.detach() for name, (_, value) in terms.items()}

    def _optimizers(self) -> list[Any]:
        return list(self.optimizers())


def discriminator_terms(
    networks: Networks, image: Tensor, domain: Tensor, crossing: Crossing, weights: LossWeights
) -> dict[str, tuple[float, Tensor]]:
    """Name -> weight and value, of both image discriminators' losses."""
    terms: dict[str, tuple[float, Tensor]] = {}
    for kind, fake in (("encoded", crossing.encoded), ("random", crossing.random)):
        discriminator = getattr(networks, f"{kind}_discriminator")
        (real_logits, domain_logits), (fake_logits, _) = discriminator(image), discriminator(fake.detach())
        terms[f"discriminator_{kind}"] = weights.adversarial, towards(real_logits, 1) + towards(fake_logits, 0)
        if networks.domains > 1:
            named = towards(domain_logits, domain)
            terms[f"discriminator_{kind}_domain"] = weights.domain_discriminator, named
    return terms


def learner_terms(
    networks: Networks, image: Tensor, domain: Tensor, crossing: Crossing, weights: LossWeights
) -> dict[str, tuple[float, Tensor]]:
    """Name -> weight and value, of what encoders and decoder are trained for together."""
    # twice the mean, because the official code adds the means of the batch's two halves
    latent = 2 * F.l1_loss(crossing.found, crossing.drawn)
    fooled, named = [], []
    for kind, fake in (("encoded", crossing.encoded), ("random", crossing.random)):
        logits, domain_logits = getattr(networks, f"{kind}_discriminator")(fake)
        fooled.append(towards(logits, 1))
        named.append(towards(domain_logits, domain))
    terms = {
        "adversarial": (weights.adversarial, fooled[0] + fooled[1]),
        "self_reconstruction": (weights.self_reconstruction, F.l1_loss(crossing.own, image)),
        "cross_cycle": (weights.cross_cycle, F.l1_loss(crossing.back, image)),
        "content_l2": (weights.content_l2, crossing.content.square().mean()),
        "attribute_kl": (weights.attribute_kl, attribute_kl(crossing.mean, crossing.log_variance)),
        "latent_regression": (weights.latent_regression, latent),
    }
    if networks.content_discriminator is not None:
        hidden = towards(networks.content_discriminator(crossing.content), 1 - domain)
        terms["domain"] = weights.domain_generator, named[0] + named[1]
        terms["content_confusion"] = weights.content_confusion, hidden
    return terms


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
