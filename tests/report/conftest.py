"""A small run folder with all its files, outcomes to show, and a page as a test sees it."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalib_lite.data.sample import Outcome, Sample
from anomalib_lite.metrics import alarm_metrics
from anomalib_lite.report import page
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.scoring import Threshold

THRESHOLD = Threshold(2.0, 2.0, 0.05, 40, 0.0488, (0.0088, 0.1097))
VOID = {"meta", "link", "img", "input", "br", "wbr", "path", "image", "use"}


def judged(label: int | None, score: float, defect: str | None = None, name: str = "a/b.png", **others) -> Outcome:
    """As the run's threshold judges it: what is no number is NOK."""
    return Outcome(Sample(Path(name), label, defect=defect), score, THRESHOLD.nok(score), **others)


@pytest.fixture
def outcomes() -> list[Outcome]:
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
            made.append(judged(int(defect is not None), score, defect, name, image=image, map=values_map, mask=mask))
    return made


@pytest.fixture
def run(tmp_path: Path, outcomes: list[Outcome]) -> RunFolder:
    """What a training leaves when its page is written."""
    folder = tmp_path / "stfpm seed 0"
    folder.mkdir()
    alarms = alarm_metrics([outcome.nok for outcome in outcomes], [outcome.sample.label for outcome in outcomes])
    metrics = {
        "image_auroc": 0.9167, "image_ap": 0.95, "image_f1_max": 0.9, "pixel_auroc": 0.98, "pixel_ap": None,
        "aupro": 0.87, **alarms.values,
        "per_defect": {
            "scratch": {"n": 4, "image_auroc": 0.8, "pixel_auroc": 0.9, "aupro": 0.8, "recall": 0.75},
            "dent": {"n": 2, "image_auroc": 1.0, "pixel_auroc": 0.99, "aupro": None, "recall": 1.0},
        },
        "missing": {"pixel_ap": "the masks are too coarse", "images": "2 images left out"},
        "counts": {"test": len(outcomes)},
    }  # fmt: skip
    choices = {"data": "panels", "detector": "stfpm", "generator": "none"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "status.json").write_text(json.dumps({"state": "running", "timings": {"fit": 178.0, "test": 4.0}}))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11.7", "choices": choices, "git": "4e593f1"}))
    (folder / "config.yaml").write_text("seed: 0\ndata: {category: bottle}\ndetector:\n  name: stfpm # the default\n")
    (folder / "history.csv").write_text("epoch,step,train_loss,val_loss\n0,5,1.5,\n0,5,,1.7\n1,10,0.5,0.7\n")
    return RunFolder(folder)


def change(run: RunFolder, name: str, **values: Any) -> None:
    """Other values in one of the run's JSON files."""
    path = run.path / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    run.status = RunFolder(run.path).status


def written(run: RunFolder, outcomes: list[Outcome], threshold: Threshold = THRESHOLD, **others: Any) -> "Outline":
    page.write_report(run, outcomes, threshold, **others)
    return Outline(run.path / "report.html")


@pytest.fixture
def no_figures(monkeypatch) -> None:
    """Drawing takes most of the time and has its own tests."""
    monkeypatch.setattr(page, "draw_figures", lambda *_: {})


class Outline(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in the order in which they opened."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.feed(self.html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def values(self, tag: str, name: str) -> list[str | None]:
        return [value for owner, key, value in self.attributes if (owner, key) == (tag, name)]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())
