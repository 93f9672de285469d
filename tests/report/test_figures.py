from __future__ import annotations

import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from anomalib_lite.metrics import PixelMetrics
from anomalib_lite.report import ink
from anomalib_lite.report.cases import ScoredImage, read_predictions
from anomalib_lite.report.curves import Curve, curve_figure, image_curves, pixel_curves, pixel_points
from anomalib_lite.report.figures import draw_figures, save_figures
from anomalib_lite.report.gallery import contact_sheet
from anomalib_lite.report.histogram import _edges, score_histogram
from anomalib_lite.report.run_files import read_run
from anomalib_lite.report.training import training_curves


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def words(drawing) -> str:
    return " ".join(re.findall(r"<text[^>]*>([^<]*)", ink.to_svg(drawing)))


def test_every_figure_is_a_png_with_something_on_it(run_dir: Path) -> None:
    import cv2

    drawn = draw_figures(read_run(run_dir), {"roc": ([0, 0.1, 1], [0, 0.9, 1]), "pro": ([0, 0.3], [0, 0.8])})
    assert set(drawn) == {"scores", "roc", "precision_recall", "pixel_roc", "pixel_pro", "training"}
    paths = save_figures(drawn, run_dir / "figures")
    for path in paths:
        assert min(png_size(path)) > 200
        assert cv2.imread(str(path)).std() > 5
    assert {path.name for path in (run_dir / "figures").iterdir()} == {path.name for path in paths}


def test_figures_leave_pyplot_and_its_settings_alone(run_dir: Path) -> None:
    import matplotlib
    import matplotlib.pyplot as plt

    before, settings = plt.get_fignums(), dict(matplotlib.rcParams)
    for drawing in draw_figures(read_run(run_dir)).values():
        ink.to_svg(drawing)
    assert plt.get_fignums() == before and dict(matplotlib.rcParams) == settings


def test_image_curves_agree_with_the_metrics(run_dir: Path) -> None:
    items = read_predictions(run_dir / "predictions.csv")
    labels, scores = [item.label for item in items], [item.score for item in items]
    roc, precision_recall = image_curves(items, 2.0, {"image_auroc": 0.5})
    assert auc(roc.x, roc.y) == pytest.approx(roc_auc_score(labels, scores))
    steps = -np.diff(precision_recall.x) @ precision_recall.y[:-1]
    assert steps == pytest.approx(average_precision_score(labels, scores))
    assert roc.operating_point == (pytest.approx(1 / 6), pytest.approx(5 / 6))
    assert precision_recall.operating_point == (pytest.approx(5 / 6), pytest.approx(5 / 6))
    assert roc.area == 0.5 and precision_recall.area is None


def test_image_curves_need_both_classes() -> None:
    good = [
        ScoredImage("a", 0, None, 1.0),
        ScoredImage("b", None, None, 2.0),
        ScoredImage("c", 1, None, np.nan),
    ]
    assert image_curves(good, 1.0, {}) == [] and image_curves([], 1.0, {}) == []


def test_pixel_points_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.integers(0, 700, 20000), rng.integers(300, 1000, 3000)])
    labels = np.repeat([0, 1], [20000, 3000])
    ok, nok = (np.bincount(scores[labels == label], minlength=1000) for label in (0, 1))
    points = pixel_points(ok, nok, nok / 7.0)
    assert all(len(x) <= 402 for x, _ in points.values())
    assert auc(*points["roc"]) == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    np.testing.assert_allclose(points["pro"], points["roc"])
    recall, precision = points["pr"]
    assert np.trapezoid(precision, recall) == pytest.approx(average_precision_score(labels, scores), abs=5e-3)
    assert points["roc"][0][0] == points["roc"][1][0] == 0 and points["roc"][0][-1] == points["roc"][1][-1] == 1


def test_pixel_points_of_the_counted_histograms_enclose_the_metrics_own_areas() -> None:
    rng = np.random.default_rng(5)
    masks = np.zeros((4, 64, 64), bool)
    masks[:2, 8:20, 8:30] = masks[2, 40:44, 40:44] = True
    maps = (rng.gamma(2.0, 1.0, masks.shape) + 2.0 * masks).astype(np.float32)
    counted = PixelMetrics()
    counted.update(maps, masks, labels=[1, 1, 1, 0])
    values, points = counted.compute().values, pixel_points(*counted.total().pixels)
    assert auc(*points["roc"]) == pytest.approx(values["pixel_auroc"], abs=1e-3)
    grid = np.linspace(0, 0.3, 3001)
    assert np.interp(grid, *points["pro"]).mean() == pytest.approx(values["aupro"], abs=3e-3)


def test_pixel_points_of_one_class_are_none() -> None:
    some, none = np.array([3, 4]), np.zeros(2)
    assert pixel_points(some, none, none) == {} and pixel_points(none, some, some) == {}
    assert pixel_curves({}, {}) == []


def test_curve_shows_its_area_and_operating_point() -> None:
    line = np.array([0.0, 0.5, 1.0])
    text = words(curve_figure(Curve("a", "Title", line, line, "x", "y", "AUROC", 0.12345, (0.5, 0.5))))
    assert "AUROC 0.1235" in text or "AUROC 0.1234" in text
    assert "at the threshold" in text and "Title" in text
    assert "AUROC" not in words(curve_figure(Curve("a", "Title", line, line, "x", "y", "AUROC")))


def test_no_bar_straddles_the_threshold() -> None:
    for low, high, threshold, logarithmic in [(0.5, 9, 2.0, True), (0, 3, 2.9, False), (1, 1, 1, False)]:
        edges = _edges(low, high, threshold, logarithmic)
        assert threshold in edges and edges[0] < low and edges[-1] > high and (np.diff(edges) > 0).all()


def test_histogram_counts_each_kind_at_the_threshold(run_dir: Path) -> None:
    text = words(score_histogram(read_predictions(run_dir / "predictions.csv"), 2.0))
    for part in ("OK 1 of 6 false alarms", "scratch 3 of 4 found", "dent 2 of 2 found"):
        name, summary = part.split(" ", 1)
        assert name in text and summary in text
    assert "threshold 2" in text


def test_histogram_of_odd_scores() -> None:
    one = [ScoredImage("a", 0, None, 0.0)]
    assert score_histogram([], 1.0) is None
    assert score_histogram([ScoredImage("a", 0, None, np.nan)], 1.0) is None
    unknown = [ScoredImage("a", None, None, 5e-9)]
    for items, threshold in [(one, np.inf), (one, 0.0), (one * 3, 1.0), (unknown, 4e-9)]:
        assert "<path" in ink.to_svg(score_histogram(items, threshold))


def test_histogram_puts_rare_kinds_together() -> None:
    items = [ScoredImage("a", 1, f"type {i}", 1.0 + i) for i in range(40)]
    items.append(ScoredImage("b", 0, None, 0.5))
    text = words(score_histogram(items, 2.0))
    assert "26 rarer kinds" in text and "OK" in text


def test_training_panels_group_the_stages_and_average_the_rows() -> None:
    history = pd.DataFrame({"epoch": [0, 0, 1, 1], "step": [1, 2, 3, 4], "lr": 0.4, "note": "a"})
    history["train_loss"], history["val_loss"] = [4, 2, 1, None], [None, 3, None, 2]
    history["val/image_auroc"] = [0.5, None, None, 0.9]
    drawing = training_curves(history)
    panels = {axis.get_title(loc="left"): axis for axis in drawing.axes}
    assert {"loss", "lr", "image auroc"} <= set(panels)
    lines = {line.get_label(): line for line in panels["loss"].lines}
    assert list(lines["training"].get_ydata()) == [3, 1] and list(lines["validation"].get_ydata()) == [3, 2]


@pytest.mark.parametrize("text", ["epoch\n0\n", "epoch,note\n0,a\n", "epoch,loss\n"])
def test_training_without_numbers_has_no_figure(text: str) -> None:
    import io

    assert training_curves(pd.read_csv(io.StringIO(text))) is None


def test_training_without_epochs_counts_rows() -> None:
    drawing = training_curves(pd.DataFrame({"loss": [3.0, np.inf, 1.0]}))
    assert list(drawing.axes[0].lines[0].get_xdata()) == [0, 2]


def test_names_with_dollars_are_no_formulas(tmp_path: Path, cases) -> None:
    name = r"$\frac{a$ <b>"
    items = [ScoredImage("a", 1, name, 3.0), ScoredImage("b", 0, None, 1.0)]
    history = pd.DataFrame({name: [1.0], f"train_{name}": 2.0, f"val_{name}": 3.0})
    renamed = [type(cases[0])(name, 1, name, 3.0, cases[0].image, cases[0].map)]
    for drawing in (score_histogram(items, 2.0), training_curves(history), contact_sheet(renamed, 2.0, 2.0)):
        ink.save_png(drawing, tmp_path / "drawn.png")  # half a formula would be an error here
        named = [text for text in drawing.findobj(Text) if name in text.get_text()]
        assert named and not any(text.get_parse_math() for text in named)


def test_hostile_names_stay_text_in_a_drawing() -> None:
    svg = ink.to_svg(score_histogram([ScoredImage("a", 1, "</svg><script>x</script>", 3.0)], 2.0))
    assert svg.count("</svg>") == 1 and "<script" not in svg and "&lt;script&gt;" in svg


def test_the_same_figure_gives_the_same_svg(run_dir: Path) -> None:
    items = read_predictions(run_dir / "predictions.csv")
    assert ink.to_svg(score_histogram(items, 2.0)) == ink.to_svg(score_histogram(items, 2.0))


def test_svg_takes_the_pages_colours_and_brings_nothing_along(run_dir: Path) -> None:
    for drawing in draw_figures(read_run(run_dir)).values():
        svg = ink.to_svg(drawing)
        assert svg.startswith("<svg viewBox=") and svg.rstrip().endswith("</svg>")
        assert "http" not in svg and "<style" not in svg and "DejaVu" not in svg
        assert set(re.findall(r"#[0-9a-f]{6}(?=[;\"])", svg)) <= {"#000000", "#ffffff"}
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        assert used <= set(re.findall(r' id="([^"]+)"', svg))


def test_contact_sheet_keeps_tiles_pixel_for_pixel(tmp_path: Path, cases) -> None:
    import cv2

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = ink.save_png(contact_sheet(cases, 2.0, 2.0), tmp_path / "gallery.png", dpi=100)
    width, height = png_size(path)
    assert width == 3 * (3 * 160 + 12 + 24) and height == 4 * 190 + 56
    tile = cv2.imread(str(path))[26 + 60 : 26 + 100, 12 + 20 : 12 + 140]
    assert 90 <= tile.mean() <= 120  # the first image's own grey
    assert contact_sheet([], 2.0, 2.0) is None
