"""Lightning's Trainer as configured: any argument, devices that are here, and processes that share a batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hydra.utils import instantiate
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from safetensors.torch import load_file
from torch import Tensor, nn

from anomalib_lite.detectors.model import weighted_mean
from anomalib_lite.engine.trainer import devices_of, fit_model, make_trainer
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import Progress
from anomalib_lite.runs.folder import RunFolder
from tests.clusters import free_port
from tests.commands import only_run, refused


def configured(**given: Any) -> Callable[..., Trainer]:
    return partial(Trainer, **{"accelerator": "cpu", "devices": 1} | given)


def test_any_argument_of_the_trainer_reaches_it():
    stop = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val_loss"}
    plan = {"_target_": "lightning.Trainer", "_partial_": True, "accelerator": "cpu", "callbacks": [stop]}
    made = make_trainer(instantiate(plan | {"gradient_clip_val": 0.5}, _convert_="all"), [Progress()])
    assert made.gradient_clip_val == 0.5
    assert {EarlyStopping, Progress} <= {type(callback) for callback in made.callbacks}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps", "nonsense"])
def test_a_device_that_is_not_here_is_refused_in_words(accelerator):
    with pytest.raises(UserError, match=f"accelerator={accelerator}.*is not available here"):
        devices_of(configured(accelerator=accelerator))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_is_refused_before_anything_runs(here, tiny):
    assert "is not available here" in refused("train", *tiny, "trainer=ddp")
    assert not (here / "artifacts").exists() and not list(here.glob("runs/default/*"))


def test_a_strategy_that_starts_the_command_again_is_refused():
    with pytest.raises(UserError, match="ddp_spawn"):
        devices_of(configured(devices=2, strategy="ddp"))
    assert devices_of(configured(devices=2, strategy="ddp_spawn")).shared
    assert devices_of(configured(accelerator="auto")) == (devices_of(configured(accelerator="auto")).first, False)


def test_batch_normalisation_of_one_value_is_explained():
    class Broken(Trainer):
        def fit(self, *_: Any, **__: Any) -> None:
            nn.BatchNorm2d(3)(torch.rand(1, 3, 1, 1))

    with pytest.raises(UserError, match="batch_size of 2 or more"):
        fit_model(Broken(accelerator="cpu", logger=False), LightningModule())


def loss(net: nn.Module, image: Tensor, weight: Tensor) -> Tensor:
    answer = net(image)
    return weighted_mean((answer - torch.linspace(-1, 1, answer[0].numel())).square().mean(1), weight)


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """Seven examples, which two processes cannot halve, of different weights."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    weight = torch.rand(7, generator=generator, dtype=torch.double) + 0.1
    return nn.Linear(5, 3).double(), torch.rand(7, 5, generator=generator, dtype=torch.double), weight


def learn(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    net, image, weight = problem()
    wrapped = nn.parallel.DistributedDataParallel(net)  # must live until the gradients are summed
    loss(wrapped, image[rank::2], weight[rank::2]).backward()
    torch.save([p.grad for p in net.parameters()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path):
    mp.spawn(learn, (free_port(), str(tmp_path)), nprocs=2)
    net, image, weight = problem()
    loss(net, image, weight).backward()
    for rank in range(2):
        for found, parameter in zip(torch.load(tmp_path / f"{rank}.pt"), net.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, rtol=1e-9, atol=1e-12)


RATE = "generator.schedule.learning_rate"


class Diverging(Callback):
    """Makes the weights too large for any loss after the first step."""

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        for parameter in module.method.student.parameters():
            parameter.data.fill_(float("nan"))


@pytest.mark.parametrize(
    ("options", "size", "told"),
    [
        (["trainer.callbacks=[{_target_:tests.engine.test_trainer.Diverging}]"], (4, 3, 48, 48), "detector.optimizer"),
        (["teacher=finetuned", "teacher.optimizer.lr=1e30", "teacher.scheduler=null"], (21, 3, 48, 48), "the teacher"),
        (["generator=histaugan", f"{RATE}=1e30", "generator.schedule.epochs=3"], (8, 3, 32, 32), "of HistAuGAN"),
        (["generator=singan", f"{RATE}=1e30"], (1, 3, 20, 20), "of SinGAN's scale 1"),
    ],
    ids=["detector", "teacher", "histaugan", "singan"],
)
def test_a_loss_that_is_no_number_stops_with_words_and_keeps_the_batch(options, size, told, here, tiny):
    said = refused("train", *tiny, *options)
    (kept,) = here.rglob("diverged*.safetensors")
    assert "the training has diverged" in said and told in said and str(kept.relative_to(here)) in said
    image = load_file(kept)["image"]
    assert image.shape == size and 0 <= image.min() < image.max() <= 1
    assert RunFolder(only_run(here)).status["state"] == "failed"
