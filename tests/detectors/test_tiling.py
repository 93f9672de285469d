"""Tiles: cut and blended without seams, learned from as images, in one model with the path that needs none."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.augment.tta import TestTimeAugmentation
from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.detectors.model import Method, Model
from anomalib_lite.detectors.padim import PaDiM
from anomalib_lite.detectors.tiling import TileSet, Tiling
from anomalib_lite.engine.build import build_model
from anomalib_lite.errors import UserError
from anomalib_lite.scoring import GaussianBlur, MaxScore
from tests.detectors import small
from tests.detectors.test_configured import DETECTORS, SMALL, configured, fitted
from tests.made import write_image


class Contrast(Method):
    """Local contrast: the same wherever it is looked at, but for what a border hides."""

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        around = F.avg_pool2d(F.pad(image, (2,) * 4), 5, 1)  # zeros beyond the border, as a network's padding
        return (image - around).abs().mean(1, keepdim=True)


def model(method: Method, tiling: Tiling | None) -> Model:
    views = TestTimeAugmentation(({}, {"flip": "horizontal"}))
    return Model(method, views, GaussianBlur(1.0), MaxScore(), tiling=tiling)


@pytest.mark.parametrize(
    ("image", "size", "overlap"),
    [((96, 128), 48, 16), ((97, 131), 40, 16), ((64, 64), 64, 16), ((50, 200), 64, 0), ((30, 40), 64, 16)],
)
def test_a_constant_map_stays_constant_and_tiles_leave_no_seam(image: tuple[int, int], size: int, overlap: int):
    """Every pixel is covered; a map of any resolution that is the same in all tiles is the same in the whole; and what
    a method says that looks two px around is what it says of the whole image, the image's own border included.
    """
    tiling = Tiling(image, size, overlap)
    covered = torch.zeros(image)
    for rows, columns in tiling.tiles:
        covered[rows, columns] += 1
        assert (rows.stop - rows.start, columns.stop - columns.start) == tiling.size
    assert covered.min() >= 1
    flat = tiling.blend(torch.full((2, 1, 5, 7), 3.25) for _ in tiling.tiles)
    torch.testing.assert_close(flat, torch.full((2, 1, *image), 3.25), rtol=1e-6, atol=0)
    if overlap:
        picture = torch.rand(2, 3, *image, generator=torch.Generator().manual_seed(0))
        whole, tiled = (model(Contrast(), t)(picture) for t in (None, tiling))
        torch.testing.assert_close(tiled.map, whole.map, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(tiled.score, whole.score)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("images")
    files = [write_image(folder / f"{i}.png", i, (96, 128)) for i in range(6)]
    return ImageSet([Sample(file, OK, template=files[0]) for file in files], (96, 128))


@pytest.mark.parametrize("kept", ["memory", "file", "not"])
def test_tiles_are_what_the_whole_image_has_there(images: ImageSet, kept: str):
    tiling = Tiling((96, 128), 64, 16, full=True)
    limit = {"memory": 100.0}.get(kept, 0.0)
    tiles = TileSet(ImageSet(images.samples, (96, 128), limit, spool=kept == "file"), tiling)
    assert len(tiles) == 6 * len(tiling) == 6 * 7
    whole = images[[2]]
    batch = tiles[[2 * 7 + 4, 2 * 7 + 6]]
    assert torch.equal(batch.image[0], whole.image[0][:, *tiling.tiles[4]])
    assert batch.template is not None and whole.template is not None
    assert torch.equal(batch.template[0], whole.template[0][:, *tiling.tiles[4]])
    assert (batch.image[1] - tiling.cut(whole.image, 6)[0]).abs().max() <= 0.5 / 255 + 1e-6
    assert batch.index.tolist() == [18, 20] and batch.samples == (images.samples[2],) * 2
    assert torch.equal(tiles.part(slice(2, 4))[4].image, batch.image[:1])


FAMILIES = [name for name in DETECTORS if name.rpartition("_")[0] not in DETECTORS]  # variants tile alike


@pytest.mark.parametrize(
    ("detector", "tiling"),
    [(name, "full=true") for name in FAMILIES]
    + [(name, "statistics=own") for name in ("padim", "stfpm", "patchcore", "fusion")],
)
def test_every_detector_learns_from_tiles_and_is_saved_with_them(images: ImageSet, detector: str, tiling: str):
    if tiling == "full=true" and detector in ("anomalydino", "efficientad"):
        tiling = "statistics=shared"
    cfg = configured(
        f"detector={detector}", "tiling=grid", "tiling.size=64", "tiling.overlap=16", f"tiling.{tiling}",
        "preset=smoke", "image_size=[96,128]", *SMALL.get(detector, []),
    )  # fmt: skip
    trained = fitted(cfg, images)
    heatmap, score = trained.predict_batch(images[[0, 1]])
    assert heatmap.shape == (2, 1, 96, 128) and score.shape == (2,)
    assert heatmap.isfinite().all() and (heatmap >= 0).all()
    fresh = build_model(cfg, weights="none")
    fresh.load_state_dict({k: v.clone() for k, v in trained.state_dict().items()})
    assert torch.equal(fresh.predict_batch(images[[0, 1]]).map, heatmap)


class Lit(Method):
    """Brightness, of which each picture says how much it has."""

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        if self.watched is not None:
            self.watched["light"] = image.amax((1, 2, 3))
        return image.mean(1, keepdim=True)


def test_evidence_is_that_of_the_tile_with_the_highest_place(images: ImageSet):
    batch = images[[0, 1]]
    batch.image.mul_(0.1)
    batch.image[0, :, 60, 80], batch.image[1, :, 5, 5] = 0.9, 0.8
    tiled = model(Lit(), Tiling(batch.image.shape[-2:], 40, 16))
    tiled.predict_batch(batch)
    assert [known["light"] for known in tiled.evidence] == pytest.approx([0.9, 0.8], abs=1e-4)


def test_what_lies_outside_the_region_has_no_part_in_the_balance_of_tiles_and_whole_images(images: ImageSet):
    """A lamp beside the product, in tiles a hundred times as high as in the whole image."""

    class Lamp(Method):
        def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
            lamp = torch.zeros_like(image[:, :1])
            lamp[..., -8:] = 100.0 * (image.shape[-1] < 128)
            return 1 + lamp

    tiling = Tiling((96, 128), 64, 16, statistics="own", full=True)
    balanced = model(Lamp(), tiling)
    balanced.region = torch.zeros(1, 1, 96, 128, dtype=torch.bool)
    balanced.region[..., 60:90] = True  # the first tile's lamp is at 56 to 64, the second one's at 104 to 112
    balanced.region[..., 60:64] = False
    balanced._fit_level(images)
    inside = balanced._tiled(images[[0]].image, None)[0] * balanced.region
    assert balanced.level[0] == pytest.approx(float(inside.amax()), rel=1e-3) and balanced.level[0] < 50


def test_what_tiles_cannot_do_is_refused():
    with pytest.raises(UserError, match=r"tiling\.overlap=40 px must be 0 to half of a tile, which has 64 px"):
        Tiling((128, 128), 64, 40)
    with pytest.raises(UserError, match=r"EfficientAD is calibrated on all tiles at once: .*statistics=shared"):
        build_model(configured("detector=efficientad", "tiling=grid_and_full"), weights="none")


def test_own_statistics_are_those_of_a_model_for_each_tile_alone(images: ImageSet):
    """And they are refused where they would not fit into memory, before all are made."""
    tiling = Tiling((96, 128), 64, 16, statistics="own")
    whole = model(PaDiM(small.backbone, levels=None, channels=6), tiling)
    whole.calibrate(loader(TileSet(images, tiling), 4))
    batch = images[[0]]
    for number in (0, 5):
        alone = small.fit(PaDiM(small.backbone, levels=None, channels=6), TileSet(images, tiling, [number]))
        seen = tiling.cut(batch.image, number)
        assert torch.equal(whole._of_slot(number).anomaly_map(seen), alone.anomaly_map(seen))
    few = model(PaDiM(small.backbone, levels=None), Tiling((96, 128), 64, 16, statistics="own", limit_mb=0.01))
    with pytest.raises(UserError, match=r"of each of 6 tiles would take .* use tiling\.statistics=shared"):
        few.calibrate(loader(TileSet(images, tiling), 4))


def test_a_letterbox_never_raises_an_alarm(tmp_path: Path):
    """A high map beyond the picture is neither seen nor smeared into it."""
    files = [write_image(tmp_path / f"{i}.png", i, size) for i, size in enumerate([(64, 64), (32, 64), (80, 20)])]
    images = ImageSet([Sample(file, OK) for file in files], (64, 96), resize="letterbox")
    batch = images[[0, 1, 2]]
    assert batch.inside is not None and batch.inside.flatten(1).sum(1).tolist() == [64 * 64, 48 * 96, 64 * 16]

    class Beyond(Method):
        def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
            return torch.where(inside, 1.0, 99.0)

    inside = batch.inside[:1]
    heatmap, score = Model(Beyond(), TestTimeAugmentation(), GaussianBlur(4.0), MaxScore()).predict_batch(images[[0]])
    torch.testing.assert_close(heatmap[inside], torch.ones(64 * 64), rtol=1e-5, atol=0)
    assert not heatmap[~inside].any() and float(score) == pytest.approx(1, abs=1e-5)
    assert (batch.image[0, :, :, :16] == batch.image[0, :, :, 16:17]).all()  # the border goes on
