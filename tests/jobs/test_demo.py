"""The verb demo: what it makes agrees with what was drawn, and goes through the rooms that come after it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.annotate.crops import find_crops
from anomalib_lite.data.decode import read_mask
from anomalib_lite.data.folder import read, read_labels
from anomalib_lite.jobs.demo import crop_mask, match_truth
from anomalib_lite.registration.cropping import Product
from anomalib_lite.rendering.flaws import DEFECTS
from anomalib_lite.rendering.product import Placed, read_truth
from tests.commands import in_process, ran, read_rows, refused

SMALL = ["n_panels=2", "seed=3", "sheet.width=640", "sheet.height=360", "sheet.nok_share=0.5"]
SIDE = 128  # of a crop


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A demo, and what the terminal said. Read only."""
    folder = tmp_path_factory.mktemp("made") / "demo"
    return folder, ran("demo", *SMALL, f"output={folder}").out


def drawn(folder: Path) -> list[tuple[dict[str, str], str, Placed]]:
    """Each line of labels.csv, its panel's name, and the drawn product whose centre is nearest to the found one's."""
    truth, rows = read_truth(folder / "truth/truth.json"), []
    for found, label in zip(read_rows(folder / "manifest.csv"), read_rows(folder / "labels.csv"), strict=True):
        centre = [float(found[axis]) + float(found[side]) / 2 for axis, side in ("xw", "yh")]
        panel = Path(found["panel"]).name
        nearest = min(truth[f"panels/{panel}"], key=lambda p: float(np.hypot(*(p.corners.mean(0) - centre))))
        rows.append((label, panel, nearest))
    return rows


def test_every_product_is_found_and_labelled_as_it_was_drawn(made):
    folder, said = made
    rows = drawn(folder)
    assert "16 of 16 products found in 2 panels" in said
    assert len({id(product) for _, _, product in rows}) == len(rows) == 16
    for row, _, product in rows:
        assert (row["label"], row["defect"]) == (("NOK", product.defect) if product.defect else ("OK", ""))
        assert bool(row["mask"]) == bool(product.defect)
    defects = [row["defect"] for row, _, _ in rows if row["defect"]]
    assert f"{16 - len(defects)} OK, {len(defects)} NOK" in said and 4 <= len(defects) <= 12
    assert set(defects) <= set(DEFECTS)


def test_masks_lie_on_the_defects_of_their_crops(made):
    """The panel's mask brought upright by the drawn corners, instead of the found pose, marks the same place."""
    folder, _ = made
    square = np.array([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], np.float32)
    for row, panel, product in drawn(folder):
        assert cv2.imread(str(folder / row["crop"])).shape == (SIDE, SIDE, 3)
        if not row["mask"]:
            continue
        mask = read_mask(folder / row["mask"])
        assert mask.shape == (SIDE, SIDE) and mask.any()
        upright = cv2.getPerspectiveTransform(product.corners.astype(np.float32) - 0.5, square - 0.5)
        whole = read_mask(folder / "truth/masks" / panel)
        expected = cv2.warpPerspective(whole.astype(np.float32), upright, (SIDE, SIDE)) > 0.25
        centres = [np.argwhere(m).mean(0) for m in (mask, expected)]
        assert np.hypot(*(centres[0] - centres[1])) < 2
        assert mask.sum() == pytest.approx(expected.sum(), rel=0.5, abs=12)


def found_at(x: float, y: float) -> Product:
    return Product(np.array([[1.0, 0, x], [0, 1, y]]), (100, 100), 0.9)


def test_products_are_told_by_their_place_and_none_is_taken_twice():
    shown = [Placed(found_at(*place).corners, 0.0, None, None) for place in ((0, 0), (120, 0), (0, 120))]
    assert match_truth([found_at(3, 118), found_at(-4, 2), found_at(121, 5)], shown) == [shown[2], shown[0], shown[1]]
    assert match_truth([found_at(60, 0), found_at(20, 0), found_at(2, 0)], shown[:2]) == [None, None, shown[0]]
    assert match_truth([], shown) == [] and match_truth([found_at(0, 0)], []) == [None]


def test_a_mask_is_cut_where_half_a_pixel_is_marked_and_finer_marks_are_kept():
    panel = np.zeros((300, 300), bool)
    assert not crop_mask(panel, found_at(0, 0)).any()
    panel[60:80, 70:90] = True
    assert np.argwhere(crop_mask(panel, found_at(50, 40)))[[0, -1]].tolist() == [[20, 20], [39, 39]]
    assert crop_mask(panel, found_at(50.2, 40.2)).sum() == 400  # even in the corners, 0.8 * 0.8 of a pixel
    panel[:] = False
    panel[60, 70] = True
    assert crop_mask(panel, found_at(50.45, 40.45)).sum() == 4


def test_the_reader_of_a_folder_and_the_labelling_page_take_it_as_it_is(made):
    folder, said = made
    splits = read(manifest=folder / "labels.csv", template=folder / "template.png")
    bad = [sample for sample in splits.test if sample.label]
    assert {s.defect for s in bad} == {r["defect"] for r in read_rows(folder / "labels.csv") if r["defect"]}
    assert all(sample.mask.is_file() for sample in bad)
    assert len(splits.train) + len(splits.val) + len(splits.test) == 16
    assert [crop.key for crop in find_crops(folder).crops] == [row.crop for row in read_labels(folder / "labels.csv")]
    for argument in ("data=folder", f"data.manifest={folder}/labels.csv", f"data.template={folder}/template.png"):
        assert argument in said


def test_segment_finds_the_same_products(made, here):
    folder, _ = made
    ran("segment", f"images={folder}/panels", f"template={folder}/template.png", "output=own")
    assert read_rows(here / "own/manifest.csv") == read_rows(folder / "manifest.csv")
    assert (folder / "overview/panel_001.jpg").read_bytes() == (here / "own/overview/panel_001.jpg").read_bytes()


def test_a_whole_demo_is_kept_until_it_is_to_be_made_anew(here):
    one = ["demo", *SMALL, "n_panels=1", "output='a demo'"]
    ran(*one)
    labels = here / "a demo/labels.csv"
    made = labels.read_text()
    labels.write_text("corrected by hand")

    again = ran(*one).out
    assert "kept" in again and "Next: anomalib-lite train" in again
    assert "other settings" in refused(*one, "seed=4") and labels.read_text() == "corrected by hand"
    ran(*one, "force=true")
    assert labels.read_text() == made
    assert [path.name for path in here.iterdir()] == ["a demo"]


def test_a_demo_that_stops_halfway_leaves_nothing(here, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("anomalib_lite.jobs.demo.write_manifest", stop)
    assert in_process("demo", *SMALL, "n_panels=1").status == 130  # as the shell reports Ctrl-C
    assert not list(here.iterdir())


def test_what_demo_cannot_draw_or_has_not_made_is_refused(here):
    assert "32 px" in refused("demo", *SMALL, "sheet.width=90") and not list(here.iterdir())
    (here / "photo.png").write_bytes(b"precious")
    for force in ("true", "false"):
        assert "demo did not create it" in refused("demo", *SMALL, "output=.", f"force={force}")
    assert [path.name for path in here.iterdir()] == ["photo.png"]
