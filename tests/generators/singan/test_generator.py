"""SinGAN behind the generators' contract, and its training: steps, schedule, noise, resuming, warm starts."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Fabric
from safetensors.torch import load_file

from anomalib_lite.data.decode import read_sample
from anomalib_lite.errors import UserError
from anomalib_lite.generators.singan import pyramid as module
from anomalib_lite.generators.singan.generator import ScaleTraining, spread
from anomalib_lite.generators.singan.pyramid import Pyramid, Scale, gradient_penalty, initialise, resize
from tests.generators.conftest import QUICK, SMALL, tiny_singan


def test_samples_are_images_of_the_pyramids_in_turn(trained, ok):
    samples = list(trained[0].sample(5, 0, ok))
    contents = [sample.content for sample in samples]
    assert contents[0] == contents[2] == contents[4] != contents[1] == contents[3]
    assert {(s.image.shape, s.origin) for s in samples} == {((32, 32, 3), "generated")}
    real, image = trained[0].pyramids[0].real, read_sample(ok[contents[0]])  # which was reduced once
    assert real.shape == (1, 3, 32, 32) and float(real.mean()) == pytest.approx(image.mean() / 127.5 - 1, abs=0.01)


def test_images_are_spread_over_the_set():
    for seed in range(20):
        assert [place // 25 for place in spread(100, 4, seed)] == [0, 1, 2, 3]
    assert len({tuple(spread(100, 4, seed)) for seed in range(20)}) > 10
    assert spread(3, 3, 0) == [0, 1, 2]


def test_bfloat16_trains_as_well_and_the_losses_reach_the_logger_with_rising_steps(ok, tmp_path):
    rows = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: rows.append((step, metrics)))
    singan = tiny_singan(precision="bf16-mixed")
    singan.fit(ok, None, tmp_path, 0, [logger])
    errors = json.loads((tmp_path / "singan.json").read_text())[0]["reconstruction_rmse"]
    assert len(errors) == 5 and max(errors) < 1
    assert next(singan.sample(1, 0, ok)).image.std() > 0
    assert [step for step, _ in rows] == [4, 8, 12, 16, 20]
    assert [row["singan image 1/1/scale"] for _, row in rows] == [0, 1, 2, 3, 4]
    names = {name.rsplit("/", 1)[1] for name in rows[0][1]}
    assert names == {"scale", "critic", "penalty", "adversarial", "reconstruction"}


def test_what_cannot_be_is_said_before_any_training(ok, tmp_path):
    impossible = {"generator.images": {"images": 11}, "0 to 4": {"start_scale": 5}, "not -1": {"start_scale": -1}}
    for message, changes in (impossible | {"min_size": {"shape": replace(SMALL, min_size=32)}}).items():
        with pytest.raises(UserError, match=message):
            tiny_singan(**changes).fit(ok, None, tmp_path, 0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="stretch must be two numbers"):
        tiny_singan(stretch=(1.0,))
    with pytest.raises(UserError, match=r"singan\.json"):
        tiny_singan().load(tmp_path)
    with pytest.raises(UserError, match="not been trained"):
        next(tiny_singan().sample(1, 0, ok))


def untrained(**schedule) -> ScaleTraining:
    draw = torch.Generator().manual_seed(1)
    real = torch.rand(1, 3, 16, 16, generator=draw) * 2 - 1
    noise = torch.randn(1, 1, 16, 16, generator=draw).repeat(1, 3, 1, 1)
    scale = Scale((16, 16), 4)
    initialise(scale, draw)
    settings, fabric = replace(QUICK, **schedule), Fabric(accelerator="cpu", devices=1)
    return ScaleTraining(scale, Pyramid(0, real, noise, [(16, 16)]), real, settings, draw, fabric)


def test_each_iteration_takes_the_steps_asked_for(monkeypatch):
    training, taken = untrained(critic_steps=3, generator_steps=2), []
    for name in ("_step_critic", "_step_generator"):
        monkeypatch.setattr(training, name, lambda *inputs, name=name: taken.append(name))
    training.step()
    assert taken == ["_step_critic"] * 3 + ["_step_generator"] * 2


def test_the_rate_is_a_tenth_after_four_fifths():
    training, rates = untrained(iterations=10), []
    for _ in range(10):
        rates.append([o.param_groups[0]["lr"] for o in training.optimizers])
        training.step()
    assert rates == [[5e-4] * 2] * 8 + [[pytest.approx(5e-5)] * 2] * 2


@pytest.mark.parametrize("generator_steps", [0, 1])
def test_a_critic_step_leaves_the_generator_alone(generator_steps):
    training = untrained(generator_steps=generator_steps)
    networks = training.generator, training.critic
    before = [[p.detach().clone() for p in network.parameters()] for network in networks]
    training.step()
    same = [all(map(torch.equal, old, network.parameters())) for old, network in zip(before, networks, strict=True)]
    assert same == [not generator_steps, False]
    assert all(parameter.requires_grad for parameter in training.critic.parameters())


def test_the_first_losses_are_those_of_the_untrained_networks():
    """Computed apart from the module, with its own draws repeated."""
    training = untrained(learning_rate=0.0)
    repeated = torch.Generator()
    repeated.set_state(training._draw.get_state())
    generator, critic, real = training.generator, training.critic, training.real
    noise = torch.randn(1, 1, 16, 16, generator=repeated).repeat(1, 3, 1, 1)
    share = torch.rand((), generator=repeated)
    fake = generator.body(torch.nn.functional.pad(noise, [5] * 4))
    known = generator(training._below.fixed_noise, torch.zeros_like(real))
    expected = {
        "critic": (critic(fake).mean() - critic(real).mean()).item(),
        "penalty": gradient_penalty(critic, real, fake.detach(), share).item(),
        "adversarial": -critic(fake).mean().item(),
        "reconstruction": ((known - real) ** 2).mean().item(),
    }
    training.step()
    assert training.losses == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_more_iterations_remember_the_image_better():
    training = untrained(iterations=40, learning_rate=5e-3, reconstruction=100.0)  # the critic hardly matters
    errors = []
    for _ in range(41):
        training.step()
        errors.append(training.losses["reconstruction"])
    assert errors[-1] < 0.8 * errors[0]


def test_finer_scales_get_noise_by_what_the_coarser_ones_leave_open(pyramid):
    real, fixed = pyramid.real, pyramid.fixed_noise
    assert pyramid.scales[0].amplitude == 1
    for number, scale in enumerate(pyramid.scales[1:], 1):
        left = resize(pyramid.reconstruct(number)[-1], scale.size) - resize(real, scale.size)
        assert scale.amplitude == pytest.approx(0.1 * math.sqrt(float((left**2).mean())), rel=1e-5)
    assert torch.equal(fixed[:, 0], fixed[:, 2]) and float(fixed.std()) == pytest.approx(1, abs=0.15)


def test_a_killed_training_goes_on_at_its_scale_and_ends_the_same_to_the_bit(trained, ok, tmp_path, monkeypatch):
    def killed(self: ScaleTraining) -> None:
        if len(self._below.scales) == 2 and self.losses:
            raise RuntimeError("killed")
        step(self)

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in kept or tmp_path.rglob("*scale*")}

    step, kept = ScaleTraining.step, {}
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(ScaleTraining, "step", killed)
        tiny_singan(images=2).fit(ok, None, tmp_path, seed=7)
    kept = times()
    assert sorted(path.name for path in kept) == ["scale-00.safetensors", "scale-01.safetensors"]
    tiny_singan(images=2).fit(ok, None, tmp_path, seed=7)
    assert times() == kept
    folders = trained[1], tmp_path
    theirs, ours = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*.safetensors")} for f in folders)
    assert len(ours) == 12 and ours == theirs
    tiny_singan(images=1).fit(ok, None, tmp_path, seed=8)  # another training takes nothing over
    assert all(times()[path] > time for path, time in kept.items())


def test_a_scale_of_the_same_width_begins_where_the_one_below_ended(ok, tmp_path, monkeypatch):
    still, files = replace(QUICK, iterations=1, learning_rate=0.0), []
    for wider in (0, 4):
        monkeypatch.setattr(module, "channels", lambda scale, least, most, wider=wider: 4 + wider * scale)
        tiny_singan(schedule=still).fit(ok, None, tmp_path / str(wider), 0)
        scales = sorted((tmp_path / str(wider)).glob("image-00/scale-*"))
        files.append([load_file(path) for path in scales[:2]])
    for name in ("generator.body.0.0.weight", "critic.body.4.weight"):
        assert torch.equal(files[0][0][name], files[0][1][name])
    assert [len(file["generator.body.0.0.bias"]) for file in files[1]] == [4, 8]
