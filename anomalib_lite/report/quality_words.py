"""The quality of generated images as a table and in sentences, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anomalib_lite.report.words import NOT_THERE, percent


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
