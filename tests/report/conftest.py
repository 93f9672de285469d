"""A small run folder with all its files, and cases to show."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from anomalib_lite.metrics import alarm_metrics
from anomalib_lite.report import page
from anomalib_lite.report.cases import Case

THRESHOLD = 2.0


@pytest.fixture
def cases() -> list[Case]:
    """Six OK images with one false alarm, four scratches with one missed, two dents: scores around 2.0."""
    scores = {None: [0.5, 1.0, 1.2, 1.5, 1.9, 2.6], "scratch": [1.1, 2.5, 6.0, 9.0], "dent": [3.0, 8.0]}
    rng = np.random.default_rng(0)
    made = []
    for defect, values in scores.items():
        for place, score in enumerate(values):
            mask = np.zeros((48, 64), bool)
            mask[10:20, 10:30] = defect is not None
            image = rng.integers(90, 120, (48, 64, 3)).astype(np.uint8)
            values_map = np.where(mask, score, 0.4 * score).astype(np.float32)
            name = f"test/{defect or 'good'}/{place:03d}.png"
            made.append(Case(name, int(defect is not None), defect, score, image, values_map, mask))
    return made


@pytest.fixture
def run_dir(tmp_path: Path, cases: list[Case]) -> Path:
    folder = tmp_path / "stfpm seed 0"
    folder.mkdir()
    write_run(folder, cases)
    return folder


@pytest.fixture
def no_figures(monkeypatch) -> None:
    """Drawing takes most of the time and has its own tests."""
    monkeypatch.setattr(page, "draw_figures", lambda *_: {})
    monkeypatch.setattr(page, "contact_sheet", lambda *_: None)


def write_run(folder: Path, cases: list[Case]) -> None:
    alarms = alarm_metrics([case.score for case in cases], [case.label for case in cases], THRESHOLD)
    metrics = {
        "image_auroc": 0.9167, "image_ap": 0.95, "image_f1_max": 0.9, "pixel_auroc": 0.98, "pixel_ap": None,
        "aupro": 0.87, **alarms.values,
        "per_defect": {
            "scratch": {"n": 4, "image_auroc": 0.8, "pixel_auroc": 0.9, "aupro": 0.8, "recall": 0.75},
            "dent": {"n": 2, "image_auroc": 1.0, "pixel_auroc": 0.99, "aupro": None, "recall": 1.0},
        },
        "missing": {"pixel_ap": "the masks are too coarse"},
        "threshold": {"image": THRESHOLD, "pixel": THRESHOLD, "false_alarm_rate": 0.05, "n": 40,
                      "promised_rate": 0.0488, "interval": [0.0088, 0.1097], "note": ""},
        "counts": {"test": len(cases)},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "status.json").write_text(json.dumps({"status": "done", "timings": {"fit": 178.0, "test": 4.0}}))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11.7", "git": {"commit": "4e593f1"}}))
    (folder / "config.yaml").write_text("seed: 0\ndetector:\n  name: stfpm # the default\n")
    (folder / "history.csv").write_text("epoch,step,train_loss,val_loss\n0,5,1.5,\n0,5,,1.7\n1,10,0.5,0.7\n")
    write_predictions(folder, cases)


def write_predictions(folder: Path, cases: list[Case]) -> None:
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "label", "defect", "score", "nok", "origin"])
        for case in cases:
            writer.writerow([case.name, case.label, case.defect or "", case.score, case.score > THRESHOLD, "real"])
