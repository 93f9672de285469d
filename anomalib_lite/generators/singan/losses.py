"""What the critic and the generator of a scale minimise (Shaham et al., ICCV 2019; Gulrajani et al., NeurIPS 2017)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """real, fake: the critic's values for patches of the image and of a generated one."""
    return fake.mean() - real.mean()


def adversarial_loss(fake: Tensor) -> Tensor:
    """The generator's: it wants high values."""
    return -fake.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """The mean over pixels of (length of the gradient over the colours - 1)^2, between the real and the fake image.

    real, fake: (B, 3, H, W). share: of the real image in the mixture, in [0, 1]. As the authors' code has it, the
    gradient is that of the sum of the critic's map, and its length is taken at each pixel, not over the whole image.
    """
    mixed = (share * real + (1 - share) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return ((gradient.norm(dim=1) - 1) ** 2).mean()


def reconstruction_loss(reconstruction: Tensor, real: Tensor) -> Tensor:
    """Mean squared error in the range [-1, 1]."""
    return F.mse_loss(reconstruction, real)


def rmse(a: Tensor, b: Tensor) -> float:
    """Root of the mean squared error, in the range of the images."""
    return float(F.mse_loss(a.double(), b.double()).sqrt())
