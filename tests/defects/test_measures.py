import cv2
import numpy as np
import pytest

from anomalib_lite.defects.measures import (
    blur_likeness,
    colour_difference,
    contrast,
    drawing_likeness,
    edge_displacement,
    gradients,
    ink_gained,
    length_width_and_pieces,
    linear,
    outline,
    sharpness_loss,
    surroundings,
)

# From the table of test data of Sharma, Wu, Dalal, "The CIEDE2000 color-difference formula", 2005.
SHARMA = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("first", "second", "wanted"), SHARMA)
def test_two_patches_of_known_mean_colours(first, second, wanted):
    spread = np.array([[-1.0, 2.0, 0.5], [1.0, -2.0, -0.5]])
    assert colour_difference(first + spread, np.tile(second, (25, 1))) == pytest.approx(wanted, abs=1e-4)


def test_contrast_of_known_luminances():
    white, black, grey = (np.full((9, 3), value) for value in (255, 0, 188))
    assert contrast(white, black) == 1 and contrast(white, white) == 0 and contrast(black, black) == 0
    assert linear(grey[:1])[0, 0] == pytest.approx(0.5029, abs=1e-3)  # sRGB 188 is half of the light
    assert contrast(white, grey) == pytest.approx((1 - 0.5029) / (1 + 0.5029), abs=1e-3)


def test_surroundings_are_a_ring_without_other_defects():
    mask, other = np.zeros((60, 60), bool), np.zeros((60, 60), bool)
    mask[25:35, 25:35] = True
    other[:, 40:] = True
    ring = surroundings(mask, mask | other)
    assert ring.any() and not (ring & (mask | other)).any() and ring[30, 22] and not ring[30, 10]
    assert not surroundings(np.ones((9, 9), bool), np.ones((9, 9), bool)).any()


EVERYWHERE = np.ones((64, 128), bool)


def edge(sigma: float) -> np.ndarray:
    """A step that a Gaussian of `sigma` px has blurred."""
    step = np.zeros((64, 128), np.float32)
    step[:, 64:] = 200
    return cv2.GaussianBlur(step, (0, 0), sigma)


def test_a_gaussian_blur_of_known_sigma_and_sharper_than_the_reference_or_no_reference_is_no_loss():
    sharp = edge(2.0)
    for blur in (1.0, 2.0, 4.0):
        blurred, wanted = cv2.GaussianBlur(sharp, (0, 0), blur), 1 - 2.0 / np.hypot(2.0, blur)
        assert sharpness_loss(gradients(blurred), gradients(sharp), EVERYWHERE) == pytest.approx(wanted, abs=0.03)
    assert sharpness_loss(gradients(edge(1.0)), gradients(edge(2.0)), EVERYWHERE) == 0
    assert sharpness_loss(gradients(edge(1.0)), gradients(np.zeros((64, 128))), EVERYWHERE) == 0


def test_gradients_of_a_ramp():
    ramp = np.tile(3.0 * np.arange(20), (10, 1))
    inner = gradients(ramp)[1:-1, 1:-1]
    assert np.allclose(inner[..., 0], 3) and np.allclose(inner[..., 1], 0)


def test_likeness_survives_a_veil_and_not_another_drawing():
    noise = np.random.default_rng(0).normal(100, 40, (2, 64, 128)).astype(np.float32)
    drawing, other = (cv2.GaussianBlur(one, (0, 0), 2) for one in noise)
    wanted = gradients(drawing)
    assert drawing_likeness(gradients(0.4 * drawing + 30), wanted, EVERYWHERE) == pytest.approx(1)
    assert abs(drawing_likeness(gradients(other), wanted, EVERYWHERE)) < 0.15
    assert drawing_likeness(gradients(255 - drawing), wanted, EVERYWHERE) == pytest.approx(-1)
    assert drawing_likeness(np.zeros_like(wanted), wanted, EVERYWHERE) == 0


def print_and_flaws() -> dict[str, np.ndarray]:
    """Dark strokes on bright ground in linear light, (64, 128, 3), and what can go wrong with them."""
    ink = np.zeros((64, 128), np.float32)
    for x in range(20, 110, 16):
        ink[16:48, x : x + 5] = 1
    bare, smeared = ink.copy(), ink.copy()
    bare[:, 50:90] = 0
    for step in range(1, 9):
        smeared[:, step:] = np.maximum(smeared[:, step:], ink[:, :-step] * (1 - step / 10))
    covers = {"good": ink, "blurred": cv2.GaussianBlur(ink, (0, 0), 2.5), "missing": bare, "smeared": smeared}
    colours = np.array([0.8, 0.7, 0.6]), np.array([0.1, 0.1, 0.3])
    return {name: colours[0] + cover[..., None] * (colours[1] - colours[0]) for name, cover in covers.items()}


@pytest.mark.parametrize(
    ("flaw", "gained", "blur"),
    [("blurred", (0.4, 0.6), (0.9, 1.0)), ("missing", (0, 0.01), (0, 0.6)), ("smeared", (0.99, 1), (0, 0.5))],
)
def test_what_happened_to_print(flaw, gained, blur):
    pictures, text = print_and_flaws(), np.zeros((64, 128), bool)
    text[8:56, 10:118] = True
    assert gained[0] <= ink_gained(pictures[flaw], pictures["good"], text, text) <= gained[1]
    assert blur[0] <= blur_likeness(pictures[flaw], pictures["good"], text) <= blur[1]
    unchanged = pictures["good"], pictures["good"], text
    assert ink_gained(*unchanged, text) is None and blur_likeness(*unchanged) == 0


ROWS, COLUMNS = np.mgrid[:120, :120]
ACROSS, ALONG = (COLUMNS - ROWS) / 2**0.5, (COLUMNS + ROWS - 120) / 2**0.5


def box(*places: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((120, 120), bool)
    for place in places:
        mask[place] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "length", "width", "pieces"),
    [
        (box(np.s_[10:11, 5:65]), 60, 1, 1),
        (box(np.s_[10:13, 5:65]), 60, 3, 1),
        (box(np.s_[10:16, 5:85]), 80, 6, 1),
        (box(np.s_[10:19, 5:55]), 50, 9, 1),
        (box(np.s_[117:120, :]), 120, 3, 1),  # at the border
        ((abs(ACROSS) <= 3) & (abs(ALONG) <= 40), 80, 6, 1),
        (box(np.s_[20:23, 20:80], np.s_[20:80, 20:23]), 117, 3, 1),  # bent: measured along
        ((ROWS - 30) ** 2 + (COLUMNS - 30) ** 2 <= 20**2, 40, np.pi / 4 * 40, 1),
        (box(np.s_[10, 5:25], np.s_[10, 35:55]), 40, 1, 2),
        (box(np.s_[2, 2]), 1, 1, 1),
    ],
)
def test_length_and_width_of_known_shapes(mask, length, width, pieces):
    found_length, found_width, found_pieces = length_width_and_pieces(mask)
    assert found_length == pytest.approx(length, rel=0.06) and found_width == pytest.approx(width, rel=0.08)
    assert found_pieces == pieces


def test_everything_is_one_piece():
    length, width, _ = length_width_and_pieces(np.ones((30, 30), bool))
    assert 30 <= length <= 45 and length * width == pytest.approx(900)


def half_plane(at: int) -> np.ndarray:
    return np.tile(np.arange(80) < at, (60, 1))


@pytest.mark.parametrize("shift", [0, 1, 4, 9, -6])
def test_an_edge_shifted_by_a_known_distance(shift):
    near = np.zeros((60, 80), bool)
    near[20:40, 20:60] = True
    assert edge_displacement(half_plane(40 + shift), half_plane(40), near) == abs(shift)


def test_a_part_far_from_all_others_is_not_displaced_farther_than_it_is_large():
    found, near = half_plane(10), np.zeros((60, 80), bool)
    found[30:34, 70:73] = near[30:34, 70:73] = True
    assert edge_displacement(found, half_plane(10), near) == 5  # the diagonal of 4 x 3
    assert edge_displacement(found, np.zeros_like(found), near) == 5
    assert edge_displacement(half_plane(40), half_plane(44), half_plane(10)) == 0  # no edge is near
    assert outline(half_plane(40)).sum() == 60 and not outline(half_plane(80)).any(), "the border is none"
