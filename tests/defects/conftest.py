"""A small made product: a bright ring and a printed word on a dark ground, in slightly differing good pictures."""

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from anomalib_lite.defects import Inspector, MapLevels, prepare_inspector
from anomalib_lite.settings import conf_dir

SHAPE = (96, 128)
TEXT_BOX = [0.05, 0.74, 0.6, 0.22]  # x, y, width, height in shares


def perfect() -> np.ndarray:
    image = np.full((*SHAPE, 3), (28, 28, 32), np.uint8)
    cv2.circle(image, (64, 36), 26, (205, 160, 90), -1, cv2.LINE_AA)
    cv2.circle(image, (64, 36), 9, (28, 28, 32), -1, cv2.LINE_AA)
    cv2.putText(image, "WORD", (10, 90), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (190, 150, 80), 2, cv2.LINE_AA)
    return image


def photograph(seed: int, image: np.ndarray | None = None) -> np.ndarray:
    """A little noise, another light, and a shift by up to a pixel."""
    rng = np.random.default_rng(seed)
    dx, dy = rng.uniform(-1, 1, 2)
    drawn = perfect() if image is None else image
    moved = cv2.warpAffine(drawn, np.float32([[1, 0, dx], [0, 1, dy]]), SHAPE[::-1], borderMode=cv2.BORDER_REPLICATE)
    return np.clip(moved * rng.uniform(0.93, 1.07) + rng.normal(0, 2, moved.shape), 0, 255).astype(np.uint8)


def flawed(seed: int, place: tuple[slice, slice], paint) -> tuple[np.ndarray, np.ndarray]:
    """A photograph with a defect, painted in a colour or made of the perfect picture; and the defect's mask."""
    image, mask = perfect(), np.zeros(SHAPE, bool)
    mask[place] = True
    image[mask] = paint(image)[mask] if callable(paint) else paint
    return photograph(seed, image), mask


def seen(mask: np.ndarray) -> np.ndarray:
    """What a detector makes of a defect: its blurred mask."""
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2.5)


def default() -> dict:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("train").defects, resolve=True)


def settings(**changes) -> dict:
    """conf/defects/default.yaml with the word's box drawn, and with changes of its first level."""
    config = default()
    config["layout"]["text"] = [TEXT_BOX]
    return config | changes


@pytest.fixture(scope="session")
def good() -> list[np.ndarray]:
    return [photograph(seed) for seed in range(16)]


@pytest.fixture(scope="session")
def inspector(good) -> Inspector:
    return prepare_inspector(settings(), good, MapLevels(0.0, 0.02), perfect())
