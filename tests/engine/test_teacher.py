"""The fine-tuned teacher: made once for what it is made from, whole or absent, and blind to test images."""

import json
import logging
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch import nn

from anomalib_lite.backbones.finetuning import Outcome, finetune
from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import OK, Sample, Splits
from anomalib_lite.data.splits import fingerprint
from anomalib_lite.engine import teacher
from anomalib_lite.engine.build import plain
from anomalib_lite.engine.teacher import finetuned_weights, read_teaching
from anomalib_lite.errors import UserError
from anomalib_lite.settings import conf_dir
from tests.made import write_image

QUICK = ["teacher.epochs=1", "teacher.head_epochs=0", "teacher.hidden=[8]", "teacher.batch_size=4"]
Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def composed(tiny):
    """The configuration of a choice of the group `teacher`, composed once."""

    def compose_once(choice: str) -> DictConfig:
        quick = [] if choice == "teacher=frozen" else QUICK
        with initialize_config_dir(str(conf_dir()), version_base=None):
            return compose("train", [*tiny, "backbone.layers=[1]", choice, *quick])

    return cache(compose_once)


@pytest.fixture
def configure(composed, tmp_path):
    def configure(choice: str, *changes: str) -> DictConfig:
        changed = OmegaConf.from_dotlist([f"paths.artifacts={tmp_path / 'artifacts'}", *changes])
        return OmegaConf.merge(composed(choice), changed)

    return configure


@pytest.fixture
def splits(configure):
    return instantiate(configure("teacher=frozen").data)


def made(cfg: DictConfig) -> set[str]:
    folder = Path(cfg.paths.artifacts)
    return {p.name for p in folder.iterdir()} if folder.is_dir() else set()


def weights(cfg: DictConfig, splits: Splits, ok: list[Sample] | None = None, generated: tuple[Sample, ...] = ()) -> str:
    asked = read_teaching(plain(cfg), (cfg.image_size, cfg.image_size))
    assert asked is not None
    learned = replace(splits, train=[*(splits.train if ok is None else ok), *generated])
    return str(finetuned_weights(asked, learned, fingerprint(splits), Path(cfg.paths.artifacts)))


@pytest.mark.parametrize("choice", ["finetuned", "finetuned_classifier"])
def test_the_detector_takes_the_file_and_the_run_goes_on_as_if_it_had_been_there(choice, configure, splits, caplog):
    """Made or found, the random state after it is the one before it."""
    cfg = configure(f"teacher={choice}")
    caplog.set_level(logging.INFO)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    path = weights(cfg, splits)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]
    assert "on held-out examples" in caplog.text and "fine-tuned earlier" not in caplog.text
    assert weights(cfg, splits) == path
    assert f"using a teacher fine-tuned earlier: {Path(path).parent}" in caplog.text

    own, frozen = instantiate(cfg.backbone, weights=path).net, instantiate(cfg.backbone).net.state_dict()
    file = load_file(path)
    assert own.state_dict().keys() == file.keys() == frozen.keys()
    assert all(torch.equal(v, file[k]) for k, v in own.state_dict().items())
    assert any(not torch.equal(v, frozen[k]) for k, v in file.items())


def test_what_was_measured_lies_beside_the_weights(configure, splits):
    cfg = configure("teacher=finetuned", "teacher.unfreeze=1", "teacher.epochs=2", "image_size=40")
    folder = Path(weights(cfg, splits)).parent
    record = json.loads((folder / "outcome.json").read_text())
    assert record["task"] == "CutPaste" and record["classes"] == ["normal", "cutpaste", "scar"]
    assert record["blocks"] == ["blocks.1.1"] and record["image_size"] == [40, 40]
    assert record["images"] + record["held_out_images"] == len(splits.train) and record["held_out_images"] == 1
    assert record["accuracy_by_chance"] == pytest.approx(1 / 3) and 0 <= record["accuracy_after"] <= 1
    header, *rows = (folder / "history.csv").read_text().splitlines()
    assert {"epoch", "train_loss", "val_accuracy", "learning_rate"} <= set(header.split(",")) and len(rows) == 2


def test_it_is_made_again_for_what_it_depends_on_and_for_nothing_else(configure, splits, monkeypatch, tmp_path):
    monkeypatch.setattr(teacher, "_make", lambda *_: None)
    golden = Sample(write_image(tmp_path / "golden.png", 7), OK, origin="template")
    drawn = Sample(write_image(tmp_path / "drawn.png", 8), OK, origin="generated", weight=0.5)
    heavier = [replace(s, weight=9.0) for s in splits.train]

    def key(*overrides: str, **given) -> str:
        return weights(configure(*overrides), splits, **given)

    plain = key("teacher=finetuned")
    same = [
        key("teacher=finetuned", "seed=1", "detector.epochs=9", "batch_size=7", "threads=2"),
        key("teacher=finetuned", ok=heavier),  # the mixture is the same
        key("teacher=finetuned", ok=[replace(s, template=golden.image) for s in splits.train]),
        key("teacher=finetuned", generated=(drawn,)),  # it learns from OK images alone
    ]
    assert set(same) == {plain}
    others = [
        key("teacher=finetuned", "teacher.seed=1"),
        key("teacher=finetuned", "teacher.unfreeze=1"),
        key("teacher=finetuned", "image_size=40"),
        key("teacher=finetuned", "backbone.layers=[1,2]"),
        key("teacher=finetuned", ok=[*splits.train, golden]),
        key("teacher=finetuned", ok=[*splits.train, replace(golden, weight=2.0)]),
        key("teacher=finetuned_classifier"),
        key("teacher=finetuned_classifier", generated=(drawn,)),
        key("teacher=finetuned_classifier", generated=(replace(drawn, weight=0.1),)),
    ]
    write_image(golden.image, 9)
    others.append(key("teacher=finetuned", ok=[*splits.train, golden]))
    for content in (b"one network", b"another"):
        (tmp_path / "own.pth").write_bytes(content)
        others.append(key("teacher=finetuned", f"backbone.weights={tmp_path / 'own.pth'}"))
    assert len({plain, *others}) == 1 + len(others)
    moved = shutil.copy(tmp_path / "own.pth", tmp_path / "moved.pth")
    assert key("teacher=finetuned", f"backbone.weights={moved}") == others[-1]
    unweighted = key("teacher=finetuned_classifier", generated=(replace(drawn, weight=0.0),))
    assert unweighted == key("teacher=finetuned_classifier")


def test_one_that_is_broken_off_leaves_nothing_and_is_made_anew(configure, splits, monkeypatch):
    cfg = configure("teacher=finetuned")

    def killed(net, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(teacher, "save_cut", killed)
        with pytest.raises(KeyboardInterrupt):
            weights(cfg, splits)
    assert not {name for name in made(cfg) if not name.endswith(".lock")}
    assert load_file(weights(cfg, splits))


def test_template_and_nok_images_take_part_with_their_weight_and_are_never_held_out(
    configure, splits, tmp_path, monkeypatch
):
    splits = splits.with_bits(12)
    bad = [write_image(tmp_path / f"bad/{i}.png", 50 + i, mark=True) for i in range(3)]
    golden = Sample(write_image(tmp_path / "golden.png", 7), OK, origin="template", weight=2.0)
    drawn = tuple(Sample(write_image(tmp_path / f"{i}.png", 60 + i), OK, origin="generated") for i in range(7))
    classifier = ["teacher=finetuned_classifier", f"teacher.nok={bad[0].parent}"]
    seen: list[list[Sample]] = []

    def noted(backbone: nn.Module, learned: ImageSet, tried: ImageSet, *_: object, **__: object) -> Outcome:
        seen[:] = [learned.samples, tried.samples]
        return finetune(backbone, learned, tried, *_, **__)

    monkeypatch.setattr(teacher, "finetune", noted)
    parts = []
    for seed in (0, 1):
        cfg = configure(*classifier, "teacher.held_out=0.3", f"teacher.seed={seed}")
        assert weights(cfg, splits, [*splits.train, golden], drawn)
        parts.append(seen[:])
    (train, held_out), (_, others) = parts
    weight = {s.image: s.weight for s in train}
    assert {s.bits for s in train if s.image in bad} == {12}
    assert [weight[path] / weight[golden.image] for path in bad] == [pytest.approx(10 / 2)] * 3
    assert {s.image for s in train + held_out} == {s.image for s in (*splits.train, golden, *drawn)} | set(bad)
    assert len(train) + len(held_out) == len(splits.train) + 1 + 7 + 3
    assert {s.label for s in held_out} == {0, 1} and len(held_out) == 4  # of 8 real and of 7 generated ones
    assert others != held_out


@pytest.mark.parametrize("copied", [False, True], ids=["by its path", "copied elsewhere"])
@pytest.mark.parametrize("kind", ["test", "OK training", "held-out OK"])
def test_nok_images_that_are_tested_on_or_ok_are_refused(kind, copied, configure, splits, tmp_path):
    image = {"test": splits.test, "OK training": splits.train, "held-out OK": splits.val}[kind][-1].image
    if copied:
        image = Path(shutil.copy(image, tmp_path / "renamed.png"))
    write_image(tmp_path / "bad.png", 50, mark=True)
    cfg = configure("teacher=finetuned_classifier", f"teacher.nok=[{image},{tmp_path / 'bad.png'}]")
    with pytest.raises(UserError, match=rf"1 of the 2 images of teacher\.nok are also {kind} images, .*{image}"):
        weights(cfg, splits)
    assert made(cfg) == set()


def test_nok_images_are_not_offered_to_self_supervision(configure):
    with pytest.raises(InstantiationException, match="CutPaste uses OK images only") as error:
        instantiate(configure("teacher=finetuned", "teacher.nok=bad").teacher)
    assert isinstance(error.value.__cause__, UserError)


def test_too_few_images_are_refused(configure, splits):
    with pytest.raises(UserError, match=r"2 images are too few to fine-tune a teacher\. Use teacher=frozen"):
        weights(configure("teacher=finetuned"), splits, ok=splits.train[:2])
