import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anomalib_lite.data.files import short_name
from anomalib_lite.data.sample import Outcome, Sample
from anomalib_lite.report import page
from anomalib_lite.report.cases import select_cases
from anomalib_lite.runs.folder import RunFolder
from tests.chromium import opened

from .conftest import change, written

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a' onmouseover='x"]
HOSTILE += ["</svg>{{ 7*7 }}", "$x_{$"]


def test_page_is_whole_and_fetches_nothing(run: RunFolder, outcomes: list[Outcome]) -> None:
    line = np.array([0.0, 1.0])
    outline = written(run, outcomes, pixel_points={"roc": (line, line)})
    html, attributes = outline.html, outline.attributes
    for tag, name, value in attributes:
        if name in ("src", "href", "xlink:href", "action", "srcset", "poster", "data"):
            assert value.startswith(("data:", "#")), (tag, name, value)
        assert not name.startswith("on"), (tag, name)
    assert not re.search(r"https?://|@import|url\((?!#)", html) and "default-src 'none'" in html
    assert not {"iframe", "object", "embed", "base"} & {tag for tag, _, _ in attributes}
    ids = [value for _, name, value in attributes if name == "id"]
    own = [name for name in ids if not re.fullmatch(r"[mp][0-9a-f]{8,}", name)]  # drawings may share markers
    assert len(own) == len(set(own))
    used = [value[1:] for _, name, value in attributes if name.endswith("href") and value[0] == "#"]
    assert used and set(used) <= set(ids)


def test_page_says_what_the_run_measured(run: RunFolder, outcomes: list[Outcome]) -> None:
    text = written(run, outcomes).words
    for part in (
        "stfpm seed 0", "panels · bottle · stfpm · seed 0", "0.9167", "not available: the masks are too coarse",
        "5 of 6 defective images found", "1 of 6 good images rejected", "Of the good test images it rejected 16.7 %.",
        "a probability of at most 4.88 %", "4e593f1", "2 min 58 s", "# the default",
        "missed scratch 0.55 × threshold scratch/000.png", "2 images left out",
    ):  # fmt: skip
        assert part in text, part
    for part in ("How the detector was chosen", "alarm raised", "Generated images"):
        assert part not in text
    figures = {path.name for path in (run.path / "figures").iterdir()}
    assert figures == {f"{name}.png" for name in ("scores", "roc", "precision_recall", "training")}
    candidates = [{"name": "STFPM", "image_auroc": 0.91, "seconds": 75}, {"name": "colour"}]
    change(run, "status", choice={"candidates": candidates})
    text = written(run, [replace(o, evidence={"STFPM": 0.75, "colour": 0.25}) for o in outcomes]).words
    for part in (
        "How the detector was chosen", "STFPM 0.9100 1 min 15 s", "colour – –",
        "alarm raised by STFPM 75 %, colour 25 %", "score from STFPM 75 %, colour 25 %",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.usefixtures("no_figures")
def test_cases_stand_in_order_with_marked_mistakes_and_that_they_are_a_part_is_said(
    run: RunFolder, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    outline = written(run, outcomes)
    names = outline.values("article", "data-name")
    assert names[:2] == ["scratch/000.png", "good/005.png"]  # 0.55 and 1.3 times the threshold
    assert len(names) == len(outcomes) and len(outline.values("article", "data-mistake")) == 2
    scores = [float(score) for score in outline.values("article", "data-score")[2:]]
    assert scores == sorted(scores, reverse=True)
    monkeypatch.setattr(page, "select_cases", lambda found, limit, most=5: select_cases(found, limit, most))
    outline = written(run, outcomes)
    assert len(outline.values("article", "data-name")) == 5
    assert "5 of 12 images, including all mistakes (2)" in outline.words


@pytest.mark.usefixtures("no_figures")
def test_generated_images_have_their_place_in_the_page(run: RunFolder, outcomes: list[Outcome]) -> None:
    quality = {
        "frechet": None, "kernel": None, "diversity": {"generated": 0.25, "real": 0.5}, "missing": {"frechet": "few"},
        "guard": {"threshold": 0.9, "quantile": 0.01, "caught": 0.8}, "drawn": {"all": 9, "kept": 7, "dropped": 2},
    }  # fmt: skip
    for name in ("edge_overlap", "ssim"):
        quality[name] = dict.fromkeys(("generated", "generated_low", "real_pairs", "real_pairs_low"), 0.875)
    folder = run.path / "generated"
    folder.mkdir()
    (folder / "quality.json").write_text(json.dumps(quality))
    cv2.imwrite(str(folder / "contact_sheet.png"), np.zeros((20, 1500, 3), np.uint8))
    outline = written(run, outcomes)
    assert "dropped 2 of 9 generated images" in outline.words
    assert "generated/generated.html" in outline.values("a", "href")
    assert "0.2500" in outline.words and "frechet not available: few." in outline.words


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_names_stay_text(run: RunFolder, outcomes: list[Outcome], evil: str) -> None:
    plain = written(run, outcomes)
    samples = [Sample(Path("a", evil), o.sample.label, defect=evil if o.sample.label else None) for o in outcomes]
    named = [replace(o, sample=s, evidence={evil: 1.0}) for o, s in zip(outcomes, samples, strict=True)]
    change(run, "metrics", per_defect={evil: {"n": 6, "recall": 0.5}}, missing={"pixel_ap": evil})
    change(run, "status", odd=evil, timings={evil: 1}, choice={"candidates": [{"name": evil, evil: evil}]})
    change(run, "environment", **{evil: {evil: evil}})
    with (run.path / "config.yaml").open("a") as config:
        config.write(f"# {evil}\n")
    outline = written(run, named)
    scripts = [tag for tag, _, _ in outline.attributes if tag in ("script", "img")]
    assert scripts == [tag for tag, _, _ in plain.attributes if tag in ("script", "img")]
    assert not [name for _, name, _ in outline.attributes if name.startswith("on")]
    names = outline.values("article", "data-name")
    assert names == [short_name(Path("a", evil))] * len(outcomes) and "49" not in names[0]
    assert " ".join(evil.split()) in outline.words


@pytest.mark.usefixtures("no_figures")
def test_run_without_nok_images(run: RunFolder, outcomes: list[Outcome]) -> None:
    good = [outcome for outcome in outcomes if not outcome.sample.label]
    gone = ["image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro", "image_detection_rate"]
    missing = dict.fromkeys(gone, "the test set has no NOK images")
    change(run, "metrics", **dict.fromkeys(gone), per_defect={}, missing=missing)
    text = written(run, good).words
    assert text.count("not available: the test set has no NOK images") == 6
    assert "1 of 6 good images rejected" in text and "defective images found" not in text
    assert "Defect types" not in text


@pytest.mark.usefixtures("no_figures")
def test_an_evaluation_with_maps_masks_and_images_of_other_sizes(run: RunFolder, outcomes: list[Outcome]) -> None:
    (run.path / "environment.json").write_text('{"seed": 0}')
    (run.path / "config.yaml").write_text("run: runs/default/panels-stfpm-s0\n")
    missed, found, good = outcomes[6], outcomes[7], outcomes[0]
    large = {"image": np.zeros((700, 300, 3), np.uint8), "map": np.ones((32, 16), np.float32)}
    odd = [
        replace(missed, mask=np.ones((70, 30), bool), **large),
        replace(found, sample=replace(found.sample, label=None), mask=None),
        replace(good, score=float("nan")),
    ]
    outline = written(run, odd)
    assert "0 0 110 256" in outline.values("svg", "viewbox") and "evaluation of panels-stfpm-s0" in outline.words


@pytest.mark.usefixtures("no_figures")
def test_the_page_filters_orders_enlarges_and_sorts(run: RunFolder, outcomes: list[Outcome], browser: Any) -> None:
    written(run, outcomes)
    with opened(browser, (run.path / "report.html").as_uri()) as page:

        def shown() -> list[str]:
            return page.eval_on_selector_all("article:not([hidden])", "all => all.map(one => one.dataset.name)")

        assert len(shown()) == 12
        page.click(".chip[data-kind='scratch']")
        assert len(shown()) == 4 and page.get_attribute(".chip[data-kind='']", "aria-pressed") == "false"
        page.check("#only-mistakes")
        assert shown() == ["scratch/000.png"]
        page.click(".chip[data-kind='dent']")
        assert shown() == [] and page.is_visible("text=No image matches.")
        page.click(".chip[data-kind='']")
        page.uncheck("#only-mistakes")
        page.select_option("#order", "falling")
        assert shown()[:2] == ["scratch/003.png", "dent/001.png"]
        page.click("article:not([hidden]) .tiles >> nth=0")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#large .place") == "2 / 12" and page.inner_text("#large .name") == "dent/001.png"
        page.keyboard.press("Escape")
        assert not page.is_visible("#large")
        page.click("th >> text=recall at the threshold")
        assert page.inner_text("section:has-text('Defect types') tbody tr >> nth=0").startswith("dent")
