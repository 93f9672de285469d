"""All figures of a run, by the name of the file they become."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from anomalib_lite.report import ink
from anomalib_lite.report.curves import Points, curve_figure, image_curves, pixel_curves
from anomalib_lite.report.histogram import score_histogram
from anomalib_lite.report.run_files import RunFiles
from anomalib_lite.report.training import training_curves


def draw_figures(run: RunFiles, pixel_points: Points | None = None) -> dict[str, Figure]:
    """Draws what the run's files allow: scores, roc, precision_recall, pixel_roc, pixel_pr, pixel_pro,
    training. `pixel_points` holds the points of the pixel curves, see `curves.pixel_points`.
    """
    drawn = {"scores": score_histogram(run.predictions, run.image_threshold)}
    curves = image_curves(run.predictions, run.image_threshold, run.metrics)
    curves += pixel_curves(pixel_points or {}, run.metrics)
    drawn |= {curve.name: curve_figure(curve) for curve in curves}
    drawn["training"] = None if run.history is None else training_curves(run.history)
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}


def save_figures(drawn: dict[str, Figure], folder: Path) -> list[Path]:
    """Writes each figure as folder/NAME.png."""
    return [ink.save_png(drawing, folder / f"{name}.png") for name, drawing in drawn.items()]
