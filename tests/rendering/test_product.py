"""The renderer's pictures of products and panels, the truth it tells about them, and the data sets made of them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from anomalib_lite.errors import UserError
from anomalib_lite.rendering import product
from anomalib_lite.rendering.flaws import DEFECTS
from anomalib_lite.rendering.layout import perfect_layout
from anomalib_lite.rendering.photo import Camera
from anomalib_lite.rendering.product import Conditions, draw_conditions, render_product, render_template
from anomalib_lite.rendering.raster import Pose, coverage, image_seed, to_pixels
from anomalib_lite.rendering.surface import Wear
from anomalib_lite.settings.data import PanelsConfig, SheetConfig

SIZE = 128
TINY, SHEET = SheetConfig(width=240, height=160), SheetConfig(width=880, height=660)
SMALL = PanelsConfig(size=64, n_train=4, n_test_good=2, n_per_defect=2, defects=["scratch", "stain"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return product.write_dataset(tmp_path_factory.mktemp("artifacts"), SMALL, workers=2)


def pixels(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)).astype(bool)


def sharp(seed: int) -> Conditions:
    """Drawn conditions, and a camera that spreads nothing beyond a pixel: no blur, glow or compression."""
    drawn = draw_conditions(seed)
    camera = Camera(blur=0, glow=0, quality=0, shot=drawn.camera.shot, read=drawn.camera.read)
    return Conditions(drawn.pose, drawn.light, camera, drawn.wear)


def test_a_seed_gives_the_same_pixels_and_another_seed_gives_others():
    first, again, other = (render_product(SIZE, seed, "scratch", 0.5) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.image, other.image) and not render_product(SIZE, 1).mask.any()
    assert first.image.shape == (SIZE, SIZE, 3) and first.image.dtype == np.uint8 and first.mask.dtype == bool


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_changes_the_masked_pixels_and_no_others(defect):
    for seed in (1, 2):
        good = render_product(SIZE, seed, conditions=sharp(seed)).image.astype(int)
        bad = render_product(SIZE, seed, defect, 0.6, sharp(seed))
        change = np.abs(bad.image.astype(int) - good).max(-1)
        # Light and noise are the same in both, so that only the fringe of a pixel is left outside, hardly visible.
        assert change[~grown(bad.mask, 2)].max() <= 12 and change[~grown(bad.mask, 2)].mean() < 0.1
        assert np.median(change[bad.mask]) > 10
    good, bad = render_product(SIZE, 5).image.astype(int), render_product(SIZE, 5, defect, 0.6)  # with a real lens
    change = np.abs(bad.image.astype(int) - good).max(-1)
    assert change[bad.mask].mean() > 8 * change[~grown(bad.mask, 4)].mean()


@pytest.mark.parametrize("defect", DEFECTS)
def test_severity_grows_with_the_defect(defect):
    severities = np.linspace(0, 1, 6)
    for seed in (11, 12):
        conditions = sharp(seed)
        good = render_product(SIZE, seed, conditions=conditions).image.astype(float)
        bad = [render_product(SIZE, seed, defect, float(severity), conditions) for severity in severities]
        damage = [np.abs(product.image - good)[product.mask].sum() for product in bad]
        assert all(product.mask.any() for product in bad)
        assert stats.spearmanr(damage, severities).statistic > 0.75 and damage[-1] > 1.5 * damage[0]


def test_print_defects_lie_on_the_word_and_broken_spikes_on_the_structure():
    layout = perfect_layout()
    foil = [[facet.outline] for element in layout.elements for facet in element.facets]
    for seed in range(4):
        matrix = draw_conditions(seed).pose.homography(SIZE)
        for defect, part, share in (("print_missing", layout.letters, 0.9), ("structure_missing", foil, 0.8)):
            cover = coverage((SIZE, SIZE), [to_pixels(matrix, list(outlines)) for outlines in part])
            mask = render_product(SIZE, seed, defect, 0.7).mask
            assert mask[grown(cover > 0, 1)].sum() > share * mask.sum()


def test_masks_follow_the_pose():
    """A product shifted by whole pixels has the mask shifted by as much."""
    poses = [Conditions(Pose(dx=shift / SIZE), wear=Wear(0, 0)) for shift in (0, 7)]
    here, there = (render_product(SIZE, 8, "structure_bent", 0.8, pose).mask for pose in poses)
    assert (np.roll(here, 7, axis=1) ^ there).sum() < 0.1 * here.sum()


def test_the_template_is_straight_and_symmetric():
    bright = render_template(SIZE).max(-1) > 60
    bright[int(0.64 * SIZE) : int(0.79 * SIZE)] = False  # the word
    assert (bright & bright[:, ::-1]).sum() > 0.93 * bright.sum()


def test_the_folder_has_the_layout_of_mvtec_ad(folder):
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.png")}
    assert {"test/good/001.png", "test/stain/001.png", "ground_truth/stain/001_mask.png", "template.png"} <= files
    assert {f"train/good/00{i}.png" for i in range(4)} <= files and len(files) == 4 + 2 + 2 * 2 * 2 + 1
    mask = pixels(folder / "ground_truth/scratch/000_mask.png")
    assert mask.shape == (64, 64) and set(np.unique(mask)) == {0, 255}


def test_an_image_depends_on_its_place_alone(folder, tmp_path):
    """Neither on how many are drawn, nor on their order or the number of threads."""
    fewer = PanelsConfig(size=64, n_train=2, n_test_good=0, n_per_defect=2, defects=["stain"])
    other = product.write_dataset(tmp_path, fewer, workers=1)
    for file in ("train/good/001.png", "test/stain/001.png", "ground_truth/stain/001_mask.png"):
        assert np.array_equal(pixels(folder / file), pixels(other / file))
    seed = image_seed(0, "train", "good", 3)
    assert np.array_equal(render_product(64, seed).image, pixels(folder / "train/good/003.png")[..., ::-1])


def test_the_set_of_a_configuration_stays_the_same(folder, tmp_path, monkeypatch):
    """Runs name their data by this key; where pixels change, VERSION must rise and the key with it."""
    means = [round(float(pixels(folder / name).mean()), 1) for name in ("template.png", "train/good/000.png")]
    assert means == pytest.approx([63.2, 68.2], abs=0.3)  # processors round differently
    monkeypatch.setattr(product, "artifact", lambda *_: None)
    configs = (PanelsConfig(), SMALL, PanelsConfig(seed=1), PanelsConfig(jitter=0.5))
    names = [product.write_dataset(tmp_path, config).name for config in configs]
    assert names[0] == "panels-80bb919ccb4be1c9" and len(set(names)) == 4


def test_a_folder_that_is_there_is_used_again_and_a_failed_one_leaves_nothing(folder, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(product, "write_image", fail)
    assert product.write_dataset(folder.parent, SMALL) == folder
    with pytest.raises(OSError, match="disk full"):
        product.write_dataset(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == []


def test_the_set_is_too_hard_for_a_gaussian_a_pixel(tmp_path):
    """Else it would say nothing about detectors: normal variation must cover what a pixel alone can see."""
    folder = product.write_dataset(tmp_path, PanelsConfig(size=96, n_train=40, n_test_good=24, n_per_defect=4))

    train = np.stack([pixels(path).astype(np.float32) for path in folder.glob("train/good/*.png")])
    mean, deviation = train.mean(0), train.std(0) + 4
    scores, labels = [], []
    for path in folder.glob("test/*/*.png"):
        squares = (((pixels(path) - mean) / deviation) ** 2).mean(-1)
        scores.append(cv2.GaussianBlur(squares, (0, 0), 2).max())
        labels.append(path.parent.name != "good")
    assert roc_auc_score(labels, scores) < 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: product.write_dataset("", PanelsConfig(defects=["rust"])), r"rust.*print_blurred"),
        (lambda: product.write_dataset("", PanelsConfig(severity=[0.9, 0.1])), "severity"),
        (lambda: SheetConfig(width=100, height=100), "32 px"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_products_lie_where_their_corners_say_and_apart_from_each_other():
    sheet = product.render_sheet(SHEET, 0)
    assert sheet.image.shape == (660, 880, 3) and len(sheet.products) == 8
    covered = np.zeros((660, 880), np.uint8)
    for placed in sheet.products:
        covered += cv2.fillPoly(np.zeros_like(covered), [np.round(placed.corners).astype(np.int32)], 1)
        assert placed.corners.min() > 0 and (placed.corners < (880, 660)).all()
        sides = np.linalg.norm(np.diff(placed.corners, axis=0), axis=1)
        assert sides == pytest.approx(SHEET.product_size, rel=0.02)
        assert abs(placed.angle) <= 3
        # The bright pixels' centre lies where it lies on a product: on its axis, a little above its middle.
        square = np.float32([[0, 0], [100, 0], [100, 100], [0, 100]])
        to_unit = cv2.getPerspectiveTransform(placed.corners.astype(np.float32), square)
        rows, columns = np.nonzero(cv2.warpPerspective(sheet.image, to_unit, (100, 100)).max(-1) > 90)
        assert columns.mean() == pytest.approx(50, abs=2) and rows.mean() == pytest.approx(52, abs=6)
        assert rows.min() > 5 and columns.min() > 0.5 and columns.max() < 99
    assert covered.max() == 1


def test_a_panel_depends_on_its_seed_alone_and_seeds_differ_in_light():
    again, *sheets = (product.render_sheet(TINY, seed).image for seed in (0, *range(6)))
    assert np.array_equal(again, sheets[0]) and not np.array_equal(sheets[0], sheets[1])
    assert max(map(np.mean, sheets)) / min(map(np.mean, sheets)) > 1.1


def test_the_share_of_defective_products_and_their_masks():
    good, bad = product.render_sheet(replace(TINY, nok_share=0), 1), product.render_sheet(replace(TINY, nok_share=1), 1)
    assert not good.mask.any() and all(p.defect is None for p in good.products)
    assert all(p.defect and p.severity is not None for p in bad.products)
    for placed in bad.products:
        left, top = np.floor(placed.corners.min(0)).astype(int)
        right, bottom = np.ceil(placed.corners.max(0)).astype(int)
        assert bad.mask[top:bottom, left:right].any()


def test_a_folder_of_panels_tells_where_every_product_lies(tmp_path):
    config = replace(TINY, nok_share=0.5)
    folder = product.write_sheets(tmp_path / "sheets", 2, config)
    truth = product.read_truth(folder / "truth.json")
    assert list(truth) == ["panels/panel_000.png", "panels/panel_001.png"]
    for number, (name, placed) in enumerate(truth.items()):
        expected = product.render_sheet(config, image_seed(0, "panel", number))
        assert np.array_equal(cv2.imread(str(folder / name))[..., ::-1], expected.image)
        for read, drawn in zip(placed, expected.products, strict=True):
            assert (read.corners == drawn.corners).all() and replace(read, corners=drawn.corners) == drawn
