from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest

from anomalib_lite.data.sample import Outcome
from anomalib_lite.report import pictures as room

from .conftest import judged


def decode(uri: str) -> np.ndarray:
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return cv2.cvtColor(
        cv2.imdecode(np.frombuffer(base64.b64decode(body), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
    )


def fill(path: str, height: int, width: int) -> np.ndarray:
    """Rasterises a path the way a browser does, by the even-odd rule."""
    loops = [np.array(re.findall(r"([\d.]+) ([\d.]+)", part), float) - 0.5 for part in path.split("M")[1:]]
    return cv2.fillPoly(np.zeros((height, width), np.uint8), [np.rint(loop).astype(np.int32) for loop in loops], 1) > 0


def test_data_uri_keeps_colours_in_their_order() -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    image[..., 0] = 200
    red, green, blue = decode(room.data_uri(image, 95)).reshape(-1, 3).mean(0)
    assert red > 190 and green < 12 and blue < 12


@pytest.mark.parametrize("shape, small", [((900, 600), (256, 171)), ((100, 80), (100, 80)), ((3, 4000), (1, 256))])
def test_thumbnails_keep_proportions_and_never_grow(shape, small) -> None:
    assert room.thumbnail(np.zeros((*shape, 3), np.uint8)).shape == (*small, 3)


def test_outline_path_draws_the_mask_with_its_hole() -> None:
    mask = np.zeros((128, 96), bool)
    mask[20:100, 10:80] = True
    mask[40:60, 30:50] = False
    drawn = fill(room.outline_path(mask, 128, 96), 128, 96)
    assert (drawn != mask).mean() < 0.02


def test_outline_path_follows_the_thumbnails_size() -> None:
    mask = np.zeros((512, 512), bool)
    mask[128:256, 256:384] = True
    drawn = fill(room.outline_path(mask, 256, 256), 256, 256)
    rows, columns = np.nonzero(drawn)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 127, 128, 191)


def test_a_defect_thinner_than_a_pixel_does_not_vanish() -> None:
    mask = np.zeros((2048, 2048), bool)
    mask[1000, 300:900] = True
    assert room.outline_path(mask, 256, 256)
    mask[:] = False
    mask[5, 5] = True
    assert room.outline_path(mask, 256, 256).startswith("M")
    assert room.outline_path(np.zeros((8, 8), bool), 256, 256) == ""


def test_pictures_tell_the_case(outcomes: list[Outcome]) -> None:
    made = room.pictures(outcomes, 2.0, 2.0)
    missed = made[6]
    assert (missed.verdict, missed.mistake, missed.kind, missed.ratio) == ("missed", True, "scratch", 0.55)
    assert (missed.width, missed.height) == (64, 48) and missed.region == "" and missed.truth
    assert made[7].region and not made[0].truth
    assert room.pictures(outcomes, float("inf"), float("inf"))[0].ratio is None


def test_the_budget_is_kept_and_said(monkeypatch, caplog) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (6, 200, 200, 3)).astype(np.uint8)
    shown = [judged(0, 1.0, image=image, map=np.zeros((200, 200), np.float32)) for image in noise]
    full = sum(map(room._size, room.pictures(shown, 2.0, 2.0)))
    monkeypatch.setattr(room, "BUDGET", int(0.5 * full))
    assert not caplog.records
    kept = room.pictures(shown, 2.0, 2.0)
    assert 0 < len(kept) < 6 and sum(map(room._size, kept)) <= 0.5 * full
    assert "of 6 images" in caplog.text
