"""Modes, augmentation and test-time augmentation as a user combines them; senseless combinations are refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kornia.augmentation import RandomHorizontalFlip
from torch import nn

from anomalib_lite.augment.transforms import Augment
from anomalib_lite.augment.tta import TestTimeAugmentation
from anomalib_lite.data.decode import read_image
from anomalib_lite.detectors.model import Method, Model
from anomalib_lite.engine import build
from anomalib_lite.errors import UserError
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.settings.training import Mode
from tests.commands import Command, read_json, scores, trained
from tests.made import write_pixels


@pytest.fixture(scope="module")
def template(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / "golden.png"
    shutil.copy(sorted((tiny_set / "train/good").glob("*.png"))[1], path)  # the first one is held out
    return path


def history(run: Path) -> str:
    return (run / "history.csv").read_text()


def test_views_are_calibrated_anew_but_nothing_is_trained_again(run_verb: Command, tiny: list[str], tmp_path: Path):
    """A sweep over augmentation and views trains once for each augmentation."""
    assert run_verb("train", "-m", *tiny, "augment=none,flips", "tta=none,flips").status == 0
    assert len(list((tmp_path / "artifacts").glob("trained-*"))) == 2
    runs = {(c["augment"]["transforms"] != [], len(c["tta"]["views"])): r for r, c in configured(tmp_path)}
    assert len(runs) == 4
    plain, flips = runs[False, 1], runs[False, 3]
    assert read_json(plain / "metrics.json")["threshold"] != read_json(flips / "metrics.json")["threshold"]
    assert history(flips) == history(plain) != history(runs[True, 1])


def configured(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Each run with its configuration."""
    return [(run, RunFolder(run).config) for run in (folder / "runs/default").glob("*-s0-*")]


def test_views_are_the_same_in_training_evaluate_and_predict(
    run_verb: Command, tiny: list[str], tiny_set: Path, template: Path, tmp_path: Path
):
    run = trained(*tiny, "tta=flips_color", "mode=template", f"data.template={template}")
    own = scores(run / "predictions.csv")
    assert run_verb("evaluate", f"run={run}", "report=false").status == 0
    assert scores(run / "evaluation-own/predictions.csv") == own
    assert read_json(run / "evaluation-own" / "metrics.json") == read_json(run / "metrics.json")
    done = run_verb("predict", f"run={run}", f"images='{tiny_set}/test/*/*.png'", "output=out")
    assert done.status == 0, done.err
    assert scores(tmp_path / "out/predictions.csv") == pytest.approx(own, rel=1e-6)


def test_in_its_mode_the_template_takes_part_in_the_ok_images_colours(
    run_verb: Command, tiny: list[str], tiny_set: Path, template: Path, tmp_path: Path
):
    dark = write_pixels(tmp_path / "dark.png", (read_image(template)[..., ::-1] * 0.4).astype(np.uint8))
    without, with_it = (trained(*tiny, f"mode={mode}", f"data.template={dark}") for mode in ("no_template", "template"))
    assert history(without) != history(with_it) and not (without / "template.png").exists()
    matched = read_image(with_it / "template.png").mean()
    ok = np.mean([read_image(p).mean() for p in (tiny_set / "train/good").glob("*.png")])
    assert abs(matched - ok) < 0.1 * ok < abs(read_image(dark).mean() - ok)


def test_template_mode_without_a_template_says_what_is_missing(run_verb: Command, tiny: list[str]):
    done = run_verb("train", *tiny, "mode=template")
    assert done.status == 2 and "data.template=FILE" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("held_back", ["train/good/000.png", "test/good/000.png"], ids=["held out", "test"])
def test_a_template_that_is_held_out_or_tested_on_is_refused(
    run_verb: Command, tiny: list[str], tiny_set: Path, tmp_path: Path, held_back: str
):
    copy = shutil.copy(tiny_set / held_back, tmp_path / "golden.png")
    done = run_verb("train", *tiny, "mode=template", f"data.template={copy}")
    assert done.status == 2 and "learns from it" in done.err and "Traceback" not in done.err
    assert not list((tmp_path / "artifacts").glob("trained-*"))


def test_generated_images_train_by_their_weight_and_a_sweep_trains_their_generator_once(
    run_verb: Command, tiny: list[str], trainings: Callable[[], list]
):
    """At weight 0 the training is the one without them, to the byte."""
    made = [
        *tiny, "generator._target_=tests.generators.tiny.Recolour", "generator.structure_guard.enabled=false",
        "generator.count=6",
    ]  # fmt: skip
    unweighted, weighted, _ = (
        trained(*made, f"mode.generated={weight}", f"seed={seed}") for weight, seed in ((0, 0), (0.5, 0), (0.5, 1))
    )
    assert len(trainings()) == 1, "one generator for all weights and seeds"
    assert history(unweighted) == history(trained(*tiny)) != history(weighted)


def test_a_trained_gan_changes_the_looks_of_training_images(run_verb: Command, tiny: list[str], tmp_path: Path):
    gan = [*tiny, "generator=histaugan", "mode.generated=0"]
    changed, plain = (trained(*gan, f"augment={augment}") for augment in ("histaugan", "none"))
    assert history(changed) != history(plain)
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
        ({"kind": Untrained, "generator": GAN}, "trains no network"),
        ({"kind": Untrained, "generator": GAN, "finetuning": CUTPASTE}, "teacher=finetuned_classifier"),
        ({"kind": Untrained, "mode": "template"}, "has no effect"),
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
