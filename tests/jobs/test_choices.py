"""Modes, augmentation and test-time augmentation as a user combines them; senseless combinations are refused."""

import shutil
from contextlib import nullcontext
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
from tests.commands import ran, read_json, refused, scores, trained
from tests.made import write_pixels


def history(run: Path) -> str:
    return (run / "history.csv").read_text()


def test_views_are_calibrated_anew_but_nothing_is_trained_again(here, tiny):
    """A sweep over augmentation and views trains once for each augmentation."""
    ran("train", "-m", *tiny, "augment=none,flips", "tta=none,flips")
    assert len(list((here / "artifacts").glob("trained-*"))) == 2
    made = [(run, RunFolder(run).config) for run in (here / "runs/default").glob("*-s0-*")]
    runs = {(c["augment"]["transforms"] != [], len(c["tta"]["views"])): run for run, c in made}
    assert len(runs) == 4
    plain, flips = runs[False, 1], runs[False, 3]
    assert read_json(plain / "metrics.json")["threshold"] != read_json(flips / "metrics.json")["threshold"]
    assert history(flips) == history(plain) != history(runs[True, 1])
    for record in (here / "artifacts").glob("trained-*/environment.json"):
        record.write_text(record.read_text().replace('"git_commit": ', '"git_commit": "0123456789", "earlier": '))
    assert "these weights were made by anomalib_lite" in ran("train", *tiny, "tta=flips_color").err


def test_the_template_takes_part_in_its_mode_and_in_the_ok_images_colours_and_all_verbs_agree(here, tiny, tiny_set):
    """Also in the views, which are the same in training, evaluate and predict."""
    golden = read_image(sorted((tiny_set / "train/good").glob("*.png"))[1])  # the first one is held out
    dark = write_pixels(here / "dark.png", (golden[..., ::-1] * 0.4).astype(np.uint8))
    asked = [*tiny, "tta=flips_color", f"data.template={dark}"]
    without, run = (trained(*asked, f"mode={mode}") for mode in ("no_template", "template"))
    assert history(without) != history(run) and not (without / "template.png").exists()
    matched = read_image(run / "template.png").mean()
    ok = np.mean([read_image(p).mean() for p in (tiny_set / "train/good").glob("*.png")])
    assert abs(matched - ok) < 0.1 * ok < abs(read_image(dark).mean() - ok)
    own = scores(run / "predictions.csv")
    ran("evaluate", f"run={run}", "report=false")
    assert scores(run / "evaluation-own/predictions.csv") == own
    assert read_json(run / "evaluation-own/metrics.json") == read_json(run / "metrics.json")
    ran("predict", f"run={run}", f"images='{tiny_set}/test/*/*.png'", "output=out")
    assert scores(here / "out/predictions.csv") == pytest.approx(own, rel=1e-6)


@pytest.mark.parametrize(
    ("held_back", "said"),
    [("train/good/000.png", "learns from it"), ("test/good/000.png", "learns from it"), (None, "data.template=FILE")],
    ids=["held out", "test", "none"],
)
def test_a_template_that_is_held_out_tested_on_or_missing_is_refused(here, tiny, tiny_set, held_back, said):
    given = [f"data.template={shutil.copy(tiny_set / held_back, 'golden.png')}"] if held_back else []
    assert said in refused("train", *tiny, "mode=template", *given)
    assert not list((here / "artifacts").glob("trained-*"))


def test_generated_images_train_by_their_weight_and_a_sweep_trains_their_generator_once(here, tiny, trainings):
    """At weight 0 the training is the one without them, to the byte."""
    made = [*tiny, "generator._target_=tests.generators.tiny.Recolour", "generator.structure_guard.enabled=false"]
    unweighted, weighted, _ = (
        trained(*made, "generator.count=6", f"mode.generated={weight}", f"seed={seed}")
        for weight, seed in ((0, 0), (0.5, 0), (0.5, 1))
    )
    assert len(trainings()) == 1, "one generator for all weights and seeds"
    assert history(unweighted) == history(trained(*tiny)) != history(weighted)


def test_a_trained_gan_changes_the_looks_of_training_images(here, tiny):
    gan = [*tiny, "generator=histaugan", "mode.generated=0"]
    changed, plain = (trained(*gan, f"augment={augment}") for augment in ("histaugan", "none"))
    assert history(changed) != history(plain)
    assert len(list((here / "artifacts").glob("generator-*"))) == 1
    assert not list((here / "artifacts").glob("generated-*")) and not (changed / "generated").exists()


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
    build._check_choices(model, Mode(mode), **{"size": (48, 48)} | parts)


@pytest.mark.parametrize(
    ("reason", "parts"),
    [
        ("mode=template", {"kind": Comparing}),
        ("augment=none", {"kind": Untrained, "augment": FLIPS}),
        ("trains no network", {"kind": Untrained, "generator": GAN}),
        ("teacher=finetuned_classifier", {"kind": Untrained, "generator": GAN, "finetuning": CUTPASTE}),
        ("has no effect", {"kind": Untrained, "mode": "template"}),
        ("Add generator=histaugan", {"kind": Trained, "restyles": True}),
        ("generator=histaugan", {"kind": Trained, "restyles": True, "generator": GAN}),
        ("generator.size=48", {"kind": Trained, "restyles": True, "generator": SimpleNamespace(restyle=None, size=64)}),
        ("generator=singan", {"kind": Trained, "generator": RESTYLING, "resize": "letterbox"}),
        ("resize=none", {"kind": Trained, "generator": RESTYLING, "resize": "none", "size": (48, 96)}),
        (None, {"kind": Trained, "generator": RESTYLING, "resize": "none"}),
        (None, {"kind": Trained, "generator": GAN, "resize": "letterbox"}),
        (None, {"kind": Trained, "augment": FLIPS}),
        (None, {"kind": Trained, "mode": "template", "generator": GAN, "finetuning": CUTPASTE}),
        (None, {"kind": Trained, "restyles": True, "generator": RESTYLING}),
        (None, {"kind": Comparing, "mode": "template"}),
        (None, {"kind": Untrained, "mode": "template", "finetuning": CUTPASTE}),
        (None, {"kind": Untrained, "generator": GAN, "finetuning": CLASSIFIER}),
        (None, {"kind": Untrained}),
    ],
)
def test_senseless_combinations_are_refused_with_the_reason_and_others_are_not(reason, parts):
    with pytest.raises(UserError, match=reason) if reason else nullcontext():
        check(**parts)
