"""What the configuration builds."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from anomalib_lite.conf_dir import conf_dir
from anomalib_lite.generators.histaugan import HistAuGAN
from anomalib_lite.generators.histaugan.losses import LossWeights
from anomalib_lite.generators.histaugan.module import Schedule
from anomalib_lite.generators.histaugan.networks import Architecture

DRAWING = ("count", "seed", "structure_guard")


def build(*overrides: str, verb: str = "generate") -> HistAuGAN:
    with initialize_config_dir(str(conf_dir()), version_base=None):
        cfg = compose(verb, ["generator=histaugan", *overrides])
        settings = OmegaConf.to_container(cfg.generator, resolve=True)
    assert isinstance(settings, dict)
    return instantiate({key: value for key, value in settings.items() if key not in DRAWING})


@pytest.mark.parametrize("verb", ["generate", "train"])
def test_the_paper_is_the_official_code(verb: str) -> None:
    gan = build("preset=paper", verb=verb)
    assert (gan.size, gan.crop, gan.flip) == ((256, 256), (216, 216), True)
    assert gan.architecture == Architecture()
    assert gan.losses == LossWeights()
    assert gan.schedule == Schedule()
    assert (gan.template_probability, gan.sampling) == (0.1, "random")


def test_fast_is_128_px_and_smoke_smaller() -> None:
    fast, smoke = build("preset=fast"), build("preset=smoke")
    assert fast.size == (128, 128)
    assert smoke.size[0] < 64 and smoke.schedule.epochs == 1


def test_options_reach_the_gan() -> None:
    gan = build(
        "preset=smoke", "generator.size=[64,96]", "generator.finetune=blockwise", "trainer.precision=bf16-mixed"
    )
    assert (gan.size, gan.finetune, gan.precision) == ((64, 96), "blockwise", "bf16-mixed")
