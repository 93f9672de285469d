"""A folder of rendered panels, with a table of where every product lies."""

from __future__ import annotations

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from anomalib_lite.rendering.dataset import save_image
from anomalib_lite.rendering.product import render_template
from anomalib_lite.rendering.sheet import Sheet, SheetConfig, render_sheet
from anomalib_lite.rendering.streams import image_seed
from anomalib_lite.runs.artifacts import artifact


def write_sheets(
    folder: str | os.PathLike[str],
    count: int,
    config: SheetConfig | None = None,
    seed: int = 0,
    workers: int = 1,
) -> Path:
    """Writes panels/panel_<i>.png, masks/panel_<i>.png, template.png and truth.csv into a new folder.

    truth.csv has a line for each product: panel, number, corners x0, y0 (upper left) clockwise to x3, y3 in
    pixels, angle, defect, severity. A panel depends on the seed and its number alone. A folder that is there
    stays as it is.
    """
    target = Path(folder)
    artifact(target, lambda unfinished: _render_into(unfinished, count, config or SheetConfig(), seed, workers))
    return target


def _render_into(folder: Path, count: int, config: SheetConfig, seed: int, workers: int) -> None:
    for name in ("panels", "masks"):
        (folder / name).mkdir()
    save_image(folder / "template.png", render_template(config.product_size).image)
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(lambda number: _write_one(folder, number, config, seed), range(count))
        rows = [row for rows in tqdm(done, "rendering panels", count, unit="panel", leave=False) for row in rows]
    with open(folder / "truth.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        corners = [f"{axis}{i}" for i in range(4) for axis in "xy"]
        writer.writerow(["panel", "number", *corners, "angle", "defect", "severity"])
        writer.writerows(rows)


def _write_one(folder: Path, number: int, config: SheetConfig, seed: int) -> list[list[object]]:
    sheet = render_sheet(config, image_seed(seed, "panel", number))
    name = f"panel_{number:03d}.png"
    save_image(folder / "panels" / name, sheet.image)
    save_image(folder / "masks" / name, sheet.mask)
    return _rows(f"panels/{name}", sheet)


def _rows(name: str, sheet: Sheet) -> list[list[object]]:
    return [
        [name, number, *(f"{value:.3f}" for value in product.corners.ravel()), f"{product.angle:.3f}",
         product.defect or "good", "" if product.severity is None else f"{product.severity:.4f}"]
        for number, product in enumerate(sheet.products)
    ]  # fmt: skip
