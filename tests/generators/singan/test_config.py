"""The configuration group and its presets."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from anomalib_lite.conf_dir import conf_dir
from anomalib_lite.generators.singan import Schedule, Shape, SinGAN
from anomalib_lite.generators.singan.pyramid import channels, pyramid_sizes


def configured(verb: str, *overrides: str) -> SinGAN:
    with initialize_config_dir(str(conf_dir()), version_base=None):
        settings = OmegaConf.to_container(compose(verb, ["generator=singan", *overrides]).generator, resolve=True)
    return instantiate(
        {key: value for key, value in settings.items() if key not in ("count", "seed", "structure_guard")}
    )


@pytest.mark.parametrize("verb", ["generate", "train"])
def test_the_paper_preset_has_the_authors_numbers(verb):
    singan = configured(verb, "preset=paper")
    assert singan.schedule == Schedule(2000, 3, 3, 5e-4, 0.5, 0.8, 0.1, 10.0)
    assert singan.shape == Shape(0.75, 250, 25, 32, 128, 0.1)
    sizes = pyramid_sizes(256, 256, singan.shape.factor, singan.shape.max_size, singan.shape.min_size)
    widths = [channels(n, singan.shape.width, singan.shape.max_width) for n in range(len(sizes))]
    assert widths == [32] * 4 + [64] * 4 + [128] * 2


def test_the_fast_preset_ends_at_128_px():
    singan = configured("generate")
    assert singan.shape.max_size == 128
    assert singan.images == 1


def test_the_smoke_preset_trains_and_samples(ok, tmp_path):
    singan = configured("generate", "preset=smoke", "generator.images=2")
    singan.fit(ok, None, tmp_path, 0)
    (sample,) = singan.sample(1, 0, ok)
    assert sample.image.shape == (32, 32, 3)


def test_options_of_the_sampling_alone_need_no_new_training():
    assert set(SinGAN.after_training) == {"start_scale", "stretch"}
