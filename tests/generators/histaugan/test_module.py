"""The losses of both games, and what a training step changes."""

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import softplus

from anomalib_lite.generators.base import LossLog, read_losses
from anomalib_lite.generators.histaugan import LossWeights, Schedule
from anomalib_lite.generators.histaugan.module import (
    HistAuGANModule,
    Thaw,
    attribute_kl,
    bce_to,
    cross,
    discriminator_terms,
    generator_terms,
)
from anomalib_lite.generators.histaugan.networks import Networks
from tests.generators.conftest import TINY


def test_logits_go_towards_one_target_or_each_towards_its_own() -> None:
    logits, one_hot = torch.tensor([[0.5, -3.0]]), torch.tensor([[1.0, 0.0]])
    assert bce_to(logits, 0).item() == pytest.approx(softplus(logits).mean().item())
    assert bce_to(logits, 1).item() == pytest.approx(softplus(-logits).mean().item())
    assert bce_to(logits, one_hot).item() == pytest.approx(softplus(torch.tensor([-0.5, -3.0])).mean().item())


def test_divergence_of_attributes() -> None:
    mean, log_variance = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, math.log(4.0)], [0.0, 0.0]])
    assert attribute_kl(mean, log_variance).item() == pytest.approx(0.5 * (1 + (4 - 1 - math.log(4)) + 0 + 4))


def ideal() -> SimpleNamespace:
    """Encoders and decoder that take images apart exactly: content is what varies, attribute the colours' means."""

    def attribute(image: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        mean = image.mean(dim=(2, 3))
        return mean, torch.full_like(mean, -1e9)

    return SimpleNamespace(
        content=lambda image, noise: image - image.mean(dim=(2, 3), keepdim=True),
        attribute=attribute,
        decoder=lambda content, z, domain: content + z[:, :, None, None],
    )


@pytest.mark.parametrize("batch", [2, 3, 4, 5])
def test_contents_go_round_and_come_back(batch: int) -> None:
    image, domain = torch.rand(batch, 3, 8, 8), torch.ones(batch, 1)
    crossing = cross(ideal(), image, domain, torch.Generator())
    own = image.mean(dim=(2, 3), keepdim=True)
    donors = [(i + batch // 2) % batch for i in range(batch)]
    assert all(i != donor for i, donor in enumerate(donors))
    torch.testing.assert_close(crossing.encoded, (image - own)[donors] + own)
    torch.testing.assert_close(crossing.random, (image - own)[donors] + crossing.drawn[:, :, None, None])
    torch.testing.assert_close(crossing.reconstructed, image)
    torch.testing.assert_close(crossing.cycled, image)
    torch.testing.assert_close(crossing.recovered, crossing.drawn)
    with pytest.raises(ValueError, match="at least two"):
        cross(ideal(), image[:1], domain[:1], torch.Generator())


LEARNED = {"adversarial", "self_reconstruction", "cross_cycle", "content_l2", "attribute_kl", "latent_regression"}
LEARNED |= {"discriminator_encoded", "discriminator_random"}
OF_DOMAINS = {"domain", "content_confusion", "content_discriminator"}
OF_DOMAINS |= {"discriminator_encoded_domain", "discriminator_random_domain"}


@pytest.mark.parametrize("domains", [1, 2])
def test_terms_are_the_weighted_losses_and_train_each_games_own_networks(domains: int) -> None:
    networks, weights = Networks(TINY, domains, (32, 32)), LossWeights(self_reconstruction=7.0)
    image, domain = torch.rand(4, 3, 32, 32), networks.one_hot(torch.arange(4) % domains)
    crossing = cross(networks, image, domain, torch.Generator())
    learned, judged = (f(networks, image, domain, crossing, weights) for f in (generator_terms, discriminator_terms))
    expected = LEARNED | (OF_DOMAINS - {"content_discriminator"} if domains > 1 else set())
    assert set(learned) | set(judged) == expected
    weight, value = learned["self_reconstruction"]
    assert weight == 7.0 and value.item() == pytest.approx((crossing.reconstructed - image).abs().mean().item())
    halves = (crossing.recovered - crossing.drawn).abs().view(2, -1).mean(dim=1)
    assert learned["latent_regression"][1].item() == pytest.approx(halves.sum().item())
    for kind, fake in (("encoded", crossing.encoded), ("random", crossing.random)):
        real, logits = (getattr(networks, f"{kind}_discriminator")(shown)[0] for shown in (image, fake))
        by_hand = (softplus(-real).mean() + softplus(logits).mean()).item()
        assert judged[f"discriminator_{kind}"][1].item() == pytest.approx(by_hand, rel=1e-5)
    if domains > 1:
        assert learned["domain"][0] == 5.0 and learned["content_confusion"][0] == 1.0
    sum(value for _, value in judged.values()).backward()
    learners = [p for part in (networks.content, networks.attribute, networks.decoder) for p in part.parameters()]
    assert all(p.grad is None for p in learners)
    sum(value for _, value in learned.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learners)


@pytest.mark.parametrize(("golden", "precision"), [(False, "32-true"), (True, "32-true"), (True, "bf16-mixed")])
def test_a_training_has_finite_losses(golden, precision, ok, template, build, tmp_path):
    log = LossLog(tmp_path / "losses.jsonl")
    build(precision=precision).fit(ok, template if golden else None, tmp_path, 0, [log])
    losses = read_losses(log.path)
    assert set(losses["name"]) - {"epoch"} == LEARNED | (OF_DOMAINS if golden else set())
    assert (losses["name"] == "self_reconstruction").sum() == 2  # one value an epoch
    assert all(math.isfinite(value) for value in losses["value"])
    assert all(value.isfinite().all() for value in load_file(tmp_path / "histaugan.safetensors").values())


def test_two_of_three_steps_with_two_domains_are_the_content_discriminators() -> None:
    module = HistAuGANModule(Networks(TINY, 2, (32, 32)), LossWeights(), Schedule(), 0)
    module._trainer = SimpleNamespace(num_training_batches=8)
    steps = "".join("c" if module._content_step(step) else "-" for step in range(8))
    assert steps == "cc-cc---"  # the last two steps of an epoch are never the content's


def test_rates_fall_to_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(learning_rate=1e-4, decay_epoch=600, discriminator_rate=1.0, content_rate=0.4)
    module = HistAuGANModule(Networks(TINY, 2, (32, 32)), LossWeights(), schedule, 0)
    optimizers = module.configure_optimizers()
    monkeypatch.setattr(module, "optimizers", lambda: optimizers)
    for epoch, rate in ((0, 1e-4), (599, 1e-4), (600, 1e-5), (1199, 1e-5)):
        monkeypatch.setattr(HistAuGANModule, "current_epoch", epoch)
        module.on_train_epoch_start()
        assert [o.param_groups[0]["lr"] for o in optimizers] == pytest.approx([rate, rate, 0.4 * rate])


def test_blocks_thaw_from_the_output_backwards() -> None:
    networks = Networks(TINY, 1, (32, 32))
    thaw, trainer, learning = Thaw(networks, epochs=10), SimpleNamespace(), []
    for trainer.current_epoch in range(10):
        thaw.on_train_epoch_start(trainer, None)
        learning.append(sum(next(block.parameters()).requires_grad for block in thaw.blocks))
    assert learning == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert all(p.requires_grad for p in networks.encoded_discriminator.parameters())
    learners = (networks.content, networks.attribute, networks.decoder)
    parameters = {id(p) for part in learners for p in part.parameters()}
    assert {id(p) for block in thaw.blocks for p in block.parameters()} == parameters
