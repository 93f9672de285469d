import re
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from anomalib_lite.metrics import PixelMetrics
from anomalib_lite.report import figures as room
from anomalib_lite.report import ink
from anomalib_lite.report.figures import Block, Curve, draw_figures, draw_sheet, score_histogram, training_curves

from .conftest import THRESHOLD, judged

LOSSES = pd.DataFrame({"epoch": [0, 1], "train_loss": [1.5, 0.5], "val_loss": [1.7, 0.7]})
POINTS = {"roc": (np.array([0, 0.1, 1]), np.array([0, 0.9, 1])), "pro": (np.array([0, 0.3]), np.array([0, 0.8]))}
AREAS = {"image_auroc": 0.5, "image_ap": None, "pixel_auroc": 0.5, "aupro": 0.5}


@pytest.fixture
def drawn(outcomes):
    return draw_figures(outcomes, THRESHOLD, AREAS, LOSSES, POINTS)


def words(drawing) -> str:
    return " ".join(re.findall(r"<text[^>]*>([^<]*)", ink.to_svg(drawing)))


def test_every_figure_is_a_png_with_something_on_it(drawn, tmp_path: Path) -> None:
    assert set(drawn) == {"scores", "roc", "precision_recall", "pixel_roc", "pixel_pro", "training"}
    for name, drawing in drawn.items():
        picture = cv2.imread(str(ink.save_png(drawing, tmp_path / f"{name}.png")))
        assert min(picture.shape[:2]) > 200 and picture.std() > 5


def test_image_curves_agree_with_scikit_learn(outcomes) -> None:
    labels, scores = [o.sample.label for o in outcomes], [o.score for o in outcomes]
    roc, precision_recall = room.image_curves(outcomes).values()
    assert auc(roc.x, roc.y) == pytest.approx(roc_auc_score(labels, scores))
    steps = np.diff(precision_recall.x, prepend=0) @ precision_recall.y
    assert steps == pytest.approx(average_precision_score(labels, scores))
    assert roc.operating_point == (pytest.approx(1 / 6), pytest.approx(5 / 6))
    assert precision_recall.operating_point == (pytest.approx(5 / 6), pytest.approx(5 / 6))
    assert room.image_curves([judged(0, 1.0), judged(None, 2.0), judged(1, np.nan)]) == room.image_curves([]) == {}


def test_pixel_points_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.integers(0, 700, 20000), rng.integers(300, 1000, 3000)])
    labels = np.repeat([0, 1], [20000, 3000])
    ok, nok = (np.bincount(scores[labels == label], minlength=1000) for label in (0, 1))
    points = room.pixel_points(ok, nok, nok / 7.0)
    assert all(len(x) <= 402 for x, _ in points.values())
    assert auc(*points["roc"]) == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    np.testing.assert_allclose(points["pro"], points["roc"])
    recall, precision = points["pr"]
    assert np.trapezoid(precision, recall) == pytest.approx(average_precision_score(labels, scores), abs=5e-3)
    assert points["roc"][0][0] == points["roc"][1][0] == 0 and points["roc"][0][-1] == points["roc"][1][-1] == 1
    assert room.pixel_points(np.zeros(2), np.ones(2)) == room.pixel_points(np.ones(2), np.zeros(2)) == {}


def test_pixel_points_of_the_counted_histograms_enclose_the_metrics_own_areas() -> None:
    rng = np.random.default_rng(5)
    masks = np.zeros((4, 64, 64), bool)
    masks[:2, 8:20, 8:30] = masks[2, 40:44, 40:44] = True
    counted = PixelMetrics()
    counted.update((rng.gamma(2.0, 1.0, masks.shape) + 2.0 * masks).astype(np.float32), masks, labels=[1, 1, 1, 0])
    values, points = counted.compute().values, room.pixel_points(*counted.total().from_bin()[:3])
    assert auc(*points["roc"]) == pytest.approx(values["pixel_auroc"], abs=1e-3)
    assert np.interp(np.linspace(0, 0.3, 3001), *points["pro"]).mean() == pytest.approx(values["aupro"], abs=3e-3)


def test_curve_shows_its_area_and_operating_point() -> None:
    line = np.array([0.0, 0.5, 1.0])
    text = words(room.curve_figure(Curve(line, line, (0.5, 0.5)), room.AXES["roc"], 0.1234))
    assert "AUROC 0.1234" in text and "at the threshold" in text and "ROC of images" in text
    assert "AUROC" not in words(room.curve_figure(Curve(line, line), room.AXES["roc"], None))


def test_no_bar_straddles_the_threshold() -> None:
    for low, high, threshold, logarithmic in [(0.5, 9, 2.0, True), (0, 3, 2.9, False), (1, 1, 1, False)]:
        edges = room.bin_edges(low, high, threshold, logarithmic)
        assert threshold in edges and edges[0] < low and edges[-1] > high and (np.diff(edges) > 0).all()


def test_histogram_counts_each_kind_at_the_threshold_of_its_category(outcomes) -> None:
    text = words(score_histogram(outcomes, THRESHOLD))
    for part in ("OK", "1 of 6 false alarms", "scratch", "3 of 4 found", "dent", "2 of 2 found", "threshold 2"):
        assert part in text, part
    threshold = replace(THRESHOLD, categories={"nut": replace(THRESHOLD, image=0.1)})  # everything of nuts lies above
    nuts = [replace(o, sample=replace(o.sample, category="nut")) for o in outcomes if o.sample.defect != "dent"]
    text = words(score_histogram([*nuts, *outcomes[-2:]], threshold))
    assert "6 of 6 false alarms" in text and "4 of 4 found" in text and "2 of 2 found" in text


def test_histogram_of_odd_scores_and_rare_kinds() -> None:
    assert score_histogram([], THRESHOLD) is None and score_histogram([judged(0, np.nan)], THRESHOLD) is None
    one, unknown = [judged(0, 0.0)], [judged(None, 5e-9)]
    for items, threshold in [(one, 0.0), (one * 3, 1.0), (unknown, 4e-9)]:
        assert "<path" in ink.to_svg(score_histogram(items, replace(THRESHOLD, image=threshold)))
    many = [judged(1, 1.0 + i, f"type {i}") for i in range(40)]
    text = words(score_histogram([*many, judged(0, 0.5)], THRESHOLD))
    assert "26 rarer kinds" in text and "OK" in text


def test_training_panels_group_the_stages_and_average_the_rows() -> None:
    history = pd.DataFrame({"epoch": [0, 0, 1, 1], "step": [1, 2, 3, 4], "lr": 0.4, "note": "a"})
    history["train_loss"], history["val_loss"] = [4, 2, 1, None], [None, 3, None, 2]
    history["val/image_auroc"] = [0.5, None, None, 0.9]
    panels = {axis.get_title(loc="left"): axis for axis in training_curves(history).axes}
    assert {"loss", "lr", "image auroc"} <= set(panels)
    lines = {line.get_label(): line for line in panels["loss"].lines}
    assert list(lines["training"].get_ydata()) == [3, 1] and list(lines["validation"].get_ydata()) == [3, 2]
    assert training_curves(history[["epoch", "note"]]) is None and training_curves(history[:0]) is None
    long = pd.DataFrame({"step": range(1000), "d/loss": range(1000), "scale": 1.0})  # averaged over neighbours
    (axis,) = training_curves(long, "step").axes
    (line,) = axis.lines
    assert len(line.get_xdata()) == 334 and line.get_xdata()[0] == line.get_ydata()[0] == 1.0


def test_names_with_dollars_are_no_formulas_and_markup_stays_text(tmp_path: Path, outcomes) -> None:
    name = r"$\frac{a$ <b>"
    items = [judged(1, 3.0, name), judged(0, 1.0)]
    history = pd.DataFrame({"epoch": [0, 1], name: 1.0, f"train_{name}": 2.0, f"val_{name}": 3.0})
    sheet = draw_sheet([Block([outcomes[0].image], name)], 1)
    for drawing in (score_histogram(items, THRESHOLD), training_curves(history), sheet):
        ink.save_png(drawing, tmp_path / "drawn.png")  # half a formula would be an error here
        named = [text for text in drawing.findobj(Text) if name in text.get_text()]
        assert named and not any(text.get_parse_math() for text in named)
    svg = ink.to_svg(score_histogram([judged(1, 3.0, "</svg><script>x</script>")], THRESHOLD))
    assert svg.count("</svg>") == 1 and "<script" not in svg and "&lt;script&gt;" in svg


def test_svg_is_the_same_again_takes_the_pages_colours_and_brings_nothing_along(drawn, outcomes) -> None:
    again = draw_figures(outcomes, THRESHOLD, AREAS, LOSSES, POINTS)
    drawn["dots"], (axis,) = ink.grid(1, 4, 3)
    axis.scatter(range(40), range(40), c=[ink.OK, ink.NOK] * 20, alpha=0.5)
    for name, drawing in drawn.items():
        svg = ink.to_svg(drawing)
        assert name not in again or svg == ink.to_svg(again[name])
        assert svg.startswith("<svg viewBox=") and svg.rstrip().endswith("</svg>")
        assert "http" not in svg and "<style" not in svg and "DejaVu" not in svg
        assert set(re.findall(r"#[0-9a-f]{6}(?=[;\"])", svg)) <= {"#000000", "#ffffff"}
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        assert used <= set(re.findall(r' id="([^"]+)"', svg))
    assert svg.count("<use") >= 40  # every dot


def test_a_sheet_keeps_tiles_pixel_for_pixel(tmp_path: Path) -> None:
    tiles = [np.full((160, 160, 3), tone, np.uint8) for tone in (60, 120)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = ink.save_png(draw_sheet([Block(tiles, "a")] * 4, 3, scale=True), tmp_path / "s.png", dpi=100)
    picture = cv2.imread(str(path))
    assert picture.shape == (2 * 190 + 56, 3 * (2 * 160 + 6 + 24), 3)
    assert (picture[26:186, 12:172] == 60).all() and (picture[26:186, 178:338] == 120).all()
    assert draw_sheet([], 3) is None


@pytest.mark.parametrize(("shape", "inside"), [((20, 40), (20, 40)), ((80, 20), (40, 10)), ((10, 10), (40, 40))])
def test_an_image_fills_its_tiles_longer_side_and_is_centred(shape: tuple[int, int], inside: tuple[int, int]) -> None:
    tile = room.square_tile(np.zeros((*shape, 3), np.uint8), 40)
    assert tile.shape == (40, 40, 3)
    for axis, length in ((1, inside[0]), (0, inside[1])):
        filled = (tile != room.BESIDE).any(axis=(axis, 2))
        assert filled.sum() == length and abs((40 - length) // 2 - filled.argmax()) <= 1
