"""The template takes on the OK images' colours, keeps its structure, and is written once."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.color import rgb2lab

from anomalib_lite.augment import colour_match
from anomalib_lite.augment.colour_match import match_colours, matched_template
from anomalib_lite.data.decode import read_image
from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.errors import UserError
from tests.made import write_pixels

both_methods = pytest.mark.parametrize("method", ["histogram", "reinhard"])


def photograph(seed: int, size: tuple[int, int] = (60, 80), gain: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Smooth colour patches, so that channels are spread and correlated."""
    coarse = np.random.default_rng(seed).uniform(60, 170, (6, 8, 3)).astype(np.float32)
    fine = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) * gain + shift
    return np.clip(fine, 0, 255).astype(np.uint8)


@both_methods
def test_a_template_in_other_light_gets_the_images_colours_back(method: str):
    """Known answer: the template is an OK image that was darkened and tinted."""
    ok = photograph(0)
    template = np.clip(ok * [0.6, 0.7, 0.5] + [10, 0, 30], 0, 255).astype(np.uint8)
    matched = match_colours(template, [ok], method)
    assert matched.dtype == np.uint8 and matched.shape == ok.shape
    error, before = (np.abs(a.astype(int) - ok).mean() for a in (matched, template))
    assert error < 0.12 * before


@both_methods
def test_colours_that_agree_stay_and_grey_images_give_a_grey_template(method: str):
    ok, grey, template = photograph(1), photograph(7), photograph(8)
    assert np.abs(match_colours(ok, [ok, ok], method).astype(int) - ok).max() <= 1
    grey, template = (image[..., :1].repeat(3, axis=2) for image in (grey, template))
    assert np.ptp(match_colours(template, [grey], method).astype(int), axis=2).max() <= 1


def test_histogram_matching_follows_the_pool_of_all_images():
    """Quantiles of each channel are those of all references' pixels together, whatever the images' sizes."""
    references = [photograph(2, gain=0.5), photograph(3, (120, 160), shift=40)]
    matched = match_colours(photograph(4), references, "histogram")
    pool = np.concatenate([r.reshape(-1, 3) for r in references])
    for q in (0.1, 0.5, 0.9):
        assert np.abs(np.quantile(matched, q, axis=(0, 1)) - np.quantile(pool, q, axis=0)).max() <= 2


def test_reinhard_matches_mean_and_spread_in_lab():
    reference = photograph(5, gain=0.7, shift=20)
    matched, wanted = rgb2lab(match_colours(photograph(6), [reference], "reinhard")), rgb2lab(reference)
    assert np.abs(matched.mean(axis=(0, 1)) - wanted.mean(axis=(0, 1))).max() < 0.5
    assert np.abs(matched.std(axis=(0, 1)) - wanted.std(axis=(0, 1))).max() < 0.7


def test_the_file_is_written_once_for_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    template, artifacts = write_pixels(tmp_path / "template.png", photograph(12)[..., ::-1]), tmp_path / "artifacts"
    images = [write_pixels(tmp_path / f"ok/{i}.png", photograph(20 + i, gain=0.6)[..., ::-1]) for i in range(3)]
    ok = [Sample(image, OK) for image in images]
    assert matched_template(template, [], artifacts, "none") == template
    with pytest.raises(UserError, match="there is no OK image to match them to"):
        match_colours(photograph(11), [])
    first, reinhard = (matched_template(template, ok, artifacts, how) for how in ("histogram", "reinhard"))
    assert len({first, reinhard, matched_template(template, ok[:2], artifacts)}) == 3
    expected = match_colours(read_image(template), [read_image(p) for p in images], "reinhard")
    assert (read_image(reinhard) == expected).all()
    monkeypatch.setattr(colour_match, "match_colours", None)  # would fail if it were called
    assert matched_template(template, ok[::-1], artifacts) == first
    assert [p.name for p in artifacts.iterdir() if p.name.startswith(".")] == []


def test_16_bit_files_are_read_with_the_depth_of_the_data_set(tmp_path: Path):
    """The template and one OK image are too dark to show it."""
    template, *ok = (
        write_pixels(tmp_path / f"{k}.png", photograph(k, gain=gain).astype(np.uint16)[..., ::-1] * 64)
        for k, gain in enumerate((0.2, 0.2, 1))
    )
    matched = matched_template(template, [Sample(image, OK, bits=14) for image in ok], tmp_path)
    expected = match_colours(read_image(template, 14), [read_image(image, 14) for image in ok])
    assert (read_image(matched) == expected).all()
