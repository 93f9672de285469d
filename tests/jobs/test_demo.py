"""The verb demo: what it makes agrees with what was drawn, and goes through the rooms that come after it."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.annotate.crops import find_crops
from anomalib_lite.annotate.labels import read_labels
from anomalib_lite.data.decode import read_mask
from anomalib_lite.data.folder import read
from anomalib_lite.rendering.flaws import DEFECTS
from tests.commands import Outcome, in_process

SMALL = ["n_panels=2", "seed=3", "sheet.width=640", "sheet.height=360", "sheet.nok_share=0.5"]
SIDE = 128  # of a crop


def demo(output: Path, *more: str) -> Outcome:
    return in_process("demo", *SMALL, f"output={output}", *more)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A demo, and what the terminal said. Read only."""
    folder = tmp_path_factory.mktemp("made") / "demo"
    done = demo(folder)
    assert done.status == 0, done.err
    return folder, done.out + done.err


def truth_of(folder: Path) -> dict[str, dict[str, str]]:
    """The line of truth.csv by crop: of the product whose centre is nearest to the found one's."""
    truth = table(folder / "truth/truth.csv")
    nearest = {}
    for row in table(folder / "manifest.csv"):
        centre = [float(row[axis]) + float(row[side]) / 2 for axis, side in ("xw", "yh")]
        own = [t for t in truth if Path(t["panel"]).name == Path(row["panel"]).name]
        nearest[row["crop"]] = min(own, key=lambda t: float(np.hypot(*(corners(t).mean(0) - centre))))
    return nearest


def corners(row: dict[str, str]) -> np.ndarray:
    return np.array([[float(row[f"{axis}{i}"]) for axis in "xy"] for i in range(4)], np.float32)


def test_every_product_is_found_and_labelled_as_it_was_drawn(made):
    folder, said = made
    truth, labels = truth_of(folder), table(folder / "labels.csv")
    assert "16 of 16 products found in 2 panels" in said
    assert len({(row["panel"], row["number"]) for row in truth.values()}) == len(labels) == 16
    for row in labels:
        drawn = truth[row["crop"]]["defect"]
        assert (row["label"], row["defect"]) == (("OK", "") if drawn == "good" else ("NOK", drawn))
        assert bool(row["mask"]) == (drawn != "good")
    defects = [row["defect"] for row in labels if row["defect"]]
    assert f"{16 - len(defects)} OK, {len(defects)} NOK" in said and 4 <= len(defects) <= 12
    assert set(defects) <= set(DEFECTS)


def test_masks_lie_on_the_defects_of_their_crops(made):
    """The panel's mask brought upright by the drawn corners, instead of the found pose, marks the same place."""
    folder, _ = made
    square = np.array([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], np.float32)
    truth = truth_of(folder)
    for row in table(folder / "labels.csv"):
        assert cv2.imread(str(folder / row["crop"])).shape == (SIDE, SIDE, 3)
        if not row["mask"]:
            continue
        mask = read_mask(folder / row["mask"])
        assert mask.shape == (SIDE, SIDE) and mask.any()
        upright = cv2.getPerspectiveTransform(corners(truth[row["crop"]]) - 0.5, square - 0.5)
        panel = read_mask(folder / "truth/masks" / Path(truth[row["crop"]]["panel"]).name)
        expected = cv2.warpPerspective(panel.astype(np.float32), upright, (SIDE, SIDE)) > 0.25
        centres = [np.argwhere(m).mean(0) for m in (mask, expected)]
        assert np.hypot(*(centres[0] - centres[1])) < 2
        assert mask.sum() == pytest.approx(expected.sum(), rel=0.5, abs=12)


def test_the_reader_of_a_folder_and_the_labelling_page_take_it_as_it_is(made):
    folder, said = made
    splits = read(manifest=folder / "labels.csv", template=folder / "template.png")
    bad = [sample for sample in splits.test if sample.label]
    assert {s.defect for s in bad} == {r["defect"] for r in table(folder / "labels.csv") if r["defect"]}
    assert all(sample.mask.is_file() for sample in bad)
    assert len(splits.train) + len(splits.val) + len(splits.test) == 16
    assert [crop.key for crop in find_crops(folder).crops] == list(read_labels(folder / "labels.csv"))
    for argument in ("data=folder", f"data.manifest={folder}/labels.csv", f"data.template={folder}/template.png"):
        assert argument in said


def test_segment_finds_the_same_products(made, tmp_path):
    folder, _ = made
    done = in_process("segment", f"images={folder}/panels", f"template={folder}/template.png", f"output={tmp_path}/own")
    assert done.status == 0
    assert table(tmp_path / "own/manifest.csv") == table(folder / "manifest.csv")
    assert (folder / "overview/panel_001.jpg").read_bytes() == (tmp_path / "own/overview/panel_001.jpg").read_bytes()


def test_a_whole_demo_is_kept_until_it_is_to_be_made_anew(tmp_path):
    folder = tmp_path / "a demo"
    assert demo(folder, "n_panels=1").status == 0
    labels = folder / "labels.csv"
    made = labels.read_text()
    labels.write_text("corrected by hand")

    again = demo(folder, "n_panels=1")
    assert (
        again.status == 0 and "kept" in again.out + again.err and "Next: anomalib-lite train" in again.out + again.err
    )
    other = demo(folder, "n_panels=1", "seed=4")
    assert other.status == 2 and "other settings" in other.err and "Traceback" not in other.err
    assert labels.read_text() == "corrected by hand"

    assert demo(folder, "n_panels=1", "force=true").status == 0
    assert labels.read_text() == made
    assert [path.name for path in tmp_path.iterdir()] == ["a demo"]


def test_a_demo_that_stops_halfway_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("anomalib_lite.jobs.demo.write_manifest", stop)
    assert demo(tmp_path / "demo", "n_panels=1").status == 130  # as the shell reports Ctrl-C
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("force", ["true", "false"])
def test_a_folder_that_demo_has_not_made_stays_as_it_is(tmp_path, force):
    (tmp_path / "photo.png").write_bytes(b"precious")
    done = demo(tmp_path, f"force={force}")
    assert done.status == 2 and "demo has not made it" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


@pytest.mark.parametrize(
    ("override", "message"),
    [("n_panels=0", "n_panels is a whole number, 1 or more"), ("seed=x", "seed is"), ("sheet.width=90", "32 pixels")],
)
def test_wrong_values_are_explained(tmp_path, override, message):
    done = demo(tmp_path / "demo", override)
    assert done.status == 2 and message in done.err and "Traceback" not in done.err
    assert not (tmp_path / "demo").exists()
