from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.errors import UserError
from anomalib_lite.report import pictures as hm


def luminance(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(float) @ [0.2126, 0.7152, 0.0722]


def test_same_value_has_the_same_colour_whatever_the_other_pixels() -> None:
    alone = hm.heatmap(np.full((1, 1), 1.7, np.float32), 1.0)[0, 0]
    for company in (0.0, 1.0, 50.0, 1e6):
        assert (hm.heatmap(np.array([[company, 1.7]], np.float32), 1.0)[0, 1] == alone).all()


def test_scale_depends_on_the_ratio_to_the_threshold_alone() -> None:
    values = np.linspace(0, 6, 500, dtype=np.float32)[None]
    np.testing.assert_allclose(hm.level(values, 1.0), hm.level(values * 0.008, 0.008), atol=1e-5)


def test_level_rises_from_zero_to_saturation_and_knows_the_threshold() -> None:
    values = np.array([0.0, 0.5, 1.0, 2.0, hm.SATURATION, 1e9], np.float32) * 3.0
    level = hm.level(values, 3.0)
    np.testing.assert_allclose(level[[0, 1, 2, 4, 5]], [0, hm.CALM / 2, hm.CALM, 1, 1], atol=1e-6)
    assert hm.CALM < level[3] < 1
    assert (np.diff(hm.level(np.linspace(0, 20, 1000), 3.0)) >= 0).all()


def test_heatmap_is_monotone_in_brightness_with_a_visible_step_at_the_threshold() -> None:
    values = np.linspace(0, hm.SATURATION, 2001, dtype=np.float32)[None]
    light = luminance(hm.heatmap(values, 1.0))[0]
    assert (np.diff(light) >= -1.0).all()  # rounding to whole colour values
    below, above = light[values[0] <= 1.0], light[values[0] > 1.0]
    assert below.max() < 30
    assert above.min() - below.max() > 40


def test_step_lies_exactly_at_the_threshold() -> None:
    threshold = 0.008
    exact = np.float32(threshold)
    values = np.array([[exact, np.nextafter(exact, np.float32(1))]])
    below, above = luminance(hm.heatmap(values, threshold))[0]
    assert above - below > 40
    assert hm.region(values, threshold).tolist() == [[False, True]]


def test_overlay_leaves_a_good_part_calm(outcomes) -> None:
    image = outcomes[0].image
    assert (hm.overlay(image, np.full((48, 64), 0.5, np.float32), 1.0) == image).all()
    near = hm.overlay(image, np.full((48, 64), 0.999, np.float32), 1.0)
    assert np.abs(near.astype(int) - image).max() <= 0.25 * 255
    beyond = hm.overlay(image, np.full((48, 64), 1.001, np.float32), 1.0, outline=False)
    assert (luminance(beyond - near.astype(float)).mean() != 0) and (beyond[..., 0].mean() > near[..., 0].mean() + 20)


def test_overlay_outlines_the_region_and_keeps_its_inputs(outcomes) -> None:
    image, values = np.full((64, 64, 3), 100, np.uint8), np.zeros((64, 64), np.float32)
    values[20:40, 20:40] = 2.0
    kept = image.copy(), values.copy()
    with_edge, without = hm.overlay(image, values, 1.0), hm.overlay(image, values, 1.0, outline=False)
    changed = (with_edge != without).any(-1)
    edge = np.zeros((64, 64), bool)
    edge[19:41, 19:41] = True
    edge[22:38, 22:38] = False
    assert changed[20, 20:40].all() and not (changed & ~edge).any()
    assert (image == kept[0]).all() and (values == kept[1]).all()


def test_overlay_resizes_the_map_to_the_image() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    values = np.zeros((20, 30), np.float32)
    values[:, 15:] = 4.0
    made = hm.overlay(image, values, 1.0, outline=False)
    assert made.shape == image.shape and made.dtype == np.uint8
    assert not made[:, :38].any() and made[:, 52:].any(-1).all()


def test_what_could_not_be_computed_does_not_look_calm() -> None:
    colours = hm.heatmap(np.array([[np.nan, np.inf, hm.SATURATION]], np.float32), 1.0)
    assert (colours[0, 0] == colours[0, 2]).all() and (colours[0, 1] == colours[0, 2]).all()


@pytest.mark.parametrize("threshold, bright", [(0.0, [False, True]), (float("inf"), [False, False])])
def test_thresholds_at_the_ends_of_the_line(threshold: float, bright: list[bool]) -> None:
    light = luminance(hm.heatmap(np.array([[0.0, 5.0]], np.float32), threshold))[0]
    assert (light > 50).tolist() == bright


@pytest.mark.parametrize("threshold", [float("nan"), -1.0])
def test_threshold_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(UserError, match="pixel threshold"):
        hm.heatmap(np.zeros((2, 2), np.float32), threshold)


def test_colour_bar_agrees_with_the_heatmap_at_its_ticks() -> None:
    bar = hm.colour_bar(1001, 4)
    assert bar.shape == (4, 1001, 3) and (bar == bar[:1]).all()
    ticks = dict((label, position) for position, label in hm.tick_positions())
    assert ticks["threshold"] == pytest.approx(hm.CALM)
    doubled = hm.heatmap(np.array([[2.0]], np.float32), 1.0)[0, 0].astype(int)
    assert np.abs(bar[0, round(1000 * ticks["2×"])] - doubled).max() <= 3
