"""Generated images in words and pictures: their quality beside real images', each beside the image it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from anomalib_lite.data.decode import read_image
from anomalib_lite.report import ink
from anomalib_lite.report.contact_sheet import Pair, pairs_sheet
from anomalib_lite.report.pictures import data_uri, thumbnail
from anomalib_lite.report.words import NOT_THERE, percent, yaml_lines
from anomalib_lite.runs.atomic import write_json, write_text

FOLDER = "generated"  # of a run: the report of its generated images
_SHEET_WIDTH = 1000  # px of the contact sheet on a run's page
_ON_PAGE, _ON_SHEET = (36, 24), (16, 8)  # pairs shown at most: kept, dropped
_MOST_POINTS = 400  # of a curve
_MOST_CURVES = 12
_NOT_A_CURVE = ("epoch", "scale")


def write_generated_report(
    folder: Path,
    title: str,
    quality: Mapping[str, Any],
    drawn: Sequence[Mapping[str, Any]],
    ok: Sequence[Path],
    losses: pd.DataFrame,
    settings: Mapping[str, Any],
) -> None:
    """Writes quality.json, contact_sheet.png and generated.html.

    Args:
        folder: Inside the one that the images lie in.
        title: Of the page.
        quality: What quality.json gets.
        drawn: Of each image: file (relative to the images' folder; empty where it was not kept as a file), content
            (place among `ok`), origin, edge_overlap, ssim, kept.
        ok: The OK images.
        losses: Columns step, name, value.
        settings: Of the generator.
    """
    write_json(folder / "quality.json", quality)
    sheet = pairs_sheet(_pairs(folder.parent, drawn, ok, *_ON_SHEET))
    if sheet is not None:
        ink.save_png(sheet, folder / "contact_sheet.png", dpi=100)
    pairs = _pairs(folder.parent, drawn, ok, *_ON_PAGE)
    overlaps = {flag: [row["edge_overlap"] for row in drawn if row["kept"] is flag] for flag in (True, False)}
    config = yaml.safe_dump(dict(settings), sort_keys=False)
    write_generated_page(folder / "generated.html", title, quality, pairs, overlaps, losses, config)


def _pairs(folder: Path, drawn: Sequence[Mapping[str, Any]], ok: Sequence[Path], kept: int, dropped: int) -> list[Pair]:
    """A spread of the kept images in the order of their edge overlap, lowest first, and the first dropped ones."""
    good = sorted((row for row in drawn if row["kept"]), key=lambda row: row["edge_overlap"])
    places = np.unique(np.linspace(0, len(good) - 1, min(kept, len(good))).round().astype(int))
    bad = [row for row in drawn if not row["kept"] and row["file"]][:dropped]
    pairs = []
    for row in [*(good[i] for i in places), *bad]:
        look = ", template's look" if row["origin"] == "template_generated" else ""
        words = f"edge overlap {row['edge_overlap']:.3f}, SSIM {row['ssim']:.3f}{look}"
        pairs.append(Pair(read_image(ok[row["content"]]), read_image(folder / row["file"]), row["kept"], words))
    return pairs


def write_generated_page(
    path: Path,
    title: str,
    quality: Mapping[str, Any],
    pairs: Sequence[Pair],
    overlaps: Mapping[bool, Sequence[float]],
    losses: pd.DataFrame,
    config: str,
) -> None:
    """quality: as in quality.json. overlaps: edge overlaps of the images kept (True) and dropped (False).
    losses: columns step, name, value. config: YAML.
    """
    guard = quality["guard"]
    drawings = {
        "overlap": overlap_histogram(overlaps, None if guard is None else guard["threshold"]),
        "losses": loss_curves(losses),
    }
    loader = jinja2.PackageLoader("anomalib_lite.report")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    shown = [(p, data_uri(thumbnail(p.content)), data_uri(thumbnail(p.generated))) for p in pairs]
    page = environment.get_template("generated.html.j2").render(
        title=title,
        n=quality["n_generated"],
        n_real=quality["n_real"],
        rows=quality_rows(quality),
        guard=guard_words(quality),
        missing=dict(quality["missing"]),
        groups=[(True, [s for s in shown if s[0].kept]), (False, [s for s in shown if not s[0].kept])],
        drawings={name: Markup(ink.to_svg(figure)) for name, figure in drawings.items() if figure is not None},
        config=yaml_lines(config),
    )
    write_text(path, page)


def overlap_histogram(overlaps: Mapping[bool, Sequence[float]], threshold: float | None) -> Figure:
    """How many images agree with their content image how far."""
    drawing, axis = ink.figure(8.6, 2.2)
    everything = [*overlaps[True], *overlaps[False], *([] if threshold is None else [threshold])]
    low = max(0.0, min(everything) - 0.02)
    anchor = 1.0 if threshold is None else threshold  # an edge of a bar, so that none straddles the threshold
    width = (1 - low) / 40
    steps = np.arange(np.floor((low - anchor) / width), np.ceil((1 - anchor) / width) + 1)
    bins = anchor + steps * width
    colours = {True: (ink.OK_PALE, ink.OK, "kept"), False: (ink.NOK_PALE, ink.NOK, "dropped")}
    for kept, (fill, edge, words) in colours.items():
        if overlaps[kept]:
            axis.hist(overlaps[kept], bins.tolist(), color=fill, edgecolor=edge, linewidth=0.5, label=words)
    if threshold is not None:
        axis.axvline(threshold, color=ink.INK, linewidth=1.2)
        axis.annotate(
            f"threshold {threshold:.3f}", (threshold, 1.03), xycoords=axis.get_xaxis_transform(), ha="center",
            color=ink.INK, fontsize=9,
        )  # fmt: skip
    if overlaps[False]:
        axis.legend(frameon=False, fontsize=8.5, labelcolor=ink.MUTED)
    axis.set_xlim(bins[0], max(1.0, bins[-1]))
    axis.set_xlabel("edge overlap with the content image")
    axis.set_ylabel("images")
    ink.whole_numbers(axis.yaxis)
    return drawing


def loss_curves(losses: pd.DataFrame) -> Figure | None:
    """One panel a loss over the steps; long curves are averaged. None where nothing was logged."""
    curves = {
        str(name): rows.groupby("step")["value"].last()  # a resumed training repeats some steps
        for name, rows in losses.groupby("name", sort=False)
        if str(name).rpartition("/")[2] not in _NOT_A_CURVE
    }
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    if not curves:
        return None
    shown = list(curves.items())[:_MOST_CURVES]
    columns = min(len(shown), 3)
    lines = -(-len(shown) // columns)
    drawing, axes = ink.panels(3.6 * columns, 2.2 * lines, lines, columns)
    for axis, (name, curve) in zip(axes, shown, strict=False):
        group = np.arange(len(curve)) // -(-len(curve) // _MOST_POINTS)
        axis.plot(
            pd.Series(curve.index).groupby(group).mean(), curve.reset_index(drop=True).groupby(group).mean(),
            color=ink.OK, linewidth=1.2,
        )  # fmt: skip
        ink.entitle(axis, name.replace("_", " "))
        axis.set_xlabel("step")
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    return drawing


@dataclass(frozen=True)
class Row:
    """A measure of the generated images beside the same of real ones. meaning: how to read it."""

    name: str
    generated: str
    real: str
    meaning: str


def quality_rows(quality: Mapping[str, Any]) -> list[Row]:
    rows = []
    if frechet := quality["frechet"]:
        rows.append(
            Row(
                "Frechet distance",
                _with_error(frechet["generated"], frechet["generated_sd"]),
                _with_error(frechet["real"], frechet["real_sd"]),
                f"to real images, {frechet['images_each']} on each side; as far as real from real is ideal",
            )
        )
    if kernel := quality["kernel"]:
        rows.append(
            Row(
                "kernel distance",
                _with_error(kernel["generated"], kernel["generated_se"]),
                _with_error(kernel["real"], kernel["real_se"]),
                "to real images; 0 on average where the two are alike, however few",
            )
        )
    diversity = quality["diversity"]
    rows.append(
        Row(
            "diversity",
            _number(diversity["generated"]),
            _number(diversity["real"]),
            "perceptual distance between two images; far below the real ones', all look the same",
        )
    )
    for key, name in (("edge_overlap", "edge overlap"), ("ssim", "SSIM of luminance")):
        row = quality[key]
        rows.append(
            Row(
                name,
                _with_low(row["generated"], row["generated_low"]),
                _with_low(row["real_pairs"], row["real_pairs_low"]),
                "with its content image; real: between two different images",
            )
        )
    return rows


def guard_words(quality: Mapping[str, Any]) -> str:
    guard, drawn = quality["guard"], quality["drawn"]
    if guard is None:
        return f"The structure guard is off: all {drawn['all']} images drawn are kept."
    return (
        f"The structure guard dropped {drawn['dropped']} of {drawn['all']} images drawn: their edge overlap was below "
        f"{guard['threshold']:.3f}, which {percent(1 - guard['quantile'])} of the real images reach against copies of "
        "themselves in other colours and light, slightly moved and blurred. Of real images with two of nine parts "
        f"changed about, it would drop {percent(round(guard['caught'], 3))}."
    )


def quality_table(quality: Mapping[str, Any]) -> str:
    """For the terminal."""
    rows = [Row("", "generated", "real", ""), *quality_rows(quality)]
    widths = [max(len(getattr(row, field)) for row in rows) for field in ("name", "generated", "real")]
    lines = []
    for row in rows:
        cells = (row.name, row.generated, row.real)
        lines.append(
            "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)) + "  " + row.meaning
        )
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float | None) -> str:
    if value is None:
        return NOT_THERE
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _with_error(value: float | None, error: float | None) -> str:
    return NOT_THERE if value is None else f"{_number(value)} ± {_number(error)}"


def _with_low(value: float | None, low: float | None) -> str:
    return NOT_THERE if value is None or low is None else f"{value:.3f} (95 % above {low:.3f})"


@dataclass(frozen=True)
class GeneratedView:
    """sheet: data URI of the contact sheet. page: of the generated images, relative to the run's."""

    words: str
    rows: list[Row]
    missing: dict[str, str]
    sheet: str
    page: str


def generated_view(run: Path) -> GeneratedView | None:
    """None for a run without generated images."""
    folder = run / FOLDER
    if not (folder / "quality.json").is_file():
        return None
    quality = json.loads((folder / "quality.json").read_text(encoding="utf-8"))
    sheet = read_image(folder / "contact_sheet.png")
    height = round(sheet.shape[0] * min(1.0, _SHEET_WIDTH / sheet.shape[1]))
    small = cv2.resize(sheet, (min(_SHEET_WIDTH, sheet.shape[1]), height), interpolation=cv2.INTER_AREA)
    return GeneratedView(
        guard_words(quality), quality_rows(quality), quality["missing"], data_uri(small), f"{FOLDER}/generated.html"
    )
