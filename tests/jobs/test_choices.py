"""Modes, augmentation and test-time augmentation as a user combines them; senseless combinations are refused."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kornia.augmentation import RandomHorizontalFlip
from omegaconf import OmegaConf
from torch import nn

from anomalib_lite.augment.transforms import Augment
from anomalib_lite.augment.tta import TestTimeAugmentation
from anomalib_lite.data.decode import read_image
from anomalib_lite.detectors.model import Method, Model
from anomalib_lite.engine import build
from anomalib_lite.errors import UserError
from anomalib_lite.settings.training import Mode
from tests.commands import Command, Outcome, read_json, scores
from tests.generators.tiny import TRAININGS


def train(run_verb: Command, folder: Path, *overrides: str) -> Outcome:
    done = run_verb("train", *overrides, f"paths.runs={folder}/runs", f"paths.artifacts={folder}/artifacts")
    assert done.status == 0, done.err
    return done


def run_of(folder: Path, part: str) -> Path:
    (run,) = (folder / "runs" / "default").glob(f"*{part}*")
    return run


@pytest.fixture(scope="module")
def template(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / "golden.png"
    shutil.copy(sorted((tiny_set / "train/good").glob("*.png"))[1], path)  # the first one is held out
    return path


def test_views_are_calibrated_anew_but_nothing_is_trained_again(run_verb: Command, tiny: list[str], tmp_path: Path):
    """A sweep over augmentation and views trains once for each augmentation."""
    train(run_verb, tmp_path, "-m", *tiny, "augment=none,flips", "tta=none,flips,flips_color")
    assert len(list((tmp_path / "artifacts").glob("trained-*"))) == 2
    runs = list((tmp_path / "runs/default").iterdir())
    assert len([r for r in runs if r.is_dir() and not r.name.startswith(".")]) == 6
    plain, flips = (run_of(tmp_path, f"efficientnet_lite0-{part}") for part in ("s0", "tta_flips-"))
    assert read_json(plain / "metrics.json")["threshold"] != read_json(flips / "metrics.json")["threshold"]
    assert (flips / "history.csv").read_text() == (plain / "history.csv").read_text()
    augmented = run_of(tmp_path, "lite0-augment_flips-s0")
    assert (augmented / "history.csv").read_text() != (plain / "history.csv").read_text()


def test_views_are_the_same_in_training_evaluate_and_predict(
    run_verb: Command, tiny: list[str], tiny_set: Path, template: Path, tmp_path: Path
):
    train(run_verb, tmp_path, *tiny, "tta=flips_color", "mode=template", f"data.template={template}")
    run = run_of(tmp_path, "mode_template")
    own = scores(run / "predictions.csv")
    assert run_verb("evaluate", f"run={run}", "tracking.kind=none").status == 0
    assert scores(run / "evaluation-own/predictions.csv") == own
    assert read_json(run / "evaluation-own" / "metrics.json") == read_json(run / "metrics.json")
    done = run_verb("predict", f"run={run}", f"images='{tiny_set}/test/*/*.png'", f"output={tmp_path}/out")
    assert done.status == 0, done.err
    assert scores(tmp_path / "out/predictions.csv") == pytest.approx(own, rel=1e-6)


def test_the_template_in_the_ok_images_colours_lies_in_the_run(
    run_verb: Command, tiny: list[str], tiny_set: Path, template: Path, tmp_path: Path
):
    dark = tmp_path / "dark.png"
    import cv2

    cv2.imwrite(str(dark), (cv2.imread(str(template)) * 0.4).astype(np.uint8))
    train(run_verb, tmp_path, *tiny, "mode=template", f"data.template={dark}")
    matched = read_image(run_of(tmp_path, "mode_template") / "template.png").mean()
    ok = np.mean([read_image(p).mean() for p in (tiny_set / "train/good").glob("*.png")])
    assert abs(matched - ok) < 0.1 * ok < abs(read_image(dark).mean() - ok)


def test_the_template_takes_part_in_the_training_and_is_hidden_without_its_mode(
    run_verb: Command, tiny: list[str], template: Path, tmp_path: Path
):
    for mode in ("no_template", "template"):
        train(run_verb, tmp_path / mode, *tiny, f"mode={mode}", f"data.template={template}")
    without, with_it = (run_of(tmp_path / mode, "stfpm") for mode in ("no_template", "template"))
    assert (without / "history.csv").read_text() != (with_it / "history.csv").read_text()
    assert not (without / "template.png").exists()


def test_template_mode_without_a_template_says_what_is_missing(run_verb: Command, tiny: list[str], tmp_path: Path):
    done = run_verb("train", *tiny, "mode=template", f"paths.artifacts={tmp_path}/artifacts")
    assert done.status == 2 and "data.template=FILE" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("held_back", ["train/good/000.png", "test/good/000.png"], ids=["held out", "test"])
def test_a_template_that_is_held_out_or_tested_on_is_refused(
    run_verb: Command, tiny: list[str], tiny_set: Path, tmp_path: Path, held_back: str
):
    copy = shutil.copy(tiny_set / held_back, tmp_path / "golden.png")
    done = run_verb("train", *tiny, "mode=template", f"data.template={copy}", f"paths.artifacts={tmp_path}/artifacts")
    assert done.status == 2 and "learns from it" in done.err and "Traceback" not in done.err
    assert not list((tmp_path / "artifacts").glob("trained-*"))


def test_generated_images_train_by_their_weight_and_a_sweep_trains_their_generator_once(
    run_verb: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """At weight 0 the training is the one without them, to the byte."""
    record = tmp_path / "trainings.txt"
    monkeypatch.setenv(TRAININGS, str(record))
    made = ["generator._target_=tests.generators.tiny.Recolour", "generator.structure_guard.enabled=false"]
    train(run_verb, tmp_path, "-m", *tiny, *made, "generator.count=6", "mode.generated=0,0.1,1")
    train(run_verb, tmp_path, *tiny, *made, "generator.count=6", "mode.generated=0.1", "seed=1")
    train(run_verb, tmp_path, *tiny)
    assert len(record.read_text().splitlines()) == 1, "one generator for all weights and seeds"
    histories: dict[tuple, set[str]] = {}
    for run in (tmp_path / "runs/default").glob("*-s0-*"):
        cfg = OmegaConf.load(run / "config.yaml")
        histories.setdefault(cfg.mode.generated, set()).add((run / "history.csv").read_text())
    (without,) = histories.pop(None) | histories.pop(0)
    assert len({*histories[0.1], *histories[1], without}) == 3


def test_a_trained_gan_changes_the_looks_of_training_images(run_verb: Command, tiny: list[str], tmp_path: Path):
    gan = [*tiny, "generator=histaugan", "mode.generated=0"]
    train(run_verb, tmp_path, *gan, "augment=histaugan")
    train(run_verb, tmp_path, *gan, "augment=none")
    changed, plain = run_of(tmp_path, "augment_histaugan"), run_of(tmp_path, "lite0-generator_histaugan")
    assert (changed / "history.csv").read_text() != (plain / "history.csv").read_text()
    assert len(list((tmp_path / "artifacts").glob("generator-*"))) == 1
    assert not list((tmp_path / "artifacts").glob("generated-*")) and not (changed / "generated").exists()


class Untrained(Method):
    epochs = 0


class Comparing(Untrained):
    needs_template = True


class Trained(Method):
    epochs = 1


FLIPS = Augment([RandomHorizontalFlip()])
CUTPASTE, CLASSIFIER = (SimpleNamespace(task=SimpleNamespace(wants_generated=wanted)) for wanted in (False, True))
GAN, RESTYLING = SimpleNamespace(), SimpleNamespace(restyle=None, size=48)


def check(kind: type[Method], augment: Augment | None = None, mode: str = "no_template", **given: Any) -> None:
    model = Model(kind(), TestTimeAugmentation(), nn.Identity(), nn.Identity(), augment)
    parts = {"finetuning": None, "generator": None, "restyles": False} | given
    build._check_choices(model, Mode(mode), **parts, size=(48, 48))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"kind": Comparing}, "mode=template"),
        ({"kind": Untrained, "augment": FLIPS}, "augment=none"),
        ({"kind": Untrained, "generator": GAN}, "has no training"),
        ({"kind": Untrained, "generator": GAN, "finetuning": CUTPASTE}, "teacher=finetuned_classifier"),
        ({"kind": Untrained, "mode": "template"}, "changes nothing here"),
        ({"kind": Trained, "restyles": True}, "Add generator=histaugan"),
        ({"kind": Trained, "restyles": True, "generator": GAN}, "generator=histaugan"),
        ({"kind": Trained, "restyles": True, "generator": SimpleNamespace(restyle=None, size=64)}, "generator.size=48"),
    ],
)
def test_senseless_combinations_are_refused_with_the_reason(parts: dict[str, Any], reason: str):
    with pytest.raises(UserError, match=reason):
        check(**parts)


@pytest.mark.parametrize(
    "parts",
    [
        {"kind": Trained, "augment": FLIPS},
        {"kind": Trained, "mode": "template", "generator": GAN, "finetuning": CUTPASTE},
        {"kind": Trained, "restyles": True, "generator": RESTYLING},
        {"kind": Comparing, "mode": "template"},
        {"kind": Untrained, "mode": "template", "finetuning": CUTPASTE},
        {"kind": Untrained, "generator": GAN, "finetuning": CLASSIFIER},
        {"kind": Untrained},
    ],
)
def test_sensible_ones_are_not(parts: dict[str, Any]):
    check(**parts)
