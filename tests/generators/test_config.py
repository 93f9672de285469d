"""What the configuration builds: by default what Python does, with preset=paper what the authors published."""

from dataclasses import asdict
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from anomalib_lite.generators.base import Generator
from anomalib_lite.generators.histaugan import HistAuGAN
from anomalib_lite.generators.singan import SinGAN
from anomalib_lite.generators.singan.pyramid import channels, pyramid_sizes
from anomalib_lite.settings import conf_dir

DRAWING = ("count", "seed", "structure_guard")


def build(name: str, *overrides: str, verb: str = "generate") -> Any:
    with initialize_config_dir(str(conf_dir()), version_base=None):
        settings = OmegaConf.to_container(compose(verb, [f"generator={name}", *overrides]).generator, resolve=True)
    assert isinstance(settings, dict)
    return instantiate({key: value for key, value in settings.items() if key not in DRAWING})


def values(settings: Any) -> list[Any]:
    return list(asdict(settings).values())[1:]  # less the name of the class


@pytest.mark.parametrize(("name", "kind"), [("histaugan", HistAuGAN), ("singan", SinGAN)])
def test_the_configuration_and_python_name_one_method(name: str, kind: type[Generator]) -> None:
    assert vars(build(name)) == vars(kind())


@pytest.mark.parametrize("verb", ["generate", "train"])
def test_the_papers_presets_are_the_official_codes(verb: str) -> None:
    gan = build("histaugan", "preset=paper", verb=verb)
    assert (gan.size, gan.crop, gan.flip) == ((256, 256), (216, 216), True)
    assert values(gan.architecture) == [64, 8, 4, 3, 64, 6, 0.02]
    assert values(gan.losses) == [1, 1, 5, 1, 10, 10, 0.01, 0.01, 10]
    assert values(gan.schedule) == [1200, 600, 2, 1e-4, 1.0, 0.4, 1e-4, 10]
    assert (gan.finetuning.epochs, gan.finetuning.discriminator_rate, gan.finetuning.content_rate) == (100, 1.0, 0.4)
    assert (gan.template_probability, gan.sampling) == (0.1, "random")

    singan = build("singan", "preset=paper", verb=verb)
    assert values(singan.schedule) == [2000, 3, 3, 5e-4, 0.5, 0.8, 0.1, 10.0]
    assert values(singan.shape) == [250, 25, 0.75, 32, 128, 0.1]
    sizes = pyramid_sizes(256, 256, singan.shape.factor, singan.shape.max_size, singan.shape.min_size)
    widths = [channels(n, singan.shape.width, singan.shape.max_width) for n in range(len(sizes))]
    assert widths == [32] * 4 + [64] * 4 + [128] * 2


def test_smoke_is_small_and_options_reach_the_gan() -> None:
    gan = build("histaugan", "preset=smoke", "generator.size=[64,96]", "generator.finetune=blockwise")
    assert (gan.size, gan.finetune, gan.schedule.epochs) == ((64, 96), "blockwise", 1)
    assert build("histaugan", "trainer.precision=bf16-mixed").precision == "bf16-mixed"


def test_what_changes_the_sampling_alone_needs_no_new_training() -> None:
    assert set(SinGAN.after_training) == {"start_scale", "stretch"}
    assert set(HistAuGAN.after_training) == {"sampling", "template_share"}
