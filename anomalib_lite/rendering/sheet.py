"""A panel: the photograph of a sheet with several products, and where each of them lies."""

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.errors import UserError
from anomalib_lite.rendering.flaws import DEFECTS
from anomalib_lite.rendering.photo import Light, draw_camera, draw_light, photograph
from anomalib_lite.rendering.product import draw_flaw, render_template, render_with_mask
from anomalib_lite.rendering.raster import Pose, Seed, image_seed, make_grid, project, smoothstep, stream
from anomalib_lite.rendering.surface import Wear, card_texture
from anomalib_lite.runs.artifacts import artifact
from anomalib_lite.runs.atomic import write_image

CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
_CORNER_NAMES = [f"{axis}{i}" for i in range(4) for axis in "xy"]


@dataclass(frozen=True)
class SheetConfig:
    """How panels are photographed; the products are as wide as `fill` times the room each has."""

    width: int = 1600
    height: int = 1200
    rows: int = 2
    columns: int = 4
    fill: float = 0.82
    shift: float = 0.04  # of a product from its place, in product widths, at most
    angle: float = 3.0  # of a product, in degrees, at most
    brightness: float = 0.2  # change of a panel's light, at most
    perspective: float = 0.012  # how much larger a panel's nearer side is, at most
    nok_share: float = 0.1  # of the products

    def __post_init__(self) -> None:
        if self.product_size < 32:
            raise UserError(f"The products of a panel need at least 32 pixels, and these get {self.product_size}.")

    @property
    def product_size(self) -> int:
        return int(self.fill * min(self.width / self.columns, self.height / self.rows))


@dataclass(frozen=True)
class Placed:
    """One product: its corners (4, 2) in pixels from the upper left clockwise, its angle, what is wrong."""

    corners: np.ndarray
    angle: float
    defect: str | None
    severity: float | None


@dataclass(frozen=True)
class Sheet:
    """The photograph (H, W, 3) uint8, its products row by row, and the mask of all defects (H, W) bool."""

    image: np.ndarray
    products: tuple[Placed, ...]
    mask: np.ndarray


def render_sheet(config: SheetConfig, seed: Seed) -> Sheet:
    """One panel, which depends on its arguments alone."""
    words = (seed,) if isinstance(seed, int) else seed
    rng = stream(seed, "sheet")
    light = draw_light(rng)
    light = replace(light, exposure=float(rng.uniform(1 - config.brightness, 1 + config.brightness)))
    camera = draw_camera(rng)
    # The camera does not look quite straight down: a homography of the panel's pixels.
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
        lamps = light.lamps.copy()  # foil at the side of the sheet mirrors them at another angle than in its middle
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
    """Draws one product on the sheet, in place; what it returns is the severity of its defect."""
    flaw = draw_flaw(seed, defect)
    corners = project(matrix, CORNERS * 1.04)
    left, top = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int), radiance.shape[1::-1])
    local = np.diag([2.0, 2.0, 1.0]) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]) @ matrix
    grid = make_grid(local, (2 * (bottom - top), 2 * (right - left)))
    patch, own_mask = render_with_mask(grid, light, seed, Wear(), flaw)
    # The product's own card fades into the sheet's at the border of its square.
    border = np.maximum(np.abs(grid.x), np.abs(grid.y))[::2, ::2]
    weight = cv2.merge([smoothstep((np.float32(0.505) - border) / np.float32(0.03))] * 3)
    window = (slice(top, bottom), slice(left, right))
    radiance[window] += weight * (patch - radiance[window])
    mask[window] |= own_mask
    return flaw.severity


def write_sheets(
    folder: str | os.PathLike[str], count: int, config: SheetConfig | None = None, seed: int = 0, workers: int = 1
) -> Path:
    """Writes panels/panel_<i>.png, masks/panel_<i>.png, template.png and truth.csv into a new folder; one that is there
    stays as it is. truth.csv has a line for each product: panel, number, corners x0, y0 (upper left) clockwise to x3,
    y3 in pixels, angle, defect, severity. A panel depends on the seed and its number alone.
    """
    target, drawn = Path(folder), config or SheetConfig()

    def make(unfinished: Path) -> None:
        write_image(unfinished / "template.png", render_template(drawn.product_size))
        with ThreadPoolExecutor(workers) as pool:
            done = pool.map(lambda number: _write_one(unfinished, number, drawn, seed), range(count))
            rows = [row for rows in tqdm(done, "rendering panels", count, unit="panel", leave=False) for row in rows]
        with open(unfinished / "truth.csv", "w", newline="", encoding="utf-8") as table:
            csv.writer(table).writerows([["panel", "number", *_CORNER_NAMES, "angle", "defect", "severity"], *rows])

    artifact(target, make)
    return target


def read_truth(path: Path) -> dict[str, list[Placed]]:
    """The products of each panel, by the panel's name in the truth.csv that write_sheets wrote."""
    panels: dict[str, list[Placed]] = {}
    with open(path, newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            corners = np.array([float(row[name]) for name in _CORNER_NAMES]).reshape(4, 2)
            defect = None if row["defect"] == "good" else row["defect"]
            severity = float(row["severity"]) if row["severity"] else None
            panels.setdefault(row["panel"], []).append(Placed(corners, float(row["angle"]), defect, severity))
    return panels


def _write_one(folder: Path, number: int, config: SheetConfig, seed: int) -> list[list[object]]:
    sheet = render_sheet(config, image_seed(seed, "panel", number))
    name = f"panel_{number:03d}.png"
    write_image(folder / "panels" / name, sheet.image)
    write_image(folder / "masks" / name, sheet.mask)
    return [
        [f"panels/{name}", place, *(f"{value:.3f}" for value in product.corners.ravel()), f"{product.angle:.3f}",
         product.defect or "good", "" if product.severity is None else f"{product.severity:.4f}"]
        for place, product in enumerate(sheet.products)
    ]  # fmt: skip
