"""Processes that train together do what one process would do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from anomalib_lite.data import images
from anomalib_lite.data.images import Shares, ShuffledByEpoch
from anomalib_lite.detectors.model import weighted_mean
from anomalib_lite.jobs.together import SharedBatchNorm
from tests.clusters import free_port
from tests.commands import Command


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4, affine=False)]
    return nn.Sequential(*layers).double()


def batch() -> tuple[Tensor, Tensor]:
    """Seven images, which two processes cannot halve, of different weights and brightness."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(7, 3, 16, 16, generator=generator, dtype=torch.double)
    return image + torch.arange(7).view(-1, 1, 1, 1), torch.rand(7, generator=generator, dtype=torch.double) + 0.1


def loss(net: nn.Module, image: Tensor, weight: Tensor) -> Tensor:
    answer = net(image)
    target = torch.linspace(-1, 1, answer[0].numel()).view(answer[0].shape)
    return weighted_mean((answer - target).square().mean((1, 2, 3)), weight)


def learn(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    net = network()
    image, weight = batch()
    together = nn.parallel.DistributedDataParallel(net)  # kept until the gradients are summed
    with SharedBatchNorm():
        loss(together, image[rank::2], weight[rank::2]).backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    torch.save((gradients, dict(net.named_buffers())), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_and_statistics_of_one(tmp_path: Path):
    mp.spawn(learn, (free_port(), str(tmp_path)), nprocs=2)
    net = network()
    loss(net, *batch()).backward()
    for rank in range(2):
        gradients, buffers = torch.load(tmp_path / f"{rank}.pt")
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-12)
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(buffers[name], buffer, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("length", "sizes"), [(8, [4, 4]), (9, [4, 4]), (10, [4, 4, 2]), (11, [4, 4, 3]), (2, [2]), (3, [3])]
)
def test_every_image_of_a_batch_is_in_one_share(length: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch):
    """The shares of a batch make up the batch that one process would have."""
    shares = Shares(ShuffledByEpoch(length, seed=3), 4)
    alone = list(shares)
    assert [len(batch) for batch in alone] == sizes, "one image left over has nothing to be normalised with"
    parts = []
    for rank in range(2):
        monkeypatch.setattr(images, "_processes", lambda rank=rank: (rank, 2))
        assert len(shares) == len(alone)
        parts.append(list(shares))
    for whole, first, second in zip(alone, *parts, strict=True):
        assert sorted(first + second) == sorted(whole) and first and second


def test_ddp_ends_where_one_process_ends(run_verb: Command, tiny: list[str], tmp_path: Path):
    paths = [f"paths.runs={tmp_path}/runs", f"paths.artifacts={tmp_path}/artifacts"]
    for trainer in ("cpu", "ddp"):
        chosen = [f"trainer={trainer}", "detector.epochs=2", f"experiment_name={trainer}"]
        done = run_verb("train", *tiny, *paths, *chosen)
        assert done.status == 0, done.err
    (alone,), (together,) = ((tmp_path / "runs" / name).iterdir() for name in ("cpu", "ddp"))
    tables = [(run / "predictions.csv").read_text().splitlines() for run in (alone, together)]
    assert len(tables[0]) == len(tables[1]) == 1 + 7 and len({row.split(",")[0] for row in tables[1]}) == 8
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (together, alone))
    for name in ("image_auroc", "pixel_auroc", "aupro"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-3)
    first, second = ((run / "history.csv").read_text().splitlines() for run in (together, alone))
    assert len(first) == len(second) == 3
    assert float(first[1].split(",")[2]) == pytest.approx(float(second[1].split(",")[2]), rel=1e-3), "the first epoch"
    assert "MASTER_PORT" not in os.environ


def test_devices_that_make_no_sense_are_refused(run_verb: Command, tiny: list[str], tmp_path: Path):
    for devices, message in (("auto", "1 or more, but is auto"), ("20", "lower trainer.devices")):
        done = run_verb("train", *tiny, "trainer=ddp", f"trainer.devices={devices}", f"paths.artifacts={tmp_path}/a")
        assert done.status == 2 and message in done.err and "Traceback" not in done.err
