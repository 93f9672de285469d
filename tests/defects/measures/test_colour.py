from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.defects.measures.colour import colour_difference, contrast, luminance, surroundings

# From the table of test data of Sharma, Wu, Dalal, "The CIEDE2000 color-difference formula", 2005.
SHARMA = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("first", "second", "wanted"), SHARMA)
def test_two_patches_of_known_difference(first, second, wanted):
    assert colour_difference(np.tile(first, (40, 1)), np.tile(second, (25, 1))) == pytest.approx(wanted, abs=1e-4)


def test_the_mean_colour_counts():
    lab = np.array([[50.0, 0, 0], [60.0, 10, 0]])
    assert colour_difference(lab, np.array([[55.0, 5, 0]])) == pytest.approx(0, abs=1e-9)


def test_contrast_of_known_luminances():
    white, black, grey = (np.full((9, 3), value) for value in (255, 0, 188))
    assert contrast(white, black) == 1 and contrast(white, white) == 0 and contrast(black, black) == 0
    assert luminance(grey[:1])[0] == pytest.approx(0.5029, abs=1e-3)  # sRGB 188 is half of the light
    assert contrast(white, grey) == pytest.approx((1 - 0.5029) / (1 + 0.5029), abs=1e-3)


def test_surroundings_are_a_ring_without_other_defects():
    mask, other = np.zeros((60, 60), bool), np.zeros((60, 60), bool)
    mask[25:35, 25:35] = True
    other[:, 40:] = True
    ring = surroundings(mask, mask | other)
    assert ring.any() and not (ring & (mask | other)).any() and ring[30, 22] and not ring[30, 10]
    assert not surroundings(np.ones((9, 9), bool), np.ones((9, 9), bool)).any()
