from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomalib_lite.defects.measures.sharpness import drawing_likeness, gradients, sharpness_loss

EVERYWHERE = np.ones((64, 128), bool)


def edge(sigma: float) -> np.ndarray:
    """A step that a Gaussian of `sigma` px has blurred."""
    step = np.zeros((64, 128), np.float32)
    step[:, 64:] = 200
    return cv2.GaussianBlur(step, (0, 0), sigma)


@pytest.mark.parametrize("blur", [1.0, 2.0, 4.0])
def test_a_gaussian_blur_of_known_sigma(blur):
    sharp = edge(2.0)
    blurred = cv2.GaussianBlur(sharp, (0, 0), blur)
    wanted = 1 - 2.0 / np.hypot(2.0, blur)
    assert sharpness_loss(gradients(blurred), gradients(sharp), EVERYWHERE) == pytest.approx(wanted, abs=0.03)


def test_sharper_than_the_reference_or_no_reference_is_no_loss():
    assert sharpness_loss(gradients(edge(1.0)), gradients(edge(2.0)), EVERYWHERE) == 0
    assert sharpness_loss(gradients(edge(1.0)), gradients(np.zeros((64, 128))), EVERYWHERE) == 0


def test_gradients_of_a_ramp():
    ramp = np.tile(3.0 * np.arange(20), (10, 1))
    inner = gradients(ramp)[1:-1, 1:-1]
    assert np.allclose(inner[..., 0], 3) and np.allclose(inner[..., 1], 0)


def test_likeness_survives_a_veil_and_not_another_drawing():
    drawing = cv2.GaussianBlur(np.random.default_rng(0).normal(100, 40, (64, 128)).astype(np.float32), (0, 0), 2)
    other = cv2.GaussianBlur(np.random.default_rng(1).normal(100, 40, (64, 128)).astype(np.float32), (0, 0), 2)
    wanted = gradients(drawing)
    assert drawing_likeness(gradients(0.4 * drawing + 30), wanted, EVERYWHERE) == pytest.approx(1)
    assert abs(drawing_likeness(gradients(other), wanted, EVERYWHERE)) < 0.15
    assert drawing_likeness(gradients(255 - drawing), wanted, EVERYWHERE) == pytest.approx(-1)
    assert drawing_likeness(np.zeros_like(wanted), wanted, EVERYWHERE) == 0
