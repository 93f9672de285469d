"""What a training step sees, the generators' contract, fine-tuning, and what goes on after a kill."""

import filecmp
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anomalib_lite.data.decode import read_sample
from anomalib_lite.data.sample import Sample
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import LossLog
from anomalib_lite.generators.histaugan import HistAuGAN
from anomalib_lite.generators.histaugan.generator import Draw, Draws, Images
from tests.generators.conftest import SHORT, Build

WEIGHTS = "histaugan.safetensors"
SIZES = {"size": (40, 40), "crop": (32, 32), "flip": True}


def test_the_template_comes_with_its_probability(ok: list[Sample], template: Sample) -> None:
    draws = list(Draws(Images([ok, [template]], **SIZES), 20_000, 4, seed=0, template_probability=0.1))
    assert np.mean([draw.domain for draw in draws]) == pytest.approx(0.1, abs=0.01)
    assert {draw.image for draw in draws if draw.domain == 1} == {len(ok)}
    assert {draw.image for draw in draws if draw.domain == 0} == set(range(len(ok)))


def test_an_epoch_shows_every_image_in_whole_batches_and_depends_on_seed_and_epoch_alone(ok: list[Sample]) -> None:
    images = Images([ok], **SIZES)
    first, second, other = Draws(images, 10, 4, 0), Draws(images, 10, 4, 0), Draws(images, 10, 4, 1)
    assert len(first) == len(list(first)) == 12
    assert sorted(draw.image for draw in list(first)[:10]) == list(range(10))
    first.set_epoch(3)
    second.set_epoch(3)
    assert list(first) == list(second) != list(other)
    second.set_epoch(4)
    assert list(first) != list(second)


def test_a_crop_is_cut_and_mirrored_and_jitter_changes_colour_alone(ok: list[Sample], template: Sample) -> None:
    cut, domain = Images([ok], **SIZES)[Draw(2, 0, 5, 8, True, (1.5, 1.5, 1.5))]
    expected = read_sample(ok[2])[5:37, 8:40][:, ::-1].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(cut, expected, atol=1e-6)
    assert domain == 0
    images = Images([[template]], **SIZES, jitter=True)
    plain, brighter = (images[Draw(0, 0, 0, 0, False, (b, 1.0, 1.0))][0] for b in (1.0, 0.8))
    torch.testing.assert_close(brighter, 0.8 * plain)


def loaded(build: Build, folder: Path, **options: object) -> HistAuGAN:
    gan = build(**options)
    gan.load(folder)
    return gan


def test_every_ok_image_gives_its_content_once_before_any_twice(
    build: Build, one_domain: Path, ok: list[Sample]
) -> None:
    made = list(loaded(build, one_domain).sample(20, 0, ok))
    contents = [one.content for one in made]
    assert sorted(contents[:10]) == sorted(contents[10:]) == list(range(10))
    assert contents[:10] != contents[10:]
    assert {one.origin for one in made} == {"generated"}


def test_the_template_has_its_domain_and_its_share(ok: list[Sample], build: Build, two_domains: Path) -> None:
    origins = [one.origin for one in loaded(build, two_domains, template_share=0.5).sample(40, 0, ok)]
    assert 10 < origins.count("template_generated") < 30
    assert set(origins) == {"generated", "template_generated"}
    assert {one.origin for one in loaded(build, two_domains, template_share=0.0).sample(5, 0, ok)} == {"generated"}


def test_statistics_are_those_of_the_encoded_images(build: Build, two_domains: Path) -> None:
    tensors = load_file(two_domains / WEIGHTS)
    for domain in (0, 1):
        codes = tensors[f"encoded.{domain}"]
        assert len(codes) >= 64
        torch.testing.assert_close(tensors["attribute_mean"][domain], codes.mean(dim=0))
        torch.testing.assert_close(tensors["attribute_std"][domain], codes.std(dim=0))
    assert (tensors["attribute_std"] > 0).all()  # of one template too: its crops differ


def test_attributes_come_from_where_sampling_says(build: Build, one_domain: Path, ok: list[Sample]) -> None:
    made = [next(loaded(build, one_domain, sampling=how).sample(1, 0, ok)) for how in ("random", "statistics")]
    assert not np.array_equal(made[0].image, made[1].image)
    gan = loaded(build, one_domain, sampling="encoded")
    one = next(gan.sample(1, 0, ok))
    codes, content = load_file(one_domain / WEIGHTS)["encoded.0"], read_sample(ok[one.content])
    assert any(np.array_equal(gan.translate(content, z, 0), one.image) for z in codes)


def test_restyle_changes_a_share_and_keeps_the_rest(build: Build, two_domains: Path) -> None:
    gan, image = loaded(build, two_domains), torch.rand(200, 3, 18, 22)
    torch.manual_seed(0)
    made = gan.restyle(image, 0.5)
    changed = (made != image).any(dim=(1, 2, 3))
    assert made.shape == image.shape and made.min() >= 0 and made.max() <= 1
    assert 70 < changed.sum() < 130
    torch.manual_seed(0)
    assert torch.equal(made, gan.restyle(image, 0.5))
    assert torch.equal(gan.restyle(image, 0.0), image)
    assert (gan.restyle(image[:5], 1.0) != image[:5]).any(dim=(1, 2, 3)).all()


class KillAtTheSecondEpoch(LossLog):
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        if metrics["epoch"] == 1:
            raise InterruptedError


@pytest.mark.parametrize("golden", [False, True])
def test_a_killed_training_ends_as_an_unbroken_one(golden, build, ok, template, tmp_path, one_domain, two_domains):
    options, golden_image = ({"template_probability": 0.4}, template) if golden else ({}, None)
    with pytest.raises(InterruptedError):
        build(**options).fit(ok, golden_image, tmp_path, 3, [KillAtTheSecondEpoch(tmp_path / "losses.jsonl")])
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file() and not (tmp_path / WEIGHTS).exists()
    build(**options).fit(ok, golden_image, tmp_path, 3)
    assert filecmp.cmp((two_domains if golden else one_domain) / WEIGHTS, tmp_path / WEIGHTS, shallow=False)


def test_a_planted_checkpoint_is_refused_and_a_torn_one_begins_anew(build, ok, tmp_path, one_domain, capsys):
    last, mark = tmp_path / "checkpoints/last.ckpt", str(tmp_path / "mark")
    last.parent.mkdir()
    planted = type("Planted", (), {"__reduce__": lambda self: (os.mkdir, (mark,))})()  # makes a folder when it is read
    torch.save({"state_dict": planted}, last)
    with pytest.raises(UserError, match="contains code"):
        build().fit(ok, None, tmp_path, 3)
    assert not (tmp_path / "mark").exists()
    last.write_bytes(last.read_bytes()[:40])
    build().fit(ok, None, tmp_path, 3)
    assert filecmp.cmp(one_domain / WEIGHTS, tmp_path / WEIGHTS, shallow=False)
    assert capsys.readouterr().out == "", "results alone go to stdout"


@pytest.mark.parametrize("how", ["standard", "blockwise"])
def test_finetuning_starts_from_a_finished_gan_or_trains_one(how, build, ok, template, tmp_path, one_domain):
    gan = build(finetune=how, **({"start_from": str(one_domain)} if how == "blockwise" else {"finetuning": SHORT}))
    gan.fit(ok, template, tmp_path, seed=3)
    if how == "standard":
        assert filecmp.cmp(one_domain / WEIGHTS, tmp_path / "base" / WEIGHTS, shallow=False)
    before, after = load_file(one_domain / WEIGHTS), load_file(tmp_path / WEIGHTS)
    for name in ("decoder.colours.0.weight", "attribute_mean"):
        assert not torch.equal(before[name], after[name])
    made = list(gan.sample(2, 0, ok))
    assert {one.origin for one in made} == {"template_generated"} and all(0 <= one.content < 10 for one in made)


def test_errors_say_what_to_do(
    build: Build, ok: list[Sample], template: Sample, tmp_path: Path, two_domains: Path
) -> None:
    for crop, words in ((30, "multiple of 4"), (44, "fit in the images")):
        with pytest.raises(UserError, match=words):
            build(crop=crop)
    with pytest.raises(UserError, match="needs a template"):
        build(finetune="standard").fit(ok, None, tmp_path, 0)
    with pytest.raises(UserError, match="there are none"):
        build().fit([], None, tmp_path, 0)
    with pytest.raises(UserError, match="holds no finished HistAuGAN"):
        build().load(tmp_path)
    with pytest.raises(UserError, match="one domain"):
        build(finetune="standard", start_from=two_domains).fit(ok, template, tmp_path, 0)
    with pytest.raises(UserError, match="trained or loaded"):
        next(build().sample(1, 0, ok))
