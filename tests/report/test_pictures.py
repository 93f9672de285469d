import base64
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from anomalib_lite.data.sample import Outcome
from anomalib_lite.report import pictures as room

from .conftest import THRESHOLD


def decode(uri: str) -> np.ndarray:
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(body), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


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


def test_outline_path_draws_the_mask_with_its_hole_and_what_is_thinner_than_a_pixel() -> None:
    mask = np.zeros((256, 192), bool)
    mask[40:200, 20:160] = True
    mask[80:120, 60:100] = False
    drawn = fill(room.outline_path(mask, 128, 96), 128, 96)
    assert (drawn != mask[::2, ::2]).mean() < 0.02
    for thin in ((1000, slice(300, 900)), (5, 5)):
        mask = np.zeros((2048, 2048), bool)
        mask[thin] = True
        assert room.outline_path(mask, 256, 256).startswith("M")
    assert room.outline_path(np.zeros((8, 8), bool), 256, 256) == ""


def test_pictures_tell_the_case_by_the_threshold_of_its_category(outcomes: list[Outcome]) -> None:
    good, missed, found = (room.picture(outcomes[place], THRESHOLD) for place in (0, 6, 7))
    told = {"verdict": "missed", "mistake": True, "kind": "scratch", "ratio": 0.55, "width": 64, "height": 48}
    assert missed.items() >= told.items() and missed["region"] == "" and missed["truth"]
    assert found["region"] and not good["truth"]
    threshold = replace(THRESHOLD, categories={"cable": replace(THRESHOLD, image=0.5, pixel=0.5)})
    of_cable = replace(outcomes[6], nok=True, sample=replace(outcomes[6].sample, category="cable"))
    shown = room.picture(of_cable, threshold)
    assert shown["ratio"] == 2.2 and shown["region"] and room.picture(outcomes[6], threshold) == missed


def heatmap(values: np.ndarray, threshold: float) -> np.ndarray:
    return room.paint(room.level(values, threshold))


def luminance(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(float) @ [0.2126, 0.7152, 0.0722]


def test_level_rises_from_zero_to_saturation_and_knows_the_threshold() -> None:
    values = np.array([0.0, 0.5, 1.0, 2.0, room.SATURATION, 1e9], np.float32) * 3.0
    level = room.level(values, 3.0)
    np.testing.assert_allclose(level[[0, 1, 2, 4, 5]], [0, room.CALM / 2, room.CALM, 1, 1], atol=1e-6)
    assert room.CALM < level[3] < 1
    assert (np.diff(room.level(np.linspace(0, 20, 1000), 3.0)) >= 0).all()


def test_heatmap_is_monotone_in_brightness_with_a_visible_step_at_the_threshold() -> None:
    values = np.linspace(0, room.SATURATION, 2001, dtype=np.float32)[None]
    light = luminance(heatmap(values, 1.0))[0]
    assert (np.diff(light) >= -1.0).all()  # rounding to whole colour values
    below, above = light[values[0] <= 1.0], light[values[0] > 1.0]
    assert below.max() < 30 and above.min() - below.max() > 40
    for threshold, higher in [(0.008, np.nextafter(np.float32(0.008), np.float32(1))), (0.0, 1e-30)]:
        below, above = luminance(heatmap(np.array([[threshold, higher]], np.float32), threshold))[0]
        assert above - below > 40
    colours = heatmap(np.array([[np.nan, np.inf, room.SATURATION]], np.float32), 1.0)[0]
    assert (colours == colours[2]).all(), "what could not be computed does not look calm"


def test_overlay_leaves_a_good_part_calm(outcomes) -> None:
    image = outcomes[0].image
    assert (room.overlay(image, np.full((48, 64), 0.5, np.float32), 1.0) == image).all()
    near = room.overlay(image, np.full((48, 64), 0.999, np.float32), 1.0)
    assert np.abs(near.astype(int) - image).max() <= 0.25 * 255
    beyond = room.overlay(image, np.full((48, 64), 1.001, np.float32), 1.0, outline=False)
    assert beyond[..., 0].mean() > near[..., 0].mean() + 20


def test_overlay_outlines_the_region_keeps_its_inputs_and_resizes_the_map() -> None:
    image, values = np.full((64, 64, 3), 100, np.uint8), np.zeros((64, 64), np.float32)
    values[20:40, 20:40] = 2.0
    kept = image.copy(), values.copy()
    with_edge, without = room.overlay(image, values, 1.0), room.overlay(image, values, 1.0, outline=False)
    changed = (with_edge != without).any(-1)
    edge = np.zeros((64, 64), bool)
    edge[19:41, 19:41] = True
    edge[22:38, 22:38] = False
    assert changed[20, 20:40].all() and not (changed & ~edge).any()
    assert (image == kept[0]).all() and (values == kept[1]).all()
    values = np.zeros((20, 30), np.float32)
    values[:, 15:] = 4.0
    made = room.overlay(np.zeros((60, 90, 3), np.uint8), values, 1.0, outline=False)
    assert made.shape == (60, 90, 3) and made.dtype == np.uint8
    assert not made[:, :38].any() and made[:, 52:].any(-1).all()


def test_colour_bar_agrees_with_the_heatmap_at_its_ticks() -> None:
    bar = room.colour_bar(1001, 4)
    assert bar.shape == (4, 1001, 3) and (bar == bar[:1]).all()
    ticks = dict((label, position) for position, label in room.tick_positions())
    assert ticks["threshold"] == pytest.approx(room.CALM)
    doubled = heatmap(np.array([[2.0]], np.float32), 1.0)[0, 0].astype(int)
    assert np.abs(bar[0, round(1000 * ticks["2×"])] - doubled).max() <= 3
