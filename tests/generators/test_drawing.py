"""Images are drawn until enough have kept their structure, up to a bound; losses are kept in a file."""

from pathlib import Path

import cv2
import pytest
import torch
from lightning import LightningModule, Trainer

from anomalib_lite.data.decode import shrunk
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import MOST_DRAWS, LossLog, read_losses, start_drawing
from tests.generators import tiny
from tests.generators.test_structure import product


@pytest.fixture(scope="module")
def ok(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("ok")
    for seed in range(4):
        cv2.imwrite(str(folder / f"{seed}.png"), product(seed, 64)[..., ::-1])
    return sorted(folder.iterdir())


def trained(kind: type[tiny.Recolour], ok: list[Path], folder: Path, **options) -> tiny.Recolour:
    generator = kind(**options)
    generator.fit(ok, None, folder, 0)
    generator.load(folder)
    return generator


def test_enough_images_are_kept_although_some_are_damaged(ok, tmp_path):
    drawing = start_drawing(trained(tiny.Recolour, ok, tmp_path, damage=3), 6, 0, ok, 0.01)
    drawn = list(drawing.images)
    assert drawing.size == (64, 64) and drawing.guard is not None
    assert [one.kept for one in drawn] == [False, True, True] * 3
    assert min(one.overlap for one in drawn if one.kept) >= drawing.guard.threshold
    assert min(one.ssim for one in drawn if one.kept) > max(one.ssim for one in drawn if not one.kept)


def test_a_generator_that_only_damages_is_given_up(ok, tmp_path):
    drawn = list(start_drawing(trained(tiny.Recolour, ok, tmp_path, damage=1), 5, 0, ok, 0.01).images)
    assert len(drawn) == 5 * MOST_DRAWS and not any(one.kept for one in drawn)
    unguarded = start_drawing(trained(tiny.Recolour, ok, tmp_path, damage=1), 5, 0, ok)
    assert unguarded.guard is None and [one.kept for one in unguarded.images] == [True] * 5


def test_a_generator_without_images_or_with_strange_ones_is_named(ok, tmp_path):
    with pytest.raises(UserError, match="Silent gives no image"):
        start_drawing(trained(tiny.Silent, ok, tmp_path), 2, 0, ok)
    with pytest.raises(ValueError, match="OK image 4 as its content, of 4"):
        list(start_drawing(trained(tiny.Stranger, ok, tmp_path), 2, 0, ok).images)


def test_large_images_are_compared_small():
    assert shrunk((1024, 512, 3), 256) == (256, 128)
    assert shrunk((100, 80, 3), 256) == (100, 80)


class OneLoss(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, index):
        loss = (self.weight**2).sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_trainer_writes_its_losses_and_a_second_one_goes_on(tmp_path):
    path = tmp_path / "losses.jsonl"
    for _ in range(2):
        trainer = Trainer(
            max_epochs=1, logger=LossLog(path), log_every_n_steps=1, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(OneLoss(), torch.utils.data.DataLoader(range(3), batch_size=1))
    losses = read_losses(path)
    values = losses[losses["name"] == "loss"]
    assert values["step"].tolist() == [0, 1, 2, 0, 1, 2]
    assert values["value"].iloc[0] == 1 and values["value"].iloc[2] < values["value"].iloc[1] < 1


def test_torn_lines_and_numbers_that_are_none_are_left_out(tmp_path):
    path = tmp_path / "losses.jsonl"
    LossLog(path).log_metrics({"a": 1.5, "b": float("nan")}, step=3)
    with path.open("a") as stream:
        stream.write('{"step": 4, "a"')
    assert read_losses(path).values.tolist() == [[3, "a", 1.5]]
    assert read_losses(tmp_path / "absent").empty
