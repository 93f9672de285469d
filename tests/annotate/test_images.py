from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.annotate.store import browser_image, decode_mask, image_size
from anomalib_lite.data.decode import read_image
from anomalib_lite.errors import UserError

from .conftest import drawn_mask


def test_a_drawn_mask_becomes_0_and_255_where_it_was_drawn() -> None:
    mask = decode_mask(drawn_mask(box=(4, 5, 10, 9)), (48, 32))
    expected = np.zeros((32, 48), np.uint8)
    expected[5:14, 4:14] = 255
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, expected)


def test_the_soft_edge_of_a_stroke_is_decided_at_one_half() -> None:
    image = np.zeros((1, 4, 4), np.uint8)
    image[0, :, 3] = (0, 127, 128, 255)
    mask = decode_mask(cv2.imencode(".png", image)[1].tobytes(), (4, 1))
    assert mask.tolist() == [[0, 0, 255, 255]]
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):  # grey masks are taken, too
        png = cv2.imencode(".png", np.array([[0, top]], dtype))[1].tobytes()
        assert decode_mask(png, (2, 1)).tolist() == [[0, 255]]


@pytest.mark.parametrize("png", [b"", b"GIF89a" + b"\0" * 60, drawn_mask((32, 48)), drawn_mask()[:60]])
def test_what_is_no_mask_of_the_crops_size_is_refused(png: bytes) -> None:
    with pytest.raises(ValueError, match=r"PNG|pixels"):
        decode_mask(png, (48, 32))


def test_a_huge_picture_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    png = bytearray(drawn_mask())
    png[16:24] = (100_000).to_bytes(4, "big") * 2
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="100000"):
        decode_mask(bytes(png), (48, 32))


def test_what_browsers_cannot_show_comes_as_the_same_pixels_in_png(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    for suffix, media_type in ((".tif", "image/png"), (".png", "image/png"), (".bmp", "image/bmp")):
        path = tmp_path / f"a{suffix}"
        cv2.imwrite(str(path), pixels)
        content, told = browser_image(path)
        assert told == media_type
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), 1), pixels)
        assert image_size(path) == (9, 7)


def test_a_turned_photograph_is_shown_with_the_pixels_that_training_reads(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 200
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    # Orientation 6: a viewer that obeys it turns the picture by 90 degrees.
    tags = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(tags) + 2).to_bytes(2, "big") + tags
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (16, 8, 3)
    content, media_type = browser_image(tmp_path / "a.jpg")
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert media_type == "image/png"
    np.testing.assert_array_equal(shown[..., ::-1], read_image(tmp_path / "a.jpg"))
    assert image_size(tmp_path / "a.jpg") == (8, 16), "it stands upright, as everywhere"


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_damaged_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png"):
        image_size(tmp_path / "a.png")
