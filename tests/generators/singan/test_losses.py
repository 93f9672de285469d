"""Each loss against a value computed by hand, and the penalty against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anomalib_lite.generators.singan import losses
from anomalib_lite.generators.singan.networks import Critic, initialise


def test_the_critic_wants_high_values_for_the_real_image():
    real, fake = torch.tensor([[1.0, 3.0]]), torch.tensor([[-2.0, 0.0, 5.0]])
    assert losses.critic_loss(real, fake).item() == pytest.approx(1.0 - 2.0)


def test_the_generator_wants_high_values_for_its_own():
    assert losses.adversarial_loss(torch.tensor([-2.0, 0.0, 5.0])).item() == pytest.approx(-1.0)


def test_reconstruction_is_the_mean_squared_error():
    value = losses.reconstruction_loss(torch.tensor([0.5, -1.0]), torch.tensor([0.0, 1.0]))
    assert value.item() == pytest.approx((0.25 + 4) / 2)


def test_rmse():
    assert losses.rmse(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])) == pytest.approx((25 / 2) ** 0.5)


def test_penalty_of_a_linear_critic():
    """Its gradient over the colours is (2, -1, 2), of length 3, at every pixel: (3 - 1)^2."""
    slope = torch.tensor([2.0, -1.0, 2.0]).view(1, 3, 1, 1)
    real, fake = torch.rand(1, 3, 4, 5), torch.rand(1, 3, 4, 5)
    value = losses.gradient_penalty(lambda x: (slope * x).sum(1, keepdim=True), real, fake, torch.tensor(0.3))
    assert value.item() == pytest.approx(4.0, rel=1e-5)


def test_penalty_lies_between_the_images_at_the_share_given():
    """The gradient of |x|^2 / 2 is x itself: at 0.25 real (1, 0, 0) and 0.75 fake (0, 0, 0) it has the length 0.25."""
    real = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    value = losses.gradient_penalty(lambda x: x.square().sum() / 2, real, torch.zeros_like(real), torch.tensor(0.25))
    assert value.item() == pytest.approx((0.25 - 1) ** 2)


def test_penalty_of_a_critic_against_finite_differences():
    critic = _critic(seed=0)
    real, fake = (torch.rand(1, 3, 12, 12, dtype=torch.double, generator=_draw(seed)) for seed in (1, 2))
    share = torch.tensor(0.6, dtype=torch.double)
    mixed = share * real + (1 - share) * fake
    slopes = torch.zeros(mixed.numel(), dtype=torch.double)
    for i in range(mixed.numel()):
        ends = []
        for sign in (1, -1):
            moved = mixed.clone()
            moved.view(-1)[i] += sign * 1e-5
            with torch.no_grad():
                ends.append(critic(moved).sum())
        slopes[i] = (ends[0] - ends[1]) / 2e-5
    expected = ((slopes.view_as(mixed).norm(dim=1) - 1) ** 2).mean()
    assert losses.gradient_penalty(critic, real, fake, share).item() == pytest.approx(float(expected), rel=1e-6)


def test_the_penalty_changes_with_the_critics_weights_as_its_gradient_says():
    critic = _critic(seed=3)
    real, fake = (torch.rand(1, 3, 13, 13, dtype=torch.double, generator=_draw(seed)) for seed in (4, 5))
    weight = critic.body[2][0].weight

    def penalty() -> Tensor:
        return losses.gradient_penalty(critic, real, fake, torch.tensor(0.5, dtype=torch.double))

    (slope,) = torch.autograd.grad(penalty(), weight)
    place = tuple(int(i) for i in torch.unravel_index(slope.abs().argmax(), slope.shape))
    ends = []
    for change in (1e-6, -2e-6):
        with torch.no_grad():
            weight[place] += change
        ends.append(penalty().item())
    assert slope[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


def _critic(seed: int) -> Critic:
    critic = Critic(4)
    initialise(critic, _draw(seed))
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(10)  # so that slopes are far from zero
    return critic.double()


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
