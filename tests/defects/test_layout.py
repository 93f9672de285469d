import dataclasses

import cv2
import numpy as np
import pytest

from anomalib_lite.defects.layout import edge_band, find_foreground, find_layout, find_text
from anomalib_lite.errors import UserError
from anomalib_lite.settings.training import DefectLayout
from tests.defects.conftest import SHAPE, TEXT_BOX, perfect

DRAWN = DefectLayout(text=[TEXT_BOX])


@pytest.mark.parametrize("method", ["otsu", "grabcut"])
@pytest.mark.parametrize(("ground", "product"), [(30, 220), (220, 30)])
def test_the_product_is_found_bright_on_dark_and_dark_on_bright(method, ground, product):
    wanted = cv2.circle(np.zeros((80, 80), np.uint8), (40, 40), 20, 1, -1) > 0
    image = np.where(wanted[..., None], product, ground).astype(np.uint8).repeat(3, axis=2)
    foreground, _ = find_foreground(image, method)
    assert (foreground & wanted).sum() / (foreground | wanted).sum() > 0.97


def test_the_band_is_as_wide_as_stated_and_leaves_the_border_alone():
    mask = np.tile(np.arange(100) < 50, (100, 1))
    assert edge_band(mask, 0.03).sum(axis=1).tolist() == [6] * 100
    assert edge_band(mask, 0.0)[0].sum() == 2  # a pixel to each side at least
    assert not any(edge_band(np.full((20, 20), value), 0.1).any() for value in (True, False))


def test_areas_share_the_picture_out():
    layout = find_layout(perfect(), DRAWN)
    assert layout.names == ("background", "inside", "edges", "text")
    assert sum(layout.area(name).sum() for name in layout.names) == SHAPE[0] * SHAPE[1]
    assert layout.area("inside")[20, 64] and layout.area("edges")[10, 64] and layout.area("background")[5, 5]
    assert layout.area("text")[80, 40] and layout.found_by["text"] == "drawn boxes"


def test_masks_replace_what_was_found_and_add_areas(tmp_path):
    mask = np.zeros((192, 256), np.uint8)  # twice the picture's size
    mask[:40] = 255
    cv2.imwrite(str(tmp_path / "logo.png"), mask)
    given = {"logo": str(tmp_path / "logo.png"), "inside": [[0.0, 0.5, 1.0, 0.1]]}
    layout = find_layout(perfect(), dataclasses.replace(DRAWN, areas=given))
    assert layout.names[-1] == "logo" and layout.area("logo")[:20].all() and not layout.area("logo")[20:].any()
    assert set(np.flatnonzero(layout.area("inside").any(axis=1))) <= set(range(48, 58))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": [[0.5, 0.5, 0.6, 0.1]]}, "x, y, width, height"),
        ({"text": [[0.5, 0.5]]}, "x, y, width, height"),
        ({"text": "nowhere.png"}, "nowhere.png cannot be read"),
        ({"foreground": "nowhere.png"}, "defects.layout.foreground"),
        ({"areas": {"logo": "nowhere.png"}}, "defects.layout.areas.logo"),
    ],
)
def test_what_cannot_be_drawn_is_named(changes, words):
    with pytest.raises(UserError, match=words):
        find_layout(perfect(), DefectLayout(**({"text": "none"} | changes)))


def test_a_flat_picture_has_background_or_inside_alone():
    layout = find_layout(np.full((40, 40, 3), 128, np.uint8), DefectLayout(text="none"))
    assert not layout.area("edges").any() and not layout.area("text").any()
    assert find_layout(perfect(), DefectLayout(foreground="none", text="none")).area("inside").all()


@pytest.mark.parametrize("scale", [1, 3])
def test_text_is_found_where_it_can_be_read(scale):
    image = cv2.resize(perfect(), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    (box,), words = find_text(image)
    assert words == "read: WORD"
    (x0, y0), (x1, y1) = box.min(axis=0) / scale, box.max(axis=0) / scale
    assert x0 < 14 and 60 < x1 < 90 and y0 < 76 and 88 < y1 <= 96


def test_a_product_without_text_has_none():
    ring = perfect()
    ring[66:] = (28, 28, 32)
    assert find_text(ring) == ([], "no text found")
