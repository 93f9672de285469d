"""Files -> pixels. `tests/test_corpus.py` has what is no image, and odd names."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from anomalib_lite.data.decode import UnreadableImage, read_image, read_mask, resize_image, resize_mask
from anomalib_lite.data.files import SUFFIXES
from tests.made import write_pixels

RGB = np.array([[[200, 100, 50], [0, 128, 255]]], np.uint8)  # (1, 2, 3)


def test_colours_come_as_rgb_grey_is_repeated_and_alpha_dropped(tmp_path: Path):
    rgba, deep = np.dstack([RGB, np.uint8([[0, 7]])]), RGB[..., ::-1].astype(np.uint16) * 257
    saved = {"rgb": Image.fromarray(RGB), "rgba": Image.fromarray(rgba), "palette": Image.fromarray(RGB).quantize(2)}
    for name, picture in saved.items():
        picture.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_image(tmp_path / f"{name}.png"), RGB), name
    assert np.array_equal(read_image(write_pixels(tmp_path / "deep.png", deep)), RGB)
    Image.fromarray(np.uint8([[[90, 255], [30, 10]]]), "LA").save(tmp_path / "la.png")
    for grey in (tmp_path / "la.png", write_pixels(tmp_path / "a.bmp", np.uint8([[90, 30]]))):
        assert read_image(grey).tolist() == [[[90] * 3, [30] * 3]]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.avif"])
def test_an_image_stands_upright_in_every_format_as_pillow_turns_it(tmp_path: Path, name: str):
    blocks = np.random.default_rng(0).integers(0, 255, (3, 4, 3)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(blocks).save(tmp_path / name, exif=exif, quality=100, subsampling="4:4:4", lossless=True)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / name)).convert("RGB")).astype(int)
        found = read_image(tmp_path / name)
        assert found.shape == expected.shape and np.abs(found - expected).max() < 32, orientation


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_that_counts_as_an_image_is_decoded(tmp_path: Path, suffix: str):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30, 3)).astype(np.uint8)
    if suffix in (".ras", ".sr"):
        (tmp_path / f"a{suffix}").write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    else:
        known = {".jfif": "JPEG", ".jpe": "JPEG", ".pbm": "PPM"}
        Image.fromarray(pixels).save(tmp_path / f"a{suffix}", known.get(suffix))
    assert read_image(tmp_path / f"a{suffix}").shape == (40, 30, 3)


def test_a_thumbnail_is_no_second_page_and_a_tiff_that_is_damaged_inside_no_image(tmp_path: Path):
    Image.new("RGB", (30, 20)).save(tmp_path / "b.tif", save_all=True, append_images=[Image.new("RGB", (6, 4))])
    assert read_image(tmp_path / "b.tif").shape == (20, 30, 3)
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8), (0, 0), 2)
    data = write_pixels(tmp_path / "a.tif", pixels).read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: len(data) // 2] + bytes(200) + data[len(data) // 2 + 200 :])
    with pytest.raises(UnreadableImage, match=r"a\.tif is damaged"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_the_bits_that_a_camera_uses_keep_their_grey_levels(tmp_path: Path, bits: int, suffix: str):
    ramp = np.arange(256)
    deep = np.round(ramp * (2**bits - 1) / 255).astype(np.uint16)[None]
    path = write_pixels(tmp_path / f"a.{suffix}", deep)
    assert read_image(path)[0, :, 0].tolist() == ramp.tolist() == read_image(path, bits)[0, :, 0].tolist()
    dark = write_pixels(tmp_path / f"dark.{suffix}", deep // 64)
    assert read_image(dark, bits).max() == 4, "of a set with a known depth, a dark image stays dark"


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_that_is_cut_off_or_has_lost_a_piece_is_no_image(options: dict, tmp_path: Path):
    """OpenCV would decode it, with grey instead of what is missing."""
    exif = Image.Exif()
    exif[0x010E] = "a thumbnail's end marker: \xff\xd9"
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, exif=exif.tobytes() + b"\xff\xd9", **options)
    whole = (tmp_path / "a.jpg").read_bytes()
    cut = [whole[: int(share * len(whole))] for share in (0.99, 0.5, 0.05)]
    holed = [whole[:place] + whole[place + 1024 :] for place in range(len(whole) // 4, len(whole) - 2000, 5000)]
    for damaged in cut + holed:
        (tmp_path / "a.jpg").write_bytes(damaged)
        with pytest.raises(UnreadableImage, match=r"a\.jpg"):
            read_image(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(whole[:-2] + bytes(5) + whole[-2:])  # as some cameras end
    assert read_image(tmp_path / "a.jpg").shape == (200, 200, 3)
    with pytest.raises(UnreadableImage, match="No such file"):
        read_image(tmp_path / "absent.jpg")


@pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 100, "subsampling": 0}, {"optimize": True}])
def test_whole_jpegs_of_every_kind_are_read_also_with_bytes_behind_them(tmp_path: Path, options: dict):
    pixels = np.random.default_rng(1).integers(0, 255, (200, 70, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", **options)
    data = (tmp_path / "a.jpg").read_bytes()
    padded = data[:2] + b"\xff" + data[2:]  # allowed before any marker
    (tmp_path / "a.jpg").write_bytes(padded + b"\xff\xda trailing \xff\xd8")
    assert read_image(tmp_path / "a.jpg").shape == (200, 70, 3)


SQUARE = np.zeros((96, 96), np.uint8)
SQUARE[30:62, 30:62] = 255


@pytest.mark.parametrize(
    ("values", "marked"),
    [
        (np.uint8([[0, 1, 255]]), [False, True, True]),
        (np.uint8([[[0, 0, 0], [1, 0, 0]]]), [False, True]),  # of one colour
        (np.uint16([[0, 1]]), [False, True]),  # 16-bit label images number their defects from 1
        (np.arange(40, dtype=np.uint8)[None], [False] + 39 * [True]),  # many labels
        (np.uint8([[[255, 255, 255, 0], [255] * 4]]), [False, True]),  # what is seen as nothing is no defect
        (np.uint8([[[0] * 4, [0, 0, 0, 255]]]), [False, True]),  # black, so its alpha is the mask
    ],
)
def test_any_positive_value_of_a_mask_is_defective(tmp_path: Path, values: np.ndarray, marked: list[bool]):
    mask = read_mask(write_pixels(tmp_path / "m.png", values))
    assert mask.dtype == bool and mask.tolist() == [marked]


def test_soft_edges_and_lossy_files_mark_what_is_above_half(tmp_path: Path):
    write_pixels(tmp_path / "soft.png", cv2.GaussianBlur(SQUARE, (0, 0), 3))
    Image.fromarray(SQUARE).save(tmp_path / "lossy.png", "JPEG", quality=75)
    Image.fromarray(SQUARE).save(tmp_path / "lossy.webp", quality=75)
    for path in tmp_path.iterdir():
        assert abs(read_mask(path).sum() / 32**2 - 1) < 0.04, path.name
    Image.fromarray(SQUARE // 255).save(tmp_path / "ones.jpg", quality=95)
    with pytest.raises(UnreadableImage, match="too faint: save it as PNG"):
        read_mask(tmp_path / "ones.jpg")


def test_the_masks_of_a_folder_are_one(tmp_path: Path):
    for number, pixels in enumerate((SQUARE, np.eye(96, dtype=np.uint8))):
        write_pixels(tmp_path / f"m/{number}.png", pixels)
    assert np.array_equal(read_mask(tmp_path / "m"), (SQUARE > 0) | np.eye(96, dtype=bool))


def test_shrinking_averages_the_area_and_equal_size_is_left_alone():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2] = 100
    image[0, 2] = 200
    assert resize_image(image, 2, 2)[..., 0].tolist() == [[100, 50], [0, 0]]
    assert np.array_equal(resize_image(image, 4, 4), image) and resize_image(image, 9, 11).shape == (9, 11, 3)


def test_a_tiny_defect_survives_shrinking():
    mask = np.zeros((200, 200), bool)
    mask[101, 33] = True
    shrunk = resize_mask(mask, 20, 20)
    assert shrunk.sum() == 1 and shrunk[10, 3]
    mask[50:150, 60:180] = True
    assert abs(resize_mask(mask, 64, 96).mean() - mask.mean()) < 0.01
    assert not resize_mask(np.zeros((200, 300), bool), 64, 96).any()
