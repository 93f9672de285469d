"""Pages of runs that are not as they should be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from anomalib_lite.report.cases import Case
from anomalib_lite.report.page import write_report

from .conftest import write_predictions
from .outline import read, words

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a' onmouseover='x",
    "</svg>{{ 7*7 }}",
    "$x_{$",
]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_names_stay_text(run_dir: Path, cases: list[Case], evil: str) -> None:
    named = [dataclasses.replace(c, name=evil, defect=evil if c.label else None) for c in cases]
    write_predictions(run_dir, named)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["per_defect"] = {evil: {"n": 6, "recall": 0.5}}
    metrics["missing"]["pixel_ap"] = metrics["threshold"]["note"] = evil
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    (run_dir / "status.json").write_text(json.dumps({"status": evil, "error": evil, "timings": {evil: 1}}))
    (run_dir / "environment.json").write_text(json.dumps({evil: {evil: evil}}))
    (run_dir / "config.yaml").write_text(f"a: {evil}\n# {evil}\n")
    (run_dir / "history.csv").write_text('epoch,"' + evil.replace('"', '""') + '"\n0,1\n1,2\n')
    _, plain = read(write_report(run_dir, cases, title="plain"))
    _, outline = read(write_report(run_dir, named, title=evil))
    scripts = [tag for tag, _, _ in outline.attributes if tag in ("script", "img")]
    assert scripts == [tag for tag, _, _ in plain.attributes if tag in ("script", "img")]
    assert not [name for _, name, _ in outline.attributes if name.startswith("on")]
    assert outline.values("article", "data-name") == [evil] * len(cases)
    assert " ".join(evil.split()) in words(outline) and "49" not in outline.values("article", "data-name")[0]


@pytest.mark.usefixtures("no_figures")
def test_run_without_nok_images(run_dir: Path, cases: list[Case]) -> None:
    good = [case for case in cases if not case.label]
    write_predictions(run_dir, good)
    gone = ["image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro", "image_detection_rate"]
    metrics = json.loads((run_dir / "metrics.json").read_text()) | dict.fromkeys(gone) | {"per_defect": {}}
    metrics["missing"] = dict.fromkeys(gone, "the test set has no NOK images")
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    _, outline = read(write_report(run_dir, good))
    text = words(outline)
    assert text.count("not available: the test set has no NOK images") == 6
    assert "1 of 6 good images rejected" in text and "defective images found" not in text
    assert "Defect types" not in text and "ROC of images" not in text


def test_run_that_failed_early(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"status": "failed", "error": "no such folder: <data>"}))
    _, outline = read(write_report(tmp_path, title="run"))
    text = words(outline)
    assert "The run failed" in text and "no such folder: <data>" in text
    assert "AUROC" not in text and "Images" not in text
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\x00\xff;;", "a,b\n1", "score\nx\n"])
def test_broken_files_leave_their_part_empty(run_dir: Path, content: str) -> None:
    for name in (
        "metrics.json",
        "status.json",
        "environment.json",
        "history.csv",
        "predictions.csv",
        "config.yaml",
    ):
        (run_dir / name).write_text(content, encoding="latin-1")
    _, outline = read(write_report(run_dir))
    assert "stfpm seed 0" in words(outline)


@pytest.mark.usefixtures("no_figures")
def test_odd_keys_do_no_harm(run_dir: Path, cases: list[Case]) -> None:
    metrics = {
        "image_auroc": "high",
        "threshold": 3,
        "per_defect": [1],
        "missing": None,
        "counts": 4,
        "new": {"a": [1]},
    }
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    (run_dir / "status.json").write_text(
        '{"state": "running", "started": 1.5, "gpu": [{"name": "x"}], "timings": null}'
    )
    (run_dir / "config.yaml").write_text("a: [unclosed\n")
    _, outline = read(write_report(run_dir, cases))
    assert "1.5" in words(outline)  # the odd keys are listed as they are


@pytest.mark.usefixtures("no_figures")
def test_maps_masks_and_images_of_other_sizes(run_dir: Path, cases: list[Case]) -> None:
    big = dataclasses.replace(
        cases[6], image=np.zeros((700, 300, 3), np.uint8), map=np.ones((32, 16), np.float32),
        mask=np.ones((70, 30), bool),
    )  # fmt: skip
    odd = [
        big,
        dataclasses.replace(cases[7], label=None, mask=None),
        dataclasses.replace(cases[0], score=float("nan")),
    ]
    _, outline = read(write_report(run_dir, odd))
    assert "0 0 110 256" in outline.values("svg", "viewbox")
