"""Small image files and data sets for the tests."""

from pathlib import Path

import cv2
import numpy as np


def picture(seed: int = 0, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """Stripes with a little noise, RGB uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    stripes = 90 + 60 * (np.arange(size[1]) // 8 % 2)
    return np.clip(stripes[None, :, None] + rng.normal(0, 6, (*size, 3)) + [0, 10, 20], 0, 255).astype(np.uint8)


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (64, 64), mark: bool = False) -> Path:
    """A `picture` of that size (height, width); `mark` draws a bright square at rows and columns 20-31."""
    pixels = picture(seed, size)
    if mark:
        pixels[20:32, 20:32] = 250
    return write_pixels(path, pixels[..., ::-1])


def write_mask(path: Path, size: tuple[int, int] = (64, 64)) -> Path:
    """The mask of the square that `write_image` draws."""
    mask = np.zeros(size, np.uint8)
    mask[20:32, 20:32] = 255
    return write_pixels(path, mask)


def write_pixels(path: Path, pixels: np.ndarray) -> Path:
    """Pixels as OpenCV orders them: grey, BGR or BGRA."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def write_category(
    folder: Path, train: int = 10, good: int = 2, defects: dict[str, int] | None = None, seed: int = 0
) -> Path:
    """A category in MVTec AD's layout; `defects` says how many images each type has."""
    for i in range(train):
        write_image(folder / f"train/good/{i:03d}.png", seed + i)
    for i in range(good):
        write_image(folder / f"test/good/{i:03d}.png", seed + 1000 + i)
    for d, (name, count) in enumerate((defects or {}).items()):
        for i in range(count):
            write_image(folder / f"test/{name}/{i:03d}.png", seed + 2000 + 100 * d + i, mark=True)
            write_mask(folder / f"ground_truth/{name}/{i:03d}_mask.png")
    return folder
