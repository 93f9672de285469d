import cv2
import numpy as np
import pytest

from anomalib_lite.defects import Inspector, MapLevels, load_inspector, prepare_inspector
from anomalib_lite.defects.collect import matching
from anomalib_lite.defects.regions import find_regions
from anomalib_lite.errors import UserError
from anomalib_lite.rendering.flaws import DEFECTS
from anomalib_lite.rendering.product import render_product, render_template
from tests.defects.conftest import SHAPE, default, flawed, perfect, photograph, seen, settings

SPOT, BLUE = np.s_[16:26, 60:68], (60, 120, 200)


def stain(image: np.ndarray) -> np.ndarray:
    """95 px of another colour."""
    return cv2.circle(image.copy(), (64, 20), 5, (90, 160, 205), -1)


def inspect(inspector, image, mask):
    return inspector.inspect(seen(mask), image, 0.1)


def test_no_defect_and_all_defect(inspector):
    assert inspector.inspect(np.zeros(SHAPE, np.float32), photograph(50), 0.1) == () and inspector.accepts(())
    image = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    (defect,) = inspector.inspect(np.ones(SHAPE, np.float32), image, 0.1)
    assert defect.measures["area_px"] > 0.5 * SHAPE[0] * SHAPE[1] and not inspector.accepts([defect])
    assert all(value is None or np.isfinite(value) for value in defect.measures.values())


def test_a_defect_on_the_border(inspector):
    (defect,) = inspect(inspector, *flawed(51, np.s_[40:52, 118:], (70, 130, 190)))
    x, y, width, height = defect.box
    assert x + width == 128 and abs(y - 40) <= 2 and abs(height - 12) <= 3
    assert defect.kind == "colour_scratch" and defect.areas["background"] == 1


@pytest.mark.parametrize(
    ("place", "paint", "kind", "bounds"),
    [
        (np.s_[74:94, 34:60], lambda p: cv2.GaussianBlur(p, (0, 0), 2), "blurry_text", {"sharpness_loss": (0.4, 1)}),
        (np.s_[4:22, 60:70], (28, 28, 32), "structural", {"edge_displacement_px": (4, 13)}),
        (np.s_[15:26, 59:70], stain, "colour_scratch", {"colour_difference": (20, 100), "area_px": (62, 128)}),
    ],
)
def test_a_flaw_has_its_type_and_measures(inspector, place, paint, kind, bounds):
    (defect,) = inspect(inspector, *flawed(54, place, paint))
    assert defect.kind == kind and defect.confidence > 0.5
    assert all(least < defect.measures[name] < most for name, (least, most) in bounds.items())


def test_the_outline_comes_from_the_picture_and_not_from_the_blurred_map(inspector):
    image, mask = perfect(), np.zeros(SHAPE, np.uint8)
    cv2.line(image, (44, 48), (84, 26), (120, 120, 125), 2)
    cv2.line(mask, (44, 48), (84, 26), 1, 2)
    (defect,) = inspect(inspector, photograph(55, image), mask > 0)
    assert defect.measures["length_px"] == pytest.approx(46, rel=0.25)
    assert defect.measures["area_px"] < 0.85 * (seen(mask) > seen(mask).max() / 2).sum()


def test_two_peaks_of_the_map_over_one_defect_are_one_defect(inspector):
    picture, line = flawed(58, np.s_[18:23, 42:87], (90, 160, 205))
    ends, whole = np.zeros((2, *SHAPE), bool)
    ends[16:24, 42:56] = ends[16:24, 72:86] = whole[16:24, 42:86] = True
    values = np.maximum(seen(ends), 0.45 * seen(whole))  # above the bar of a zone, below that of a core
    assert len(find_regions(values, 0.1, 0.02, config=inspector.settings.regions)) == 2
    (defect,) = inspector.inspect(values, picture, 0.1)
    assert defect.measures["area_px"] == pytest.approx(int(line.sum()), rel=0.35)
    assert defect.peak == pytest.approx(values.max())


def test_larger_pictures_and_smaller_maps_are_brought_to_one_size(inspector):
    picture, mask = flawed(56, SPOT, BLUE)
    (one,) = inspect(inspector, picture, mask)
    large = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    (two,) = inspector.inspect(cv2.resize(seen(mask), (64, 48)), large, 0.1)
    assert two.kind == one.kind and two.mask.shape == SHAPE
    assert two.measures["area_px"] == pytest.approx(one.measures["area_px"], rel=0.1)


def test_a_users_area_type_and_scale_which_follows_the_photograph_on_disk(good, caplog):
    config = settings(scale_mm_per_px=0.1)
    config["layout"] |= {"areas": {"corner": [[0.8, 0.0, 0.2, 0.3]]}}
    config["types"] |= {"corner_dirt": {"areas": {"corner": 9.0}}}
    inspector = prepare_inspector(config, good[:4], MapLevels(0, 0.02), perfect())
    assert not caplog.text
    picture, mask = flawed(58, np.s_[10:14, 104:124], (150, 150, 150))
    large = cv2.resize(picture, None, fx=4, fy=2)  # 512 x 192 px: pixels of 0.4 x 0.2 mm when inspected
    (defect,) = inspect(inspector, large, mask)
    assert defect.kind == "corner_dirt" and defect.areas["corner"] == 1
    assert defect.measures["area_mm2"] == pytest.approx(defect.measures["area_px"] * 0.4 * 0.2)
    assert defect.measures["length_mm"] == pytest.approx(defect.measures["length_px"] * 0.4, rel=0.1)
    assert defect.measures["width_mm"] == pytest.approx(defect.measures["width_px"] * 0.2, rel=0.1)


def test_a_template_of_another_product_is_said(good, caplog):
    prepare_inspector(settings(), good[:4], MapLevels(0, 0.02), 255 - perfect())
    assert "the template does not look like the OK images (correlation -" in caplog.text


def test_textures_are_measured_against_their_surroundings():
    rng = np.random.default_rng(0)
    grain = [rng.integers(60, 200, (64, 64, 3)).astype(np.uint8) for _ in range(8)]
    inspector = prepare_inspector(settings(layout={"text": "auto"}), grain, MapLevels(0, 0.02))
    image, mask = grain[0].copy(), np.zeros((64, 64), bool)
    image[20:30, 20:30], mask[20:30, 20:30] = (250, 20, 20), True
    (defect,) = inspect(inspector, image, mask)
    assert defect.areas["inside"] == 1 and defect.kind == "colour_scratch"
    assert defect.measures["colour_difference"] > 20 and defect.measures["edge_displacement_px"] is None


def test_saved_finds_the_same_and_a_damaged_folder_is_refused(inspector, tmp_path):
    inspector.save(tmp_path, settings())
    loaded = load_inspector(tmp_path)
    first, second = (inspect(each, *flawed(59, SPOT, BLUE)) for each in (inspector, loaded))
    assert [d.record() for d in first] == [d.record() for d in second]
    whole = (tmp_path / "inspector.npz").read_bytes()
    (tmp_path / "inspector.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no complete inspector"):
        load_inspector(tmp_path)
    with pytest.raises(UserError, match="train the run again"):
        load_inspector(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def rendered() -> Inspector:
    """Of the built-in product with the default configuration: nothing is drawn, its text is found."""
    good = [render_product(192, (7, seed)).image for seed in range(12)]
    return prepare_inspector(default(), good, MapLevels(0.0, 0.01), render_template(192))


@pytest.mark.parametrize("flaw", DEFECTS)
def test_each_flaw_of_the_built_in_product_has_its_type(rendered, flaw):
    assert rendered.layout.found_by["text"] == "read: AURELIA"
    product = render_product(192, (8, 1), flaw, 0.7)
    found = rendered.inspect(cv2.GaussianBlur(product.mask.astype(np.float32), (0, 0), 3), product.image, 0.05)
    assert matching(found, product.mask).kind == rendered.settings.names[flaw]
