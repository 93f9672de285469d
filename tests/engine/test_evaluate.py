"""The figure that settings may be chosen by, of OK images with drawn defects; and the inspector of defects."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import NOK, OK, Batch, Sample
from anomalib_lite.defects import DefectCollector, LevelsOfMaps, MapLevels, prepare_inspector
from anomalib_lite.detectors.model import Prediction
from anomalib_lite.engine import evaluate as engine
from anomalib_lite.engine.build import Judge
from anomalib_lite.engine.evaluate import (
    DRAWN,
    evaluate,
    find_threshold,
    hold_back,
    make_inspector,
    open_inspector,
    validate,
)
from anomalib_lite.engine.predict import Picture, TrainedRun
from anomalib_lite.errors import UserError
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.scoring import threshold_from_ok
from anomalib_lite.settings.training import Mode
from tests.commands import only_run, ran, read_json
from tests.defects.conftest import SHAPE, perfect, photograph, settings
from tests.defects.test_collect import stained
from tests.made import write_image, write_pixels


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("val")
    return ImageSet([Sample(write_image(folder / f"{k}.png", k), OK) for k in range(9)], (48, 48))


class Known:
    """Knows the images as they are: its map is how far a pixel is from the nearest of them, times `sign`."""

    def __init__(self, images: ImageSet, sign: float = 1.0, region: torch.Tensor | None = None) -> None:
        self.seen, self.sign, self.region = images[list(range(len(images)))].image, sign, region

    def at_once(self, batch_size: int) -> int:
        return batch_size

    def predict_batch(self, batch: Batch) -> Prediction:
        distances = (batch.image[:, None] - self.seen[None]).abs().amax(2)  # (B, N, H, W)
        nearest = distances.flatten(2).mean(2).argmin(1)
        heatmap = self.sign * distances[torch.arange(len(nearest)), nearest][:, None]
        for part in (self.region, batch.inside):
            heatmap = heatmap if part is None else heatmap * part
        return Prediction(heatmap - min(self.sign, 0.0), (heatmap - min(self.sign, 0.0)).flatten(1).mean(1))


def test_held_out_images_are_halved_and_none_serves_twice(images):
    threshold, judging = hold_back(images)
    assert [len(threshold), len(judging)] == [5, 4]
    paths = {s.image for s in threshold.samples}, {s.image for s in judging.samples}
    assert not paths[0] & paths[1] and paths[0] | paths[1] == {s.image for s in images.samples}
    assert torch.equal(judging[[0]].image, images[[1]].image)
    with pytest.raises(UserError, match="at least 4 held-out OK images"):
        hold_back(images.part(slice(3)))


def test_what_finds_drawn_defects_is_told_from_what_does_not(images):
    good, bad = (validate(Known(images, sign), images, 0.3) for sign in (1.0, -1.0))  # type: ignore[arg-type]
    assert good["image_auroc"] > 0.85 and good["pixel_auroc"] > 0.85 and good["aupro"] > 0.5
    assert bad["image_auroc"] < 0.15 and bad["mean"] < 0.3
    assert good["ok_images"] == 9 and good["drawn"] == DRAWN
    assert good["mean"] == pytest.approx((good["image_auroc"] + good["pixel_auroc"] + good["aupro"]) / 3)
    assert good == validate(Known(images), images, 0.3), "the same defects again"  # type: ignore[arg-type]


def test_defects_are_drawn_and_counted_where_the_image_is_inspected(images, tmp_path):
    left = torch.zeros(1, 1, 48, 48, dtype=torch.bool)
    left[..., :16] = True
    files = [write_image(tmp_path / f"{k}.png", k, (24, 96)) for k in range(9)]
    wide = ImageSet([Sample(file, OK) for file in files], (48, 48), resize="letterbox")
    for these, region in ((images, left), (wide, None)):
        values = validate(Known(these, region=region), these, 0.3)  # type: ignore[arg-type]
        assert values["image_auroc"] > 0.95 and values["pixel_auroc"] > 0.85 and values["drawn"] > 0.9 * DRAWN


class Bright:
    """Its map is 1 where the image is white."""

    region = tiling = None

    def at_once(self, batch_size: int) -> int:
        return batch_size

    def predict_batch(self, batch: Batch) -> Prediction:
        self.evidence: list[dict[str, float]] = [{} for _ in batch.samples]
        heatmap = (batch.image.amin(1, keepdim=True) > 0.95).float()
        return Prediction(heatmap, heatmap.flatten(1).amax(1))


@pytest.mark.parametrize(("resize", "height"), [("stretch", 384), ("letterbox", 192)])
def test_millimetres_are_the_same_in_training_and_prediction(tmp_path, resize, height):
    """A bar of 160 px of the file, each 0.1 mm, of which the model sees 40."""
    rng = np.random.default_rng(0)
    grain = [rng.integers(60, 200, (96, 128, 3)).astype(np.uint8) for _ in range(8)]
    inspector = prepare_inspector(settings(layout={"text": "none"}, scale_mm_per_px=0.1), grain, MapLevels())
    pixels = cv2.resize(grain[0], (512, height))
    pixels[80:112, 160:320] = 255
    sample = Sample(write_pixels(tmp_path / "bar.png", pixels[..., ::-1]), NOK)
    judge = Judge((96, 128), resize, Mode(), 4, 100, 0, None, 0.3)
    images, threshold, model = judge.images([sample]), threshold_from_ok([0.1], [0.1]), Bright()
    result = evaluate(model, images, threshold, 4, 0.3, inspector)  # type: ignore[arg-type]
    trained = TrainedRun(RunFolder(tmp_path), judge, model, threshold, inspector)  # type: ignore[arg-type]
    (judged,) = trained.answers([Picture(sample, pixels, images.resized(pixels, sample.image))])
    assert result.collector is not None
    for (defect,) in (result.collector.outcomes[0].defects, trained.inspect(judged).outcome.defects):
        assert defect.measures["length_mm"] == pytest.approx(16, rel=0.1)
        assert defect.measures["area_mm2"] == pytest.approx(16 * 3.2, rel=0.1)


def test_the_pixel_threshold_and_the_levels_are_of_the_inspected_part(images):
    region = torch.zeros(1, 1, 48, 48, dtype=torch.bool)
    region[..., 5:11, 7:19] = True

    class Flat(Known):
        def predict_batch(self, batch: Batch) -> Prediction:
            heatmap = self.region.float().expand(len(batch), -1, -1, -1) * 2
            return Prediction(heatmap, heatmap.flatten(1).amax(1))

    model = Flat(images, region=region)
    threshold, levels = find_threshold(model, images, 4, 0.05, 95.0, 1.5)  # type: ignore[arg-type]
    assert threshold.pixel == 3.0 and levels.compute() == MapLevels(2.0, 2.0)


def test_the_inspectors_template_has_the_geometry_of_its_pictures(tmp_path, monkeypatch):
    file, given = write_image(tmp_path / "wide.png", 3, (24, 96)), []
    wide = ImageSet([Sample(file, OK)], (48, 48), resize="letterbox")
    monkeypatch.setattr(engine, "prepare_inspector", lambda *args: given.append(args) or SimpleNamespace(save=print))
    make_inspector(settings(), tmp_path, wide, LevelsOfMaps(), file)
    ((_, pictures, _, golden),) = given
    assert np.array_equal(golden, *pictures)


def test_a_run_writes_it_and_its_threshold_comes_from_the_other_half(here, tiny):
    done = ran("train", *tiny, "data.val_share=0.4", "validate=true")
    assert "validation (synthetic defects on held-out OK images): image AUROC" in done.out + done.err
    metrics = read_json(only_run(here) / "metrics.json")
    assert metrics["validation"]["ok_images"] == 2 and metrics["threshold"]["n"] == 2
    assert 0 <= metrics["validation"]["mean"] <= 1


def test_the_inspectors_template_is_read_with_the_depth_of_the_training_images(tmp_path, monkeypatch):
    files = [write_pixels(tmp_path / f"{k}.png", np.full((8, 8), 3000, np.uint16)) for k in range(2)]
    given = []
    monkeypatch.setattr(engine, "prepare_inspector", lambda *args: given.append(args) or SimpleNamespace(save=print))
    make_inspector(settings(), tmp_path, ImageSet([Sample(files[0], OK, bits=16)], (8, 8)), LevelsOfMaps(), files[1])
    ((_, pictures, _, golden),) = given
    assert np.array_equal(golden, *pictures)


def test_an_inspector_is_made_in_training_and_opened_again(tmp_path):
    files = [write_pixels(tmp_path / f"train/{i}.png", photograph(i)[..., ::-1]) for i in range(6)]
    black = write_pixels(tmp_path / "generated.png", np.zeros((*SHAPE, 3), np.uint8))
    train = ImageSet([Sample(black, OK, origin="generated"), *(Sample(file, OK) for file in files)], SHAPE)
    golden = write_pixels(tmp_path / "golden.png", cv2.resize(perfect(), None, fx=2, fy=2)[..., ::-1])
    make_inspector(settings(), tmp_path, train, LevelsOfMaps(), golden)
    collector = DefectCollector(open_inspector(tmp_path), threshold_from_ok([0.1], [0.1]))
    assert collector.inspector.reference.alike > 0.95, "the generated, black image had no part in it"
    (defect,) = collector.add(stained(9, 14)).defects
    assert defect.kind == "colour_scratch" and collector.metrics()["type_accuracy"] == 1
