"""Reports on generated images: their quality compared with real images, and pairs with the images they come from."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from anomalib_lite.data.decode import read_image, read_sample
from anomalib_lite.data.sample import Sample
from anomalib_lite.report import ink
from anomalib_lite.report.figures import Block, bin_edges, draw_sheet, mark_threshold, training_curves
from anomalib_lite.report.pictures import data_uri, thumbnail
from anomalib_lite.report.words import NOT_THERE, percent
from anomalib_lite.runs.atomic import write_json, write_text
from anomalib_lite.runs.folder import GENERATED

_SHEET_WIDTH = 1000  # px of the contact sheet on a run's page
_ON_PAGE, _ON_SHEET = (36, 24), (16, 8)  # pairs shown at most: kept, dropped
_DISTANCES = (  # key in quality.json, name, suffix of the key of its error, meaning
    ("frechet", "Frechet distance", "sd",
     "to real images, {images_each} on each side; the distance between real images is ideal"),
    ("kernel", "kernel distance", "se", "to real images; 0 on average if the distributions are equal, for any number"),
)  # fmt: skip
_DIVERSITY = "perceptual distance between two images; if far below that of real images, all look the same"


def write_generated_report(
    folder: Path, title: str, quality: Mapping[str, Any], drawn: Sequence[Mapping[str, Any]], ok: Sequence[Sample],
    losses: pd.DataFrame, settings: Mapping[str, Any],
) -> None:  # fmt: skip
    """Writes quality.json, contact_sheet.png and generated.html to a folder inside the folder of the images.

    `drawn` has for each image: file (relative to the images' folder; empty if it was not saved), content (index in
    `ok`), origin, edge_overlap, ssim, kept. `losses` has the columns step, name, value.
    """
    write_json(folder / "quality.json", quality)
    if sheet := draw_sheet(_pairs(folder.parent, drawn, ok, _ON_SHEET), 4):
        ink.save_png(sheet, folder / "contact_sheet.png", dpi=100)
    shown = [
        (pair, [data_uri(thumbnail(tile)) for tile in pair.tiles])
        for pair in _pairs(folder.parent, drawn, ok, _ON_PAGE)
    ]
    # A resumed training repeats some steps; their last value counts.
    steps = losses.pivot_table(index="step", columns="name", values="value", aggfunc="last", sort=False).reset_index()
    drawings = {"overlap": overlap_histogram(drawn, quality["guard"]), "losses": training_curves(steps, "step")}
    page = ink.template("generated.html.j2").render(
        title=title,
        n=quality["n_generated"],
        n_real=quality["n_real"],
        rows=quality_rows(quality),
        guard=guard_words(quality),
        missing=dict(quality["missing"]),
        groups=[(kept, [one for one in shown if one[0].alarming is not kept]) for kept in (True, False)],
        drawings={name: Markup(ink.to_svg(fig)) for name, fig in drawings.items() if fig is not None},  # noqa: S704
        config=yaml.safe_dump(dict(settings), sort_keys=False),
    )
    write_text(folder / "generated.html", page)


def _pairs(
    folder: Path, drawn: Sequence[Mapping[str, Any]], ok: Sequence[Sample], most: tuple[int, int]
) -> list[Block]:
    """Returns real images beside the generated images with their content, alarming if the structure guard dropped them:
    kept ones spread over their edge overlap, lowest first, and the first dropped ones.
    """
    good = sorted((row for row in drawn if row["kept"]), key=lambda row: row["edge_overlap"])
    places = np.unique(np.linspace(0, len(good) - 1, min(most[0], len(good))).round().astype(int))
    bad = [row for row in drawn if not row["kept"] and row["file"]][: most[1]]
    pairs = []
    for row in [*(good[i] for i in places), *bad]:
        look = ", appearance of the template" if row["origin"] == "template_generated" else ""
        words = f"edge overlap {row['edge_overlap']:.3f}, SSIM {row['ssim']:.3f}{look}"
        tiles = read_sample(ok[row["content"]]), read_image(folder / row["file"])
        pairs.append(Block(tiles, words, "" if row["kept"] else "dropped", not row["kept"]))
    return pairs


def overlap_histogram(drawn: Sequence[Mapping[str, Any]], guard: Mapping[str, Any] | None) -> Figure:
    """Draws a histogram of the edge overlap with the content images."""
    drawing, axis = ink.figure(8.6, 2.2)
    threshold = math.inf if guard is None else guard["threshold"]
    low = min(threshold, 1.0, *(row["edge_overlap"] for row in drawn))
    bins = bin_edges(max(0.0, low - 0.02), 1.0, threshold)
    for kept, fill, edge, words in ((True, ink.OK_PALE, ink.OK, "kept"), (False, ink.NOK_PALE, ink.NOK, "dropped")):
        if overlaps := [row["edge_overlap"] for row in drawn if row["kept"] is kept]:
            axis.hist(overlaps, bins.tolist(), color=fill, edgecolor=edge, linewidth=0.5, label=words)
    if guard is not None:
        mark_threshold(axis, threshold, f"threshold {threshold:.3f}", 1.03)
    if overlaps:  # some were dropped
        axis.legend(frameon=False, fontsize=8.5, labelcolor=ink.MUTED)
    axis.set(xlim=(bins[0], bins[-1]), xlabel="edge overlap with the content image", ylabel="images")
    ink.whole_numbers(axis.yaxis)
    return drawing


class Row(NamedTuple):
    """A measure of generated images, the same measure of real images, and how to interpret it."""

    name: str
    generated: str
    real: str
    meaning: str


def quality_rows(quality: Mapping[str, Any]) -> list[Row]:
    """Returns the rows of the quality table."""
    rows = []
    for key, name, error, meaning in _DISTANCES:
        if distance := quality[key]:
            sides = ((distance[side], distance[f"{side}_{error}"]) for side in ("generated", "real"))
            made, real = (NOT_THERE if v is None else f"{_number(v)} ± {_number(e)}" for v, e in sides)
            rows.append(Row(name, made, real, meaning.format(**distance)))
    made, real = (_number(quality["diversity"][side]) for side in ("generated", "real"))
    rows.append(Row("diversity", made, real, _DIVERSITY))
    for key, name in (("edge_overlap", "edge overlap"), ("ssim", "SSIM of luminance")):
        sides = ((quality[key][side], quality[key][f"{side}_low"]) for side in ("generated", "real_pairs"))
        made, real = (NOT_THERE if None in (v, low) else f"{v:.3f} (95 % above {low:.3f})" for v, low in sides)
        rows.append(Row(name, made, real, "with the content image; real: between two different images"))
    return rows


def guard_words(quality: Mapping[str, Any]) -> str:
    """Says what the structure guard dropped, and how reliable it is."""
    guard, drawn = quality["guard"], quality["drawn"]
    if guard is None:
        return f"The structure guard is off: all {drawn['all']} generated images are kept."
    return (
        f"The structure guard dropped {drawn['dropped']} of {drawn['all']} generated images: their edge overlap was "
        f"below {guard['threshold']:.3f}, which {percent(1 - guard['quantile'])} of the real images reach against "
        "copies of themselves in other colours and light, slightly moved and blurred. Of real images with two of nine "
        f"parts swapped, it would drop {percent(round(guard['caught'], 3))}."
    )


def quality_table(quality: Mapping[str, Any]) -> str:
    """Returns the quality table as text for the terminal."""
    rows = [Row("", "generated", "real", ""), *quality_rows(quality)]
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:3]]
    lines = ("  ".join([*map(str.ljust, row[:3], widths), row.meaning]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float | None) -> str:
    if value is None:
        return NOT_THERE
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def generated_view(run: Path) -> dict[str, Any] | None:
    """Returns the template's variables for the generated images of a run; None if it has none."""
    folder = run / GENERATED
    if not (folder / "quality.json").is_file():
        return None
    quality = json.loads((folder / "quality.json").read_text(encoding="utf-8"))
    return {
        "words": guard_words(quality),
        "rows": quality_rows(quality),
        "missing": quality["missing"],
        "sheet": data_uri(thumbnail(read_image(folder / "contact_sheet.png"), _SHEET_WIDTH)),
        "page": f"{GENERATED}/generated.html",
    }
