from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.errors import UserError
from anomalib_lite.report import page
from anomalib_lite.report.cases import Case
from anomalib_lite.report.page import write_report

from .outline import read, words


def test_page_is_whole_and_fetches_nothing(run_dir: Path, cases: list[Case]) -> None:
    html, outline = read(write_report(run_dir, cases, pixel_points={"roc": ([0, 1], [0, 1])}))
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


def test_page_says_what_the_run_measured(run_dir: Path, cases: list[Case]) -> None:
    _, outline = read(write_report(run_dir, cases))
    text = words(outline)
    for part in (
        "stfpm seed 0", "0.9167", "not available: the masks are too coarse", "5 of 6 defective images found",
        "1 of 6 good images rejected", "Of the good test images it rejected 16.7 %.", "exceeds 2", "at most 4.9 %",
        "4e593f1", "2 min 58 s", "# the default", "missed scratch 0.55 × threshold test/scratch/000.png",
    ):  # fmt: skip
        assert part in text, part
    figures = {path.name for path in (run_dir / "figures").iterdir()}
    assert figures == {f"{name}.png" for name in ("scores", "roc", "precision_recall", "training", "gallery")}


@pytest.mark.usefixtures("no_figures")
def test_cases_stand_in_order_and_mistakes_are_marked(run_dir: Path, cases: list[Case]) -> None:
    _, outline = read(write_report(run_dir, cases))
    names = outline.values("article", "data-name")
    assert names[:2] == ["test/scratch/000.png", "test/good/005.png"]  # 0.55 and 1.3 times the threshold
    assert len(names) == len(cases) and len(outline.values("article", "data-mistake")) == 2
    scores = [float(score) for score in outline.values("article", "data-score")[2:]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.usefixtures("no_figures")
def test_at_most_max_cases_are_shown_and_the_page_says_so(run_dir: Path, cases: list[Case]) -> None:
    _, outline = read(write_report(run_dir, cases, max_cases=5))
    assert len(outline.values("article", "data-name")) == 5
    assert "5 of 12 images, among them all mistakes (2)" in words(outline)


@pytest.mark.usefixtures("no_figures")
def test_page_stays_small(run_dir: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (300, 300, 3)).astype(np.uint8)  # the worst there is for any codec
    many = [Case(f"{i}.png", i % 2, "a" if i % 2 else None, i / 9, noise, noise[..., 0] / 40) for i in range(60)]
    assert write_report(run_dir, many).stat().st_size < 15e6


@pytest.mark.usefixtures("no_figures")
def test_page_is_replaced_in_one_step(run_dir: Path, cases: list[Case], monkeypatch) -> None:
    target = write_report(run_dir, cases)
    before = target.read_bytes()

    def fail(*_: object) -> str:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(page, "_render", fail)
    with pytest.raises(RuntimeError):
        write_report(run_dir, cases)
    assert target.read_bytes() == before
    assert not [path for path in run_dir.rglob("*") if path.name.startswith(".")]


@pytest.mark.usefixtures("no_figures")
def test_the_same_run_gives_the_same_page(run_dir: Path, cases: list[Case]) -> None:
    assert write_report(run_dir, cases).read_bytes() == write_report(run_dir, cases).read_bytes()


def test_contact_sheet_is_not_all_mistakes(cases: list[Case]) -> None:
    missed = [dataclasses.replace(cases[6], name=f"{i}", score=0.1 * i) for i in range(15)]
    few = page._telling(missed + cases, 2.0)
    assert [case.name for case in few[:9]] == [f"{i}" for i in range(9)]
    assert len(few) == 18 and {case.defect for case in few[9:]} == {None, "scratch", "dent"}


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        write_report(tmp_path / "nowhere")


def test_generated_images_have_their_place_in_the_page(run_dir: Path, cases: list[Case]) -> None:
    assert "Generated images" not in write_report(run_dir, cases).read_text()
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
    page = write_report(run_dir, cases).read_text()
    assert "dropped 2 of 9 images" in page and 'href="generated/generated.html"' in page
    assert "0.2500" in page and "frechet not available: few." in page
