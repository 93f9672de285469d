"""Every detector as its configuration makes it keeps the contract of a method."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from lightning import Trainer
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file

from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.detectors.model import Model
from anomalib_lite.engine.build import build_model
from anomalib_lite.errors import UserError
from anomalib_lite.settings import conf_dir
from anomalib_lite.settings.fields import check
from tests.made import write_image

DETECTORS = sorted(path.stem for path in (conf_dir() / "detector").glob("*.yaml"))
SIZE = (64, 96)
SMALL = {  # where trying several candidates, or hundreds of defects, would take long
    **{name: ["detector.gaussian.choose=levels"] for name in ("stfpm", "stfpm_gaussian", "reverse_distillation")},
    **{name: ["detector.drawn=[8,8]"] for name in ("fusion", "fusion_template")},
}


def configured(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", [*overrides, "scoring.blur.sigma=1.5", "seed=3"])


def built(cfg: DictConfig) -> Model:
    torch.manual_seed(0)
    return build_model(cfg, weights="none")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("images")
    files = [write_image(folder / f"{i}.png", i, SIZE) for i in range(6)]
    return ImageSet([Sample(file, OK, template=files[0]) for file in files], SIZE)


def fitted(cfg: DictConfig, images: ImageSet) -> Model:
    """Prepared, trained for one step where it trains, and calibrated, as the engine does it."""
    model = built(cfg)
    images = model.method_inputs(images)
    model.prepare(loader(images, 6))
    if model.method.epochs:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(accelerator="cpu", max_steps=1, enable_model_summary=False, **quiet)
        trainer.fit(model, loader(images, 6, shuffle_seed=0))
    model.calibrate(loader(images, 6))
    return model


WHITENED = "detector.whitening={_target_:anomalib_lite.detectors.statistics.Whitening,_partial_:true,shrinkage:0.01}"


@pytest.mark.parametrize(
    ("detector", "options"),
    [
        *((detector, ()) for detector in DETECTORS),
        ("patchcore", ("detector.reweight=9", WHITENED)), ("patchcore", ("detector.density=9", "detector.bank=1.0")),
    ],
)  # fmt: skip
def test_every_detector_keeps_the_contract(images: ImageSet, detector: str, options: tuple[str, ...], tmp_path: Path):
    """In two views: maps of the images' size, not negative; an image is judged alike alone and among others; the
    backbone stays as it is; plain tensors bring back the same model; the same seed makes the same one anew.
    """
    views, small = "tta.views=[{},{flip:horizontal}]", SMALL.get(detector, [])
    cfg = configured(f"detector={detector}", "preset=smoke", "image_size=64", views, *small, *options)
    model = fitted(cfg, images)
    assert len(model.views.views) == 2
    assert model.method.needs_template == ("template" in detector)
    heatmap, score = model.predict_batch(images[[0, 1, 2]])
    assert heatmap.shape == (3, 1, *SIZE) and heatmap.dtype == torch.float32 and score.shape == (3,)
    assert heatmap.isfinite().all() and (heatmap >= 0).all() and score.isfinite().all()
    alone = model.predict_batch(images[[1]])
    torch.testing.assert_close(alone.map[0], heatmap[1], rtol=1e-3, atol=1e-3 * float(heatmap.max()))
    untouched, kept = built(cfg).state_dict(), model.state_dict()
    looked_through = [k for k in kept if k.split(".")[1] in ("backbone", "teacher", "looker")]
    assert bool(looked_through) == (detector != "template_pixels")
    assert all(torch.equal(kept[k], untouched[k]) for k in looked_through)
    save_file({k: v.contiguous() for k, v in kept.items()}, tmp_path / "model.safetensors")
    fresh = build_model(cfg, weights="none")
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(fresh.predict_batch(images[[0, 1, 2]]).map, heatmap)
    assert torch.equal(fitted(cfg, images).predict_batch(images[[0, 1, 2]]).map, heatmap)
    if not model.method.epochs:
        batch = images[[0, 1, 2]]
        batch.image[0, :, 20:44, 32:64] = torch.tensor([0.9, 0.1, 0.9]).view(3, 1, 1)
        _, score = model.predict_batch(batch)
        assert score[0] > score[1:].max()


VIT_TOO = ["anomalydino", "superadd", "subspace", "patchcore_local", "dinomaly", "efficientad", "simplenet"]


@pytest.mark.parametrize("detector", VIT_TOO)
def test_an_untrained_transformer_serves_as_well(images: ImageSet, detector: str):
    vit = ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.layers=[5,8,11]"]
    model = fitted(configured(f"detector={detector}", "preset=smoke", "image_size=64", *vit), images)
    batch = images[[0, 1]]
    batch.image[1] = 1 - batch.image[1]
    heatmap, score = model.predict_batch(batch)
    assert heatmap.shape == (2, 1, *SIZE) and heatmap.isfinite().all() and (heatmap >= 0).all() and heatmap.std() > 0
    assert score.isfinite().all()


@pytest.mark.parametrize(
    ("choice", "epochs", "whitened", "gaussian"),
    [
        ("stfpm", 100, False, False), ("stfpm_plain", 100, False, False), ("stfpm_whitened", 100, True, False),
        ("stfpm_gaussian", 100, False, True), ("reverse_distillation", 200, False, False),
        ("reverse_distillation_plain", 200, False, False),
    ],
)  # fmt: skip
def test_a_variant_inherits_its_familys_preset(choice: str, epochs: int, whitened: bool, gaussian: bool):
    cfg = configured(f"detector={choice}", "preset=paper").detector
    assert (cfg.epochs, bool(cfg.get("whitening")), bool(cfg.gaussian)) == (epochs, whitened, gaussian)
    assert configured(f"detector={choice}", "preset=smoke").detector.epochs == 1


@pytest.mark.parametrize(
    ("detector", "size", "settings"),
    [
        ("padim", 224, {"stride": 4, "levels": [0, 1, 2]}),
        ("patchcore", 224, {"size": 0.1, "reweight": 9, "whitening": None, "seed": 3}),
        ("reverse_distillation", 256, {"epochs": 200, "scheduler": None, "gaussian": None}),
    ],
)
def test_the_papers_preset_is_the_papers(detector: str, size: int, settings: dict):
    cfg = configured(f"detector={detector}", "preset=paper")
    method = built(cfg).method
    assert cfg.image_size == size and {name: getattr(method, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("detector", "setting", "wanted"),
    [
        *(("patchcore", f"bank={bank}", "a number of patches, or a share of them") for bank in (0, 1.5)),
        ("patchcore", "coreset=kmeans", "one of greedy, random, thinned"),
        *(("padim", f"shrinkage={share}", "auto or from 0 to 1") for share in (2, "automatic")),
        ("stfpm", "gaussian.candidates.joint.shrinkage=2.0", "auto or from 0 to 1"),
        ("stfpm", "gaussian.candidates.joint.fusion=mean", "one of product, sum"),
        ("template", "normal.scope=pixel", "one of position, global, none"),
    ],
)
def test_senseless_settings_are_refused(detector: str, setting: str, wanted: str):
    with pytest.raises(UserError, match=rf"detector\.{setting.split('=')[0]} must be {wanted}"):
        check(configured(f"detector={detector}", f"detector.{setting}"))


OWN = "{_target_:anomalib_lite.detectors.residual.ResidualModel,groups:[[0]],fusion:mean}"


@pytest.mark.parametrize(
    ("detector", "setting", "wanted"),
    [
        ("fusion_template", "detector.compare.normal.scope=pixel", "one of position, global, none"),
        ("fusion_template", "detector.compare.pixel_blur.sigma=-1", "0 or more"),
        ("stfpm", f"+detector.gaussian.candidates.own={OWN}", "product or sum"),
    ],
)
def test_so_are_those_that_no_schema_knows(detector: str, setting: str, wanted: str):
    with pytest.raises((UserError, InstantiationException), match=wanted):
        built(configured(f"detector={detector}", setting))


@pytest.mark.parametrize("setting", ["shrinkage=0", "shrinkage=1", "shrinkage=0.5", "shrinkage=auto"])
def test_a_share_may_be_written_as_help_does(setting: str):
    check(configured("detector=padim", f"detector.{setting}"))
