"""Several processes that train one detector as one process would: batches divided, statistics and losses shared."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, ListConfig
from torch import Tensor
from torch.overrides import TorchFunctionMode

from anomalib_lite.errors import UserError
from anomalib_lite.jobs.quiet import silence


def processes(cfg: DictConfig) -> int:
    """How many train one detector: `trainer.devices`, a number or a list of GPUs."""
    devices = cfg.trainer.devices
    count = len(devices) if isinstance(devices, ListConfig) else devices
    if not isinstance(count, int) or count < 1:
        raise UserError(f"trainer.devices must be a number of processes, 1 or more, but is {devices}.")
    return count


def trainer_settings(cfg: DictConfig, images: int) -> dict[str, Any]:
    """What Lightning's Trainer needs to train in one or in several processes of this machine."""
    settings: dict[str, Any] = {
        "accelerator": cfg.trainer.accelerator,
        "devices": list(cfg.trainer.devices) if isinstance(cfg.trainer.devices, ListConfig) else cfg.trainer.devices,
        "precision": cfg.trainer.precision,
        "plugins": [LightningEnvironment()],  # each training is of one machine, a Slurm job's, too
    }
    if (count := processes(cfg)) == 1:
        return settings
    if images < count:
        raise UserError(f"{images} training images cannot be divided among {count} processes: lower trainer.devices.")
    # started here, from what this process has prepared, and gone after the training; nothing is read anew
    strategy = DDPStrategy(start_method="spawn", broadcast_buffers=False)
    return settings | {"strategy": strategy}


class Together(Callback):
    """In each of several processes: its share of the cores, and batch statistics of all."""

    def __init__(self, count: int) -> None:
        self.threads = max(1, torch.get_num_threads() // count)
        self.shared = SharedBatchNorm()

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        silence()
        torch.set_num_threads(self.threads)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.shared.__enter__()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.shared.__exit__(None, None, None)


class SharedBatchNorm(TorchFunctionMode):
    """Batch normalisation in training takes the mean and variance of all processes' images.

    Unlike torch's SyncBatchNorm it works on the CPU, and in every module that calls `F.batch_norm`, timm's included.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    axes, shape = [0, *range(2, input.dim())], [1, -1, *[1] * (input.dim() - 2)]
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    own = x.new_full((1,), x.numel() // x.shape[1])
    total = _Sum.apply(torch.cat([x.sum(axes), own]))
    count = total[-1]
    mean = total[:-1] / count
    centred = x - mean.view(shape)
    var = _Sum.apply(centred.square().sum(axes)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * count / (count - 1).clamp_min(1)).to(running_var.dtype), momentum)
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    result = centred * scale.view(shape)
    return (result if bias is None else result + bias.view(shape)).to(input.dtype)


class _Sum(torch.autograd.Function):
    """Over the processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _summed(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(own: Tensor) -> Tensor:
    total = own.clone().contiguous()
    dist.all_reduce(total)
    return total


def forget() -> None:
    """The port that the processes met at, which the next training of this process must not take over."""
    os.environ.pop("MASTER_PORT", None)
