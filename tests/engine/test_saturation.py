"""MVTec LOCO's saturated per-region overlap, from the files to the figures, against a calculation by hand."""

import json

import cv2
import numpy as np
import pytest
import torch

from anomalib_lite.data import layouts
from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.model import Prediction
from anomalib_lite.engine.evaluate import evaluate
from anomalib_lite.engine.results import in_words
from anomalib_lite.report import words
from anomalib_lite.scoring import threshold_from_ok
from tests.made import write_image, write_pixels
from tests.metrics.oracles import exact_auspro

CONFIG = [
    {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 30, "relative_saturation": False},
    {"defect_name": "scratch", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
    {"defect_name": "tiny", "pixel_value": 253, "saturation_threshold": 900, "relative_saturation": False},
]
DEFECTS = {  # rows and columns of each mask, its value, and how many of its pixels are enough; two masks overlap
    "logical_anomalies/000": [((4, 24), (4, 24), 255, 30), ((20, 30), (20, 40), 254, 100)],
    "logical_anomalies/001": [((40, 60), (10, 50), 255, 30)],
    "structural_anomalies/000": [((30, 34), (30, 34), 253, 16)],
}


def region(rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    found = np.zeros((64, 64), bool)
    found[slice(*rows), slice(*columns)] = True
    return found


@pytest.fixture
def root(tmp_path):
    """box/ in MVTec LOCO's layout."""
    box = tmp_path / "box"
    for folder, count in (("train", 4), ("validation", 2), ("test", 2)):
        for k in range(count):
            write_image(box / folder / "good" / f"{k:03d}.png", k + len(folder) * 100)
    for k, (name, marks) in enumerate(DEFECTS.items()):
        write_image(box / "test" / f"{name}.png", 900 + k, mark=True)
        for number, (rows, columns, value, _) in enumerate(marks):
            mask = region(rows, columns).astype(np.uint8) * value
            write_pixels(box / "ground_truth" / name / f"{number:03d}.png", mask)
    (box / "defects_config.json").write_text(json.dumps(CONFIG))
    return tmp_path


class Lucky:
    """Smooth noise, a little higher where something is drawn."""

    region, tiling, evidence = None, None, [{}] * 5

    def __init__(self) -> None:
        self.maps: dict[str, np.ndarray] = {}  # by the image's folder and name

    def at_once(self, batch_size: int) -> int:
        return batch_size

    def predict_batch(self, batch: Batch) -> Prediction:
        maps = []
        for sample, mask in zip(batch.samples, batch.mask[:, 0].numpy(), strict=True):
            noise = np.random.default_rng(len(self.maps)).gamma(2, 1, mask.shape) + 0.5 * mask
            maps.append(cv2.GaussianBlur(noise, None, 2).astype(np.float32))
            self.maps[f"{sample.image.parent.name}/{sample.image.stem}"] = maps[-1]
        heatmap = torch.from_numpy(np.stack(maps))[:, None]
        return Prediction(heatmap, heatmap.flatten(1).amax(1))


def exact(maps: dict[str, np.ndarray], kinds: tuple[str, ...]) -> float:
    chosen = [name for name in maps if name.startswith(("good", *kinds))]
    regions = [[(region(*place), enough) for *place, _, enough in DEFECTS.get(name, ())] for name in chosen]
    return exact_auspro(np.stack([maps[name] for name in chosen]), regions, 0.05)


def test_evaluation_of_loco_has_its_own_metric_by_kind_of_anomaly_too(root):
    def measured(model: Lucky) -> dict:
        images = ImageSet(layouts.mvtec_loco(root, "box").test, (64, 64))
        return evaluate(model, images, threshold_from_ok([1.0], [1.0], 0.05), 2, 0.3).metrics  # type: ignore[arg-type]

    model = Lucky()
    metrics = measured(model)
    both = ("logical_anomalies", "structural_anomalies")
    assert metrics["auspro"] == pytest.approx(exact(model.maps, both), abs=1e-4)
    for kind in both:
        assert metrics["per_defect"][kind]["auspro"] == pytest.approx(exact(model.maps, (kind,)), abs=1e-4)
    assert 0.05 < metrics["auspro"] < 0.9
    shown = f"{metrics['auspro']:.4f}"
    assert f"AU-sPRO {shown}" in in_words(metrics) and ("AU-sPRO", shown) in [c[:2] for c in words.cards(metrics)]
    assert [len(values) for _, values in words.defect_rows(metrics)] == [6, 6]
    good = metrics["counts"]["ok_images"]
    assert f" of {good} good images rejected (" in in_words(metrics)

    (root / "box/defects_config.json").unlink()
    metrics = measured(Lucky())
    assert "auspro" not in metrics and metrics["aupro"] > 0
    assert "sPRO" not in in_words(metrics) + str(words.cards(metrics))


def test_a_smaller_image_keeps_the_share_that_is_enough(root):
    sample = next(s for s in layouts.mvtec_loco(root, "box").test if s.mask and s.image.stem == "001")
    [(found, enough)] = ImageSet([sample], (32, 32)).regions_of(sample) or []
    assert found.shape == (32, 32) and found.sum() == 200 and enough == 30 / 800
