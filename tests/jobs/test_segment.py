"""The verb segment, worked as a user works it."""

import re
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.annotate.crops import find_crops
from anomalib_lite.annotate.store import Answer, Store, answers_in
from anomalib_lite.rendering.product import read_truth, write_sheets
from anomalib_lite.settings.data import SheetConfig
from tests.annotate.conftest import drawn_mask
from tests.commands import in_process, ran, read_rows, refused
from tests.made import write_pixels


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    return write_sheets(tmp_path_factory.mktemp("rendered") / "sheets", 2, SheetConfig(width=640, height=480))


def test_panels_of_many_kinds_become_crops_a_manifest_and_overviews(sheets, here):
    """8-bit, 16-bit, alpha; one without products, one that is no image: it is named, the others are done."""
    first, second = (cv2.imread(str(sheets / f"panels/panel_00{i}.png")) for i in range(2))
    write_pixels(here / "panels/a.png", first)
    write_pixels(here / "panels/b_16bit.png", second.astype(np.uint16) * 257)
    write_pixels(here / "panels/c_alpha.png", cv2.cvtColor(first, cv2.COLOR_BGR2BGRA))
    write_pixels(here / "panels/d_empty.png", np.random.default_rng(0).integers(10, 20, first.shape).astype(np.uint8))
    (here / "panels/e_broken.png").write_bytes(b"no image")
    write_pixels(here / "panels/f_tiny.png", first[:40, :40])
    done = in_process("segment", "images=panels", f"template={sheets}/template.png")

    assert done.status == 3, done.err
    assert "e_broken.png" in done.err and "larger than the panel" in done.err
    assert "no product found in 1 of 6 panels, the first is panels/d_empty.png" in done.err
    assert done.out.startswith("24 products in 4 panels: segmented/manifest.csv\nNext: anomalib-lite annotate crops=")
    rows = read_rows(here / "segmented/manifest.csv")
    assert [row["panel"] for row in rows] == [f"panels/{n}.png" for n in ("a", "b_16bit", "c_alpha") for _ in range(8)]
    template = cv2.imread(str(sheets / "template.png"))
    for row in rows:
        assert cv2.imread(str(here / "segmented" / row["crop"])).shape == template.shape
        assert 0.6 < float(row["score"]) <= 1 and abs(float(row["angle"])) < 3.5
        assert float(row["w"]) == pytest.approx(template.shape[1], rel=0.03)
    for a, c in zip(rows[:8], rows[16:], strict=True):  # alpha changes nothing
        assert (a["x"], a["y"], a["score"]) == (c["x"], c["y"], c["score"])
    assert {p.name for p in (here / "segmented/overview").iterdir()} >= {"a.jpg", "d_empty.jpg"}
    assert len(find_crops(here / "segmented/manifest.csv").crops) == 24
    said = refused("segment", "images=panels/d_empty.png", f"template={sheets}/template.png", "output=none")
    assert "Nothing was cut out: no product found in 1 of 1 panels" in said
    assert not (here / "none/manifest.csv").exists()


def test_16_bit_panels_keep_their_differences_in_brightness(sheets, here):
    panel = cv2.imread(str(sheets / "panels/panel_000.png")).astype(float)
    for name, brightest in (("a", 17000), ("b", 15000)):
        write_pixels(here / f"panels/{name}.png", (panel * brightest / panel.max()).astype(np.uint16))

    def brightness(*options: str) -> list[float]:
        ran("segment", "images=panels", f"template={sheets}/template.png", "force=true", *options)
        return [float(cv2.imread(str(here / f"segmented/crops/{name}_00.png")).mean()) for name in "ab"]

    bright, dark = brightness()
    assert dark / bright == pytest.approx(15 / 17, rel=0.05)
    assert brightness("bits=14")[1] == pytest.approx(4 * dark, rel=0.05)


def test_a_template_cut_from_a_panel_and_an_earlier_manifest(sheets, here):
    corners = read_truth(sheets / "truth.json")["panels/panel_000.png"][0].corners
    x, y = corners.min(0).astype(int).tolist()
    width, height = (np.round(corners.max(0)).astype(int) - (x, y)).tolist()
    words = ["segment", f"images={sheets}/panels/panel_001.png", f"template={sheets}/panels/panel_000.png"]
    words += [f"template_box=[{x},{y},{width},{height}]", "output=cut"]
    ran(*words)
    assert len(read_rows(here / "cut/manifest.csv")) == 8
    assert "force=true" in refused(*words)
    ran(*words, "force=true", "panels.max_objects=3")
    assert len(read_rows(here / "cut/manifest.csv")) == len(list((here / "cut/crops").iterdir())) == 3


@pytest.mark.parametrize("where", ["cut", "cut/crops"])
def test_answers_never_apply_to_other_crops_and_are_never_lost(sheets, here, where):
    """Where annotate keeps them: beside the manifest, or among the crops if they were opened as a folder."""
    words = ["segment", f"images={sheets}/panels/panel_000.png", f"template={sheets}/template.png", "output=cut"]
    ran(*words)
    store = Store(find_crops(here / where))
    crop = next(iter(store.crops.values()))
    store.answer(crop, Answer("NOK", "scratch"))
    store.save_mask(crop, drawn_mask(size=cv2.imread(str(crop.path)).shape[1::-1]))
    (here / "cut/manifest.csv").unlink()  # as a killed run or a person leaves it
    before = {path: path.read_bytes() for path in sorted((here / where).rglob("*")) if path.is_file()}

    assert "labels.csv already exists" in refused(*words)
    assert "Another process is using" in refused(*words, "force=true"), "a page is open"
    assert {path: path.read_bytes() for path in before} == before
    store.close()
    said = ran(*words, "force=true").err

    assert not answers_in(here / where)
    kept = [path for path in (here / where).iterdir() if ".before-" in path.name]
    names = sorted(re.sub(r"before-[\d-]+", "before", path.name) for path in kept)
    assert names == ["labels.before.csv", "labels.journal.before.jsonl", "masks.before"]
    assert all(str(path.relative_to(here)) in said for path in kept)
    (labels,) = (path for path in kept if path.suffix == ".csv")
    assert labels.read_bytes() == before[here / where / "labels.csv"]
    with closing(Store(find_crops(here / "cut/manifest.csv"))) as again:
        assert not again.answers and not again.mask_path(next(iter(again.crops.values())))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("template=nowhere.png", "The template does not exist"),
        ("template_box=[0,0,9000,10]", "does not lie within template.png, which has"),
        ("template_box=[0,0,10]", "x, y, width, height"),
        ("images=nothing/*.png", "No image found"),
    ],
)
def test_wrong_input_is_explained_in_a_paragraph(sheets, here, wrong, message):
    assert message in refused("segment", f"images={sheets}/panels", f"template={sheets}/template.png", wrong)
    assert not (here / "segmented").exists()


def test_equal_names_in_several_folders_stay_apart_and_may_be_numbers(sheets, here):
    for name in ("20240512/p.png", "7/p.png", "7/p.bmp"):
        write_pixels(here / name, cv2.imread(str(sheets / "panels/panel_000.png")))
    ran("segment", "images=[20240512,7]", f"template={sheets}/template.png", "output=5")
    crops = [row["crop"] for row in read_rows(here / "5/manifest.csv")]
    assert len(set(crops)) == 24 and {Path(c).parent.as_posix() for c in crops} == {"crops/20240512", "crops/7"}
