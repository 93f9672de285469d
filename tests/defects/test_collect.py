import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.data.sample import Outcome, Sample
from anomalib_lite.defects import DefectCollector, Inspector
from anomalib_lite.defects.collect import confusion, draw_defects, draw_layout, rgb
from anomalib_lite.scoring.threshold import threshold_from_ok
from tests.commands import read_rows
from tests.defects.conftest import SHAPE, flawed, photograph, seen

LIMIT = threshold_from_ok([0.1], [0.1])


def stained(seed: int, side: int = 10, missed: bool = False) -> Outcome:
    """A photograph with a stain, which a detector may have missed."""
    picture, mask = flawed(seed, np.s_[14 : 14 + side, 59 : 59 + side], (90, 160, 205))
    return outcome(f"stain/{seed}.png", picture, seen(mask & (not missed)), "stain", mask)


def outcome(image: str, picture, values, defect: str | None = None, mask=None) -> Outcome:
    sample = Sample(Path(image), int(defect is not None), defect=defect)
    return Outcome(sample, float(values.max()), values.max() > 0.1, image=picture, map=values, mask=mask)


@pytest.fixture
def collector(inspector: Inspector) -> DefectCollector:
    collector = DefectCollector(inspector, LIMIT, pictured=2)
    good = outcome("good/0.png", photograph(70), np.zeros(SHAPE, np.float32))
    for one in (good, stained(0, 4), stained(1, 12), stained(2, 8), stained(3, missed=True)):
        collector.add(one)
    return collector


def test_files_hold_every_image_and_every_defect(collector, tmp_path):
    collector.write(tmp_path)
    record = json.loads((tmp_path / "defects.json").read_text())
    assert [(entry["accepted"], len(entry["defects"])) for entry in record["images"]] == [
        (True, 0), (False, 1), (False, 1), (False, 1), (True, 0),
    ]  # fmt: skip
    assert record["resolution"] == [96, 128] and record["units"]["area_px"] == "px"
    assert record["confusion"]["accuracy"] == 1.0
    rows = read_rows(tmp_path / "defects.csv")
    assert [row["image"] for row in rows] == ["stain/0.png", "stain/1.png", "stain/2.png"]
    first = record["images"][1]["defects"][0]
    assert rows[0]["type"] == first["type"] and float(rows[0]["area_px"]) == first["measures"]["area_px"]
    assert rows[0]["area_mm2"] == "" and [int(rows[0][key]) for key in ("x", "y", "width", "height")] == first["box"]


def test_numbers_are_of_all_and_pictures_of_the_worst_alone(collector):
    metrics = collector.metrics()
    assert metrics["defects"] == metrics["rejected"] == 3 and metrics["by_type"]["colour_scratch"] == 3
    assert sum(metrics["by_grade"].values()) == 3 and metrics["type_accuracy"] == 1.0
    kept = [str(outcome.sample.image) for outcome in collector.outcomes if outcome.image is not None]
    assert kept == ["stain/1.png", "stain/2.png"]
    assert collector.outcomes[1].defects[0].mask.size == 0


def test_the_defects_of_a_category_are_those_above_its_own_threshold(inspector: Inspector):
    one = stained(71)
    calm = replace(LIMIT, pixel=float(one.map.max()))
    collector = DefectCollector(inspector, replace(LIMIT, categories={"nut": calm}))
    assert len(collector.add(one).defects) == 1
    assert collector.add(replace(one, sample=replace(one.sample, category="nut"))).defects == ()


def test_a_set_without_known_names_has_no_table(inspector, tmp_path):
    collector = DefectCollector(inspector, LIMIT)
    collector.add(outcome("a.png", photograph(80), np.zeros(SHAPE, np.float32), "crumbs"))
    assert collector.confusion is None
    collector.write(tmp_path)
    assert "confusion" not in json.loads((tmp_path / "defects.json").read_text())


def test_confusion_by_hand():
    names = ["blur", "blur", "bent", "bent", "dirt", None]
    kinds = ["text", "shape", "shape", None, "text", "text"]
    table = confusion(names, kinds, {"blur": "text", "bent": "shape"}, ("text", "shape"))
    assert table.counts.tolist() == [[1, 1, 0], [0, 1, 1]]
    assert table.accuracy == pytest.approx(2 / 3)
    assert confusion(["blur"], [None], {"blur": "text"}, ("text", "shape")).accuracy is None


def test_outlines_have_their_types_colours(inspector):
    picture, mask = flawed(90, np.s_[14:28, 59:73], (90, 160, 205))
    found = inspector.inspect(seen(mask), picture, 0.1)
    drawn = draw_defects(cv2.resize(picture, None, fx=2, fy=2), found, inspector.settings.types)
    assert drawn.shape == (192, 256, 3)
    colour = rgb(inspector.settings.types[found[0].kind].colour)
    outlined = np.abs(drawn.astype(int) - colour).max(axis=2) < 40
    assert outlined.sum() > 40 and not outlined[80:].any()
    assert (draw_defects(picture, [], inspector.settings.types) == picture).all()


def test_the_layout_tints_all_but_the_background(inspector):
    drawn, image = draw_layout(inspector.layout, inspector.reference.image), inspector.reference.image
    same = (drawn == image).all(axis=2)
    assert same[inspector.layout.area("background")].all() and not same[inspector.layout.area("text")].any()
