"""CutPaste: what is pasted comes from the image, in the sizes of the paper."""

import numpy as np
import pytest

from anomalib_lite.augment import cutpaste as module
from anomalib_lite.augment.cutpaste import UNLEARNED, blended, cutpaste, scar
from anomalib_lite.augment.synthetic import VISIBLE, synthesize
from tests.augment.test_synthetic import textured


def changed(image: np.ndarray, pasted: np.ndarray) -> np.ndarray:
    return (image != pasted).any(axis=2)


def box(mask: np.ndarray) -> tuple[int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


@pytest.mark.parametrize("size", [(8, 8), (4, 300), (128, 160)])
@pytest.mark.parametrize("paste", [cutpaste, scar])
def test_the_same_seed_pastes_the_same_and_input_stays(paste, size: tuple[int, int]):
    image = textured(0, size)
    before = image.copy()
    first, second, other = (paste(image, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.dtype == np.uint8 and first.shape == image.shape
    assert (first == second).all() and (first != other).any() and (image == before).all()
    assert all(paste(image, np.random.default_rng(seed)).shape == image.shape for seed in range(20))


def test_a_rectangle_covers_the_papers_share():
    image = textured(1, (128, 160))
    for seed in range(60):
        height, width = box(changed(image, cutpaste(image, np.random.default_rng(seed))))
        assert 0.018 < height * width / image[..., 0].size < 0.16
        assert 0.27 < width / height < 3.6


def test_of_a_blended_patch_only_what_bends_is_seen():
    """Poisson's equation takes the patch's second derivatives and the image's values around it: a slope has none."""
    slope = np.repeat(np.linspace(40, 160, 128, dtype=np.float32)[None], 96, 0)
    image, steeper = (np.repeat(np.rint(s)[..., None], 3, 2).astype(np.float32) for s in (slope, 250 - slope))
    bent = textured(6, slope.shape).astype(np.float32)
    for seed in range(20):
        (_, same), (_, other) = (blended(image, source, np.random.default_rng(seed)) for source in (steeper, bent))
        assert np.abs(same - image).max() <= 5 and np.abs(other - image).max() > 30
        height, width = box(changed(image, other))
        assert height * width < 0.25 * slope.size


@pytest.mark.parametrize("size", [(16, 16), (96, 128)])
@pytest.mark.parametrize("kind", UNLEARNED)
def test_each_kind_is_drawn_into_images_of_any_size(kind, size: tuple[int, int]):
    image, other = textured(4, size), textured(5, size)
    drawn = [synthesize(image, other, np.random.default_rng(seed), [kind]) for seed in range(10)]
    for after, mask in drawn:
        assert mask.any() and (mask >= (np.abs(after.astype(np.int16) - image).max(axis=2) > VISIBLE)).all()
    assert len({after.tobytes() for after, _ in drawn}) > 5


@pytest.mark.parametrize("side", [128, 256, 512])
def test_a_scar_is_thin_and_scales_with_the_image(side: int):
    """2-16 by 10-25 px where the image has 256: the longest possible diagonal is under 30 px."""
    image, scale = textured(2, (side, side)), side / 256
    areas = []
    for seed in range(60):
        mask = changed(image, scar(image, np.random.default_rng(seed)))
        assert max(box(mask)) <= 30 * scale + 2
        areas.append(mask.sum() / scale**2)
    assert min(areas) > 15 and max(areas) < 1.2 * 16 * 25


def test_without_jitter_the_rectangle_is_a_piece_of_the_image(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "JITTER", 0.0)
    image = textured(3, (128, 160))
    image[..., :2] = np.moveaxis(np.indices((128, 160)), 0, 2)  # its row and column are written in each pixel
    pasted = cutpaste(image, np.random.default_rng(1))
    where = changed(image, pasted)
    shift = np.argwhere(where) - pasted[where][:, :2]
    assert np.abs(shift - shift[0]).max() <= 1  # one shift for all, up to the rounding of the colours
    assert np.abs(shift[0]).max() > 1


def test_flat_background_is_not_pasted_onto_itself():
    """An object on black: nearly all blind draws would change nothing."""
    image = np.zeros((96, 96, 3), np.uint8)
    image[40:56, 40:56] = 200
    unseen, blind = (
        sum(np.array_equal(image, paste(image, np.random.default_rng(seed))) for seed in range(100))
        for paste in (cutpaste, module._rectangle)
    )
    assert unseen < 5 and blind > 20
