import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.data.files import short_name
from anomalib_lite.data.sample import Outcome, Sample
from anomalib_lite.errors import UserError
from anomalib_lite.report import page
from anomalib_lite.report.cases import select_cases
from anomalib_lite.report.page import write_report

from .conftest import Outline, judged

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a' onmouseover='x",
    "</svg>{{ 7*7 }}",
    "$x_{$",
]


def test_page_is_whole_and_fetches_nothing(run_dir: Path, outcomes: list[Outcome]) -> None:
    outline = Outline(write_report(run_dir, outcomes, pixel_points={"roc": ([0, 1], [0, 1])}))
    html = outline.html
    for tag, name, value in outline.attributes:
        if name in ("src", "href", "xlink:href", "action", "srcset", "poster", "data"):
            assert value.startswith(("data:", "#")), (tag, name, value)
        assert not name.startswith("on"), (tag, name)
    assert "http://" not in html and "https://" not in html and "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "default-src 'none'" in html
    assert not {"iframe", "object", "embed", "base"} & {tag for tag, _, _ in outline.attributes}
    ids = [value for _, name, value in outline.attributes if name == "id"]
    own = [name for name in ids if not re.fullmatch(r"[mp][0-9a-f]{8,}", name)]  # drawings may share markers
    assert len(own) == len(set(own))
    used = [value[1:] for _, name, value in outline.attributes if name.endswith("href") and value[0] == "#"]
    assert used and set(used) <= set(ids)


def test_page_says_what_the_run_measured(run_dir: Path, outcomes: list[Outcome]) -> None:
    outline = Outline(write_report(run_dir, outcomes))
    text = outline.words
    for part in (
        "stfpm seed 0", "0.9167", "not available: the masks are too coarse", "5 of 6 defective images found",
        "1 of 6 good images rejected", "Of the good test images it rejected 16.7 %.", "exceeds 2", "at most 4.9 %",
        "4e593f1", "2 min 58 s", "# the default", "missed scratch 0.55 × threshold scratch/000.png",
    ):  # fmt: skip
        assert part in text, part
    figures = {path.name for path in (run_dir / "figures").iterdir()}
    assert figures == {f"{name}.png" for name in ("scores", "roc", "precision_recall", "training", "gallery")}


@pytest.mark.usefixtures("no_figures")
def test_cases_stand_in_order_and_mistakes_are_marked(run_dir: Path, outcomes: list[Outcome]) -> None:
    outline = Outline(write_report(run_dir, outcomes))
    names = outline.values("article", "data-name")
    assert names[:2] == ["scratch/000.png", "good/005.png"]  # 0.55 and 1.3 times the threshold
    assert len(names) == len(outcomes) and len(outline.values("article", "data-mistake")) == 2
    scores = [float(score) for score in outline.values("article", "data-score")[2:]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.usefixtures("no_figures")
def test_a_page_that_shows_a_part_of_the_images_says_so(
    run_dir: Path, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "select_cases", lambda found, limit, most=5: select_cases(found, limit, most))
    outline = Outline(write_report(run_dir, outcomes))
    assert len(outline.values("article", "data-name")) == 5
    assert "5 of 12 images, among them all mistakes (2)" in outline.words


@pytest.mark.usefixtures("no_figures")
def test_the_same_run_gives_the_same_page(run_dir: Path, outcomes: list[Outcome]) -> None:
    assert write_report(run_dir, outcomes).read_bytes() == write_report(run_dir, outcomes).read_bytes()


def test_contact_sheet_is_not_all_mistakes(outcomes: list[Outcome]) -> None:
    missed = [judged(1, 0.1 * i, "scratch") for i in range(15)]
    few = page._telling(missed + outcomes, 2.0)
    assert [outcome.score for outcome in few[:9]] == [outcome.score for outcome in missed[:9]]
    assert len(few) == 18 and {outcome.sample.defect for outcome in few[9:]} == {None, "scratch", "dent"}


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        write_report(tmp_path / "nowhere")


def test_generated_images_have_their_place_in_the_page(run_dir: Path, outcomes: list[Outcome]) -> None:
    assert "Generated images" not in write_report(run_dir, outcomes).read_text()
    quality = {
        "frechet": None, "kernel": None, "diversity": {"generated": 0.25, "real": 0.5}, "missing": {"frechet": "few"},
        "guard": {"threshold": 0.9, "quantile": 0.01, "caught": 0.8}, "drawn": {"all": 9, "kept": 7, "dropped": 2},
    }  # fmt: skip
    for name in ("edge_overlap", "ssim"):
        quality[name] = dict.fromkeys(("generated", "generated_low", "real_pairs", "real_pairs_low"), 0.875)
    folder = run_dir / "generated"
    folder.mkdir()
    (folder / "quality.json").write_text(json.dumps(quality))
    cv2.imwrite(str(folder / "contact_sheet.png"), np.zeros((20, 1500, 3), np.uint8))
    page = write_report(run_dir, outcomes).read_text()
    assert "dropped 2 of 9 images" in page and 'href="generated/generated.html"' in page
    assert "0.2500" in page and "frechet not available: few." in page


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_names_stay_text(run_dir: Path, outcomes: list[Outcome], evil: str) -> None:
    samples = [Sample(Path("a", evil), o.sample.label, defect=evil if o.sample.label else None) for o in outcomes]
    named = [replace(o, sample=s, evidence={evil: 1.0}) for o, s in zip(outcomes, samples, strict=True)]
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["per_defect"] = {evil: {"n": 6, "recall": 0.5}}
    metrics["missing"]["pixel_ap"] = metrics["threshold"]["note"] = evil
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    status = {
        "state": evil,
        "error": evil,
        "timings": {evil: 1},
        "choice": {"candidates": [{"name": evil, evil: evil}]},
    }
    (run_dir / "status.json").write_text(json.dumps(status))
    (run_dir / "environment.json").write_text(json.dumps({evil: {evil: evil}}))
    (run_dir / "config.yaml").write_text(f"a: {evil}\n# {evil}\n")
    (run_dir / "history.csv").write_text('epoch,"' + evil.replace('"', '""') + '"\n0,1\n1,2\n')
    plain = Outline(write_report(run_dir, outcomes))
    outline = Outline(write_report(run_dir, named))
    scripts = [tag for tag, _, _ in outline.attributes if tag in ("script", "img")]
    assert scripts == [tag for tag, _, _ in plain.attributes if tag in ("script", "img")]
    assert not [name for _, name, _ in outline.attributes if name.startswith("on")]
    names = outline.values("article", "data-name")
    assert names == [short_name(Path("a", evil))] * len(outcomes) and "49" not in names[0]
    assert " ".join(evil.split()) in outline.words


@pytest.mark.usefixtures("no_figures")
def test_run_without_nok_images(run_dir: Path, outcomes: list[Outcome]) -> None:
    good = [outcome for outcome in outcomes if not outcome.sample.label]
    gone = ["image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro", "image_detection_rate"]
    metrics = json.loads((run_dir / "metrics.json").read_text()) | dict.fromkeys(gone) | {"per_defect": {}}
    metrics["missing"] = dict.fromkeys(gone, "the test set has no NOK images")
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    outline = Outline(write_report(run_dir, good))
    text = outline.words
    assert text.count("not available: the test set has no NOK images") == 6
    assert "1 of 6 good images rejected" in text and "defective images found" not in text
    assert "Defect types" not in text and "ROC of images" not in text


def test_run_that_failed_early(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "failed", "error": "no such folder: <data>"}))
    outline = Outline(write_report(tmp_path))
    text = outline.words
    assert "The run failed" in text and "no such folder: <data>" in text
    assert "AUROC" not in text and "Images" not in text
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\x00\xff;;", "a,b\n1", "score\nx\n"])
def test_broken_files_leave_their_part_empty(run_dir: Path, content: str) -> None:
    for name in ("metrics.json", "status.json", "environment.json", "history.csv", "predictions.csv", "config.yaml"):
        (run_dir / name).write_text(content, encoding="latin-1")
    outline = Outline(write_report(run_dir))
    assert "stfpm seed 0" in outline.words


@pytest.mark.usefixtures("no_figures")
def test_odd_keys_do_no_harm(run_dir: Path, outcomes: list[Outcome]) -> None:
    metrics = {"image_auroc": "high", "per_defect": [1], "missing": None, "counts": 4, "new": {"a": [1]}}
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    (run_dir / "status.json").write_text(
        '{"state": "running", "started": 1.5, "gpu": [{"name": "x"}], "timings": null}'
    )
    (run_dir / "config.yaml").write_text("a: [unclosed\n")
    outline = Outline(write_report(run_dir, outcomes))
    assert "1.5" in outline.words  # the odd keys are listed as they are


@pytest.mark.usefixtures("no_figures")
def test_maps_masks_and_images_of_other_sizes(run_dir: Path, outcomes: list[Outcome]) -> None:
    missed, found, good = outcomes[6], outcomes[7], outcomes[0]
    large = {"image": np.zeros((700, 300, 3), np.uint8), "map": np.ones((32, 16), np.float32)}
    odd = [
        replace(missed, mask=np.ones((70, 30), bool), **large),
        replace(found, sample=replace(found.sample, label=None), mask=None),
        replace(good, score=float("nan")),
    ]
    assert "0 0 110 256" in Outline(write_report(run_dir, odd)).values("svg", "viewbox")


@pytest.mark.usefixtures("no_figures")
def test_the_page_says_how_the_detector_was_chosen_what_raised_an_alarm_and_what_cannot_be_promised(
    run_dir: Path, outcomes: list[Outcome]
) -> None:
    plain = Outline(write_report(run_dir, outcomes)).words
    assert "How the detector was chosen" not in plain and "alarm raised" not in plain
    candidates = [{"name": "STFPM", "image_auroc": 0.91, "seconds": 75}, {"name": "colour"}]
    status = {"state": "done", "timings": {"train": 60.0, "report": 2.5}, "choice": {"candidates": candidates}}
    (run_dir / "status.json").write_text(json.dumps(status))
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["threshold"]["note"] = "9 held-out OK images are too few"
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    shares = {"STFPM": 0.75, "colour": 0.25}
    text = Outline(write_report(run_dir, [replace(o, evidence=shares) for o in outcomes])).words
    for part in (
        "How the detector was chosen", "STFPM 0.9100 1 min 15 s", "colour – –", "train 1 min 0 s",
        "report 2.5 s", "9 held-out OK images are too few.", "alarm raised by STFPM 75 %, colour 25 %",
        "score from STFPM 75 %, colour 25 %",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.usefixtures("no_figures")
def test_without_outcomes_the_page_judges_by_the_runs_own_predictions(run_dir: Path) -> None:
    text = Outline(write_report(run_dir)).words
    assert "5 of 6 defective images found" in text and "1 of 6 good images rejected" in text
    assert "Images Each row" not in text
