"""The detectors as their configurations make them: each fits, predicts and comes back from plain tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file

from anomalib_lite.conf_dir import conf_dir
from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.detectors.model import Model
from anomalib_lite.engine.build import build_model
from tests.made import write_image

PUBLISHED = ["padim", "patchcore", "reverse_distillation"]
DETECTORS = ["fusion", *PUBLISHED]
BACKBONES = ["efficientnet_lite0", "resnet18"]
SIZE = (64, 96)


def configured(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", [*overrides, "scoring.blur.sigma=1.5", "seed=3"])


def built(cfg: DictConfig) -> Model:
    torch.manual_seed(0)
    return build_model(cfg, weights="none")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("images")
    return ImageSet([Sample(write_image(folder / f"{i}.png", i, SIZE), OK) for i in range(6)], SIZE)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_the_configured_detector_fits_and_is_saved_as_tensors(
    images: ImageSet, detector: str, backbone: str, tmp_path: Path
):
    cfg = configured(f"detector={detector}", f"backbone={backbone}", "tta=flips")
    model = built(cfg)
    model.prepare(loader(images, 4))
    model.calibrate(loader(images, 4))
    map, score = model.predict_batch(images[[0, 1]])
    assert map.shape == (2, 1, *SIZE) and (map >= 0).all() and map.isfinite().all() and score.shape == (2,)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    fresh = build_model(cfg, weights="none")
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(fresh.predict_batch(images[[0, 1]]).map, map)


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
    assert cfg.epochs == epochs and bool(cfg.get("whitening")) == whitened and bool(cfg.gaussian) == gaussian
    assert configured(f"detector={choice}", "preset=smoke").detector.epochs == 1


@pytest.mark.parametrize("detector", PUBLISHED)
def test_the_papers_preset_is_the_papers(detector: str):
    cfg = configured(f"detector={detector}", "preset=paper")
    model, size = built(cfg).method, cfg.image_size
    assert (type(model).__name__, size, cfg.detector.get("seed", 3)) in {
        ("PaDiM", 224, 3), ("PatchCore", 224, 3), ("ReverseDistillation", 256, 3),
    }  # fmt: skip
    if detector == "padim":
        assert (len(model.kept), model.stride, model.levels) == (100, 4, [0, 1, 2])
    elif detector == "patchcore":
        assert (model.size, model.reweight, model.whitening) == (0.1, 9, None)
    else:
        assert (model.epochs, model.scheduler, model.optimizer.keywords["lr"]) == (200, None, 5e-3)
