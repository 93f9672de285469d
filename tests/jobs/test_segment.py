"""The verb segment, worked as a user works it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.annotate.crops import find_crops
from anomalib_lite.rendering.product import read_truth, write_sheets
from anomalib_lite.settings.data import SheetConfig
from tests.commands import command_line, read_rows


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    return write_sheets(tmp_path_factory.mktemp("rendered") / "sheets", 2, SheetConfig(width=640, height=480))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_panels_of_many_kinds_become_crops_a_manifest_and_overviews(sheets, tmp_path):
    """8-bit, 16-bit, alpha; one without products, one that is no image: it is named, the others are done."""
    panels = tmp_path / "panels"
    panels.mkdir()
    first, second = (cv2.imread(str(sheets / f"panels/panel_00{i}.png")) for i in range(2))
    cv2.imwrite(str(panels / "a.png"), first)
    cv2.imwrite(str(panels / "b_16bit.png"), second.astype(np.uint16) * 257)
    cv2.imwrite(str(panels / "c_alpha.png"), cv2.cvtColor(first, cv2.COLOR_BGR2BGRA))
    cv2.imwrite(str(panels / "d_empty.png"), np.random.default_rng(0).integers(10, 20, first.shape).astype(np.uint8))
    (panels / "e_broken.png").write_bytes(b"no image")
    cv2.imwrite(str(panels / "f_tiny.png"), first[:40, :40])
    done = command_line("segment", "images=panels", f"template={sheets}/template.png", cwd=tmp_path)

    assert done.status == 3, done.err
    assert "e_broken.png" in done.err and "larger than the panel" in done.err
    assert "no product found in 1 of 6 panels, the first is panels/d_empty.png" in done.err
    assert done.out.startswith("24 products in 4 panels: segmented/manifest.csv\nNext: anomalib-lite annotate crops=")
    rows = read_rows(tmp_path / "segmented" / "manifest.csv")
    assert [row["panel"] for row in rows] == [f"panels/{n}.png" for n in ("a", "b_16bit", "c_alpha") for _ in range(8)]
    template = cv2.imread(str(sheets / "template.png"))
    for row in rows:
        assert cv2.imread(str(tmp_path / "segmented" / row["crop"])).shape == template.shape
        assert 0.6 < float(row["score"]) <= 1 and abs(float(row["angle"])) < 3.5
        assert float(row["w"]) == pytest.approx(template.shape[1], rel=0.03)
    for a, c in zip(rows[:8], rows[16:], strict=True):  # alpha changes nothing
        assert (a["x"], a["y"], a["score"]) == (c["x"], c["y"], c["score"])
    assert {p.name for p in (tmp_path / "segmented/overview").iterdir()} >= {"a.jpg", "d_empty.jpg"}
    assert len(find_crops(tmp_path / "segmented/manifest.csv").crops) == 24
    nothing = ["images=panels/d_empty.png", f"template={sheets}/template.png", "output=none"]
    done = command_line("segment", *nothing, cwd=tmp_path)
    assert done.status == 2 and "Nothing was cut out: no product found in 1 of 1 panels" in done.err
    assert not (tmp_path / "none/manifest.csv").exists()


def test_a_template_cut_from_a_panel_and_an_earlier_manifest(sheets, here, run_verb):
    corners = read_truth(sheets / "truth.json")["panels/panel_000.png"][0].corners
    x, y = corners.min(0).astype(int).tolist()
    width, height = (np.round(corners.max(0)).astype(int) - (x, y)).tolist()
    arguments = [
        f"images={sheets}/panels/panel_001.png",
        f"template={sheets}/panels/panel_000.png",
        f"template_box=[{x},{y},{width},{height}]",
        "output=cut",
    ]
    assert run_verb("segment", *arguments).status == 0
    assert len(read_rows(here / "cut" / "manifest.csv")) == 8

    again = run_verb("segment", *arguments)
    assert again.status == 2 and "force=true" in again.err and "Traceback" not in again.err
    label = here / "cut/labels.csv"
    label.write_text("kept")
    assert run_verb("segment", *arguments, "force=true", "panels.max_objects=3").status == 0
    assert len(read_rows(here / "cut" / "manifest.csv")) == len(list((here / "cut/crops").iterdir())) == 3
    assert label.read_text() == "kept"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["template=nowhere.png"], "The template does not exist"),
        (["template_box=[0,0,9000,10]"], "does not lie within template.png, which has"),
        (["template_box=[0,0,10]"], "x, y, width, height"),
        (["images=nothing/*.png"], "No image found"),
    ],
)
def test_wrong_input_is_explained_in_a_paragraph(sheets, here, run_verb, overrides, message):
    done = run_verb("segment", f"images={sheets}/panels", f"template={sheets}/template.png", *overrides)
    assert done.status == 2 and message in done.err and "Traceback" not in done.err
    assert not (here / "segmented").exists()


def test_equal_names_in_several_folders_stay_apart_and_may_be_numbers(sheets, here, run_verb):
    for name in ("20240512/p.png", "7/p.png", "7/p.bmp"):
        (here / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(here / name), cv2.imread(str(sheets / "panels/panel_000.png")))
    assert run_verb("segment", "images=[20240512,7]", f"template={sheets}/template.png", "output=5").status == 0
    crops = [row["crop"] for row in read_rows(here / "5" / "manifest.csv")]
    assert len(set(crops)) == 24 and {Path(c).parent.as_posix() for c in crops} == {"crops/20240512", "crops/7"}
