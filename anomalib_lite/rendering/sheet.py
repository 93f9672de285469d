"""Renders panels: photographs of a sheet with several products, with ground truth."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.rendering.flaws import DEFECTS
from anomalib_lite.rendering.photo import Light, draw_camera, draw_light, photograph
from anomalib_lite.rendering.product import draw_flaw, render_template, render_with_mask
from anomalib_lite.rendering.raster import Pose, Seed, image_seed, make_grid, project, smoothstep, stream
from anomalib_lite.rendering.surface import Wear, card_texture
from anomalib_lite.runs.artifacts import artifact
from anomalib_lite.runs.atomic import write_image, write_json
from anomalib_lite.settings.data import SheetConfig

CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


@dataclass(frozen=True)
class Placed:
    """A product on a sheet: its corners (4, 2) in pixels, clockwise from the upper left, its angle and its defect."""

    corners: np.ndarray
    angle: float
    defect: str | None
    severity: float | None


@dataclass(frozen=True)
class Sheet:
    """A photograph (H, W, 3) uint8, its products row by row, and the mask of all defects (H, W) bool."""

    image: np.ndarray
    products: tuple[Placed, ...]
    mask: np.ndarray


def render_sheet(config: SheetConfig, seed: Seed) -> Sheet:
    """Renders a panel, which depends only on the arguments."""
    words = (seed,) if isinstance(seed, int) else seed
    rng = stream(seed, "sheet")
    light = draw_light(rng)
    light = replace(light, exposure=float(rng.uniform(1 - config.brightness, 1 + config.brightness)))
    camera = draw_camera(rng)
    # The camera is slightly tilted: a homography of the panel's pixels.
    middle = np.array([[1, 0, -config.width / 2], [0, 1, -config.height / 2], [0, 0, 1.0]])
    lean = rng.uniform(-config.perspective, config.perspective, 2) / (config.width, config.height)
    view = np.linalg.inv(middle) @ np.array([[1, 0, 0], [0, 1, 0], [*lean, 1.0]]) @ middle
    shape = (config.height, config.width)
    radiance = card_texture(shape, config.product_size, Wear(), stream(seed, "card"))
    mask = np.zeros(shape, bool)
    products = []
    for number in range(config.rows * config.columns):
        row, column = divmod(number, config.columns)
        centre = ((column + 0.5) * config.width / config.columns, (row + 0.5) * config.height / config.rows)
        dx, dy = rng.uniform(-config.shift, config.shift, 2).tolist()
        pose = Pose(dx, dy, float(rng.uniform(-config.angle, config.angle)))
        matrix = view @ pose.homography(config.product_size, centre)
        flawed = rng.random() < config.nok_share
        defect = list(DEFECTS)[rng.integers(len(DEFECTS))] if flawed else None
        lamps = light.lamps.copy()  # foil at the side of the sheet reflects them at another angle than in the middle
        lamps[:, 0] += 0.10 * (centre[0] / shape[1] - 0.5)
        lamps[:, 1] += 0.10 * (centre[1] / shape[0] - 0.5)
        own_seed = image_seed(words[0], *words[1:], number)
        severity = _lay_down(radiance, mask, matrix, replace(light, lamps=lamps), own_seed, defect)
        products.append(Placed(project(matrix, CORNERS), pose.angle, defect, severity))
    radiance *= light.field(shape)[..., None]
    return Sheet(photograph(radiance, camera, stream(seed, "noise")), tuple(products), mask)


def _lay_down(
    radiance: np.ndarray, mask: np.ndarray, matrix: np.ndarray, light: Light, seed: Seed, defect: str | None
) -> float | None:
    """Draws a product on the sheet, in place; returns the severity of its defect."""
    flaw = draw_flaw(seed, defect)
    corners = project(matrix, CORNERS * 1.04)
    left, top = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int), radiance.shape[1::-1])
    local = np.diag([2.0, 2.0, 1.0]) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]) @ matrix
    grid = make_grid(local, (2 * (bottom - top), 2 * (right - left)))
    patch, own_mask = render_with_mask(grid, light, seed, Wear(), flaw)
    # The product's card fades into the sheet's card at the border of its square.
    border = np.maximum(np.abs(grid.x), np.abs(grid.y))[::2, ::2]
    weight = cv2.merge([smoothstep((np.float32(0.505) - border) / np.float32(0.03))] * 3)
    window = (slice(top, bottom), slice(left, right))
    radiance[window] += weight * (patch - radiance[window])
    mask[window] |= own_mask
    return flaw.severity


def write_sheets(folder: Path, count: int, config: SheetConfig, seed: int = 0, workers: int = 1) -> Path:
    """Writes panels/panel_<i>.png, masks/panel_<i>.png, template.png and truth.json, unless the folder exists already.

    A panel depends only on the seed and its number.
    """

    def make(unfinished: Path) -> None:
        write_image(unfinished / "template.png", render_template(config.product_size))

        def write_one(number: int) -> tuple[str, list[dict[str, Any]]]:
            sheet, name = render_sheet(config, image_seed(seed, "panel", number)), f"panel_{number:03d}.png"
            write_image(unfinished / "panels" / name, sheet.image)
            write_image(unfinished / "masks" / name, sheet.mask)
            return f"panels/{name}", [vars(one) | {"corners": one.corners.tolist()} for one in sheet.products]

        with ThreadPoolExecutor(workers) as pool:
            done = pool.map(write_one, range(count))
            truth = dict(tqdm(done, "rendering panels", count, unit="panel", leave=False))
        write_json(unfinished / "truth.json", truth)

    artifact(folder, make)
    return folder


def read_truth(path: Path) -> dict[str, list[Placed]]:
    """Reads the products of each panel, by the panel's name, from a truth.json of `write_sheets`."""
    panels = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: [Placed(**product | {"corners": np.array(product["corners"])}) for product in products]
        for name, products in panels.items()
    }
