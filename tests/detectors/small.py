"""A small network and small pictures for the detectors' tests."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import Trainer
from torch import nn

from anomalib_lite.augment.tta import TestTimeAugmentation
from anomalib_lite.backbones import Backbone
from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import OK, Batch, Sample
from anomalib_lite.detectors.model import Method, Model, Prediction
from anomalib_lite.scoring import GaussianBlur, MaxScore
from tests.made import write_image

SIZE = (32, 48)
Views = Sequence[Mapping[str, Any]]
M = TypeVar("M", bound=Method)


class Net(nn.Module):
    """Two levels of stride 4 and 8, with batch normalisation, which tells training from evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(image)
        return [first, self.second(first)]


@cache
def _weights() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().state_dict()


def backbone(weights: str = "trained") -> Backbone:
    """The same network each time; `weights="none"` gives an untrained one."""
    net = Net()
    if weights != "none":
        net.load_state_dict(_weights())
    return Backbone(net, [0.5] * 3, [0.25] * 3)


def images(folder: Path, count: int = 12, size: tuple[int, int] = SIZE) -> ImageSet:
    return ImageSet([Sample(write_image(folder / f"{i}.png", i), OK) for i in range(count)], size)


def marked(images: ImageSet) -> Batch:
    """Two OK images, the second with a white square."""
    batch = images[[0, 1]]
    batch.image[1, :, 8:24, 24:40] = 1.0
    return batch


def model(method: Method, views: Views = ({},)) -> Model:
    return Model(method, TestTimeAugmentation(views), GaussianBlur(1.0), MaxScore())


def fit(method: M, images: ImageSet, views: Views = ({},), epochs: int = 0) -> M:
    """Prepares, trains for so many epochs and calibrates, as the engine does."""
    whole = model(method, views)
    whole.prepare(loader(images, 4))
    if epochs:
        torch.manual_seed(1)
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(whole, loader(images, 4, shuffle_seed=0), loader(images, 4))
    whole.calibrate(loader(images, 4))
    return method


def predict(method: Method, batch: Batch, views: Views = ({},)) -> Prediction:
    return model(method, views).predict_batch(batch)
