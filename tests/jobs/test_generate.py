"""The verb generate, and generated images as the training gets them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.generation import generated_set
from anomalib_lite.rendering.product import draw_conditions, render_product
from tests.commands import one_thread
from tests.generators.tiny import TRAININGS
from tests.made import write_pixels

TINY = "tests.generators.tiny.Recolour"


@pytest.fixture(scope="module")
def products(tmp_path_factory) -> Path:
    """A category in MVTec AD's layout: ten training images, of which two are held out, one test image, a template."""
    folder = tmp_path_factory.mktemp("data") / "product"
    for i in range(12):
        image = render_product(64, i, None, None, draw_conditions(i, 1.0)).image
        name = f"train/good/{i:03d}.png" if i < 10 else "test/good/000.png" if i == 10 else "template.png"
        write_pixels(folder / name, image[..., ::-1])
    return folder


@pytest.fixture
def ok(products) -> list[Sample]:
    return [Sample(path, OK) for path in sorted((products / "train/good").iterdir())[:6]]


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """The trainings so far, each as the words (process, images, template, seed)."""
    record = tmp_path / "trainings.txt"
    monkeypatch.setenv(TRAININGS, str(record))
    return lambda: [line.split() for line in record.read_text().splitlines()] if record.is_file() else []


def config(folder: Path, target: str = TINY, seed: int = 0, **generator):
    values = {"_target_": target, "count": 3, **generator}
    return OmegaConf.create({"seed": seed, "paths": {"artifacts": str(folder / "artifacts")}, "generator": values})


def arguments(products: Path, *more: str) -> list[str]:
    return [
        "generate", "data=mvtec_ad", f"data.root={products.parent}", "data.category=product", "generator=none",
        f"generator._target_={TINY}", "tracking=none", "trainer.threads=1", "generator.count=6", *more,
    ]  # fmt: skip


def pixels(folder: Path) -> list[np.ndarray]:
    return [cv2.imread(str(path)) for path in sorted(folder.glob("*.png"))]


def test_generate_writes_images_sheet_page_and_quality_and_trains_once(products, run_verb, tmp_path, trainings):
    done = run_verb(*arguments(products, "+generator.damage=3"))
    assert done.status == 0, done.err
    (folder,) = (tmp_path / "generated").iterdir()
    assert folder.name.startswith("mvtec_ad-product-none-no_template-s0-")
    quality = json.loads((folder / "quality.json").read_text())
    assert len(pixels(folder / "images")) == quality["drawn"]["kept"] == quality["n_generated"] == 6
    assert quality["drawn"]["dropped"] == 3 and quality["n_real"] == 8
    assert quality["edge_overlap"]["generated_low"] >= quality["guard"]["threshold"]
    table = pd.read_csv(folder / "images.csv")
    assert table["kept"].tolist() == [0, 1, 1] * 3
    assert set(table["content_name"]) <= {path.name for path in (products / "train/good").iterdir()}
    assert cv2.imread(str(folder / "contact_sheet.png")).shape[1] > 600
    page = (folder / "generated.html").read_text()
    assert (
        "dropped 3 of 9 images" in page and page.count("<img") == 2 * 9 and "http" not in page.replace("http-equiv", "")
    )
    for words in ("Frechet distance", "kernel distance", "diversity", str(folder.relative_to(tmp_path) / "images")):
        assert words in done.out + done.err
    assert [line[1:] for line in trainings()] == [["8", "-", "0"]]

    again = run_verb(*arguments(products, "+generator.damage=3"))
    assert again.status == 0 and "already done" in again.out + again.err and "Frechet" in again.out + again.err
    other = run_verb(*arguments(products, "+generator.damage=0", "generator.count=2", "output=fewer"))
    assert other.status == 0 and len(trainings()) == 1, "what changes the drawing alone trained again"
    assert len(pixels(next((tmp_path / "fewer").iterdir()) / "images")) == 2
    assert run_verb(*arguments(products, "+generator.damage=3", "force=true")).status == 0
    assert len(trainings()) == 2 and len(pixels(folder / "images")) == 6


def test_a_template_takes_part_in_its_mode_alone(products, run_verb, tmp_path, trainings):
    template = f"data.template={products / 'template.png'}"
    done = run_verb(*arguments(products, template, "mode=template"))
    assert done.status == 0, done.err
    (folder,) = (tmp_path / "generated").iterdir()
    assert set(pd.read_csv(folder / "images.csv")["origin"]) == {"generated", "template_generated"}
    assert run_verb(*arguments(products, template, "mode=no_template", "output=without")).status == 0
    assert [line[2] for line in trainings()] == ["template.png", "-"]

    done = run_verb(*arguments(products, "mode=template"))
    assert done.status == 2 and "mode=template needs a template" in done.err


def test_samples_carry_origin_and_are_the_same_for_all_who_ask(ok, tmp_path, trainings):
    template = tmp_path / "template.png"
    write_pixels(template, cv2.imread(str(ok[0].image)))
    with_template = [Sample(s.image, OK, template=template) for s in ok]
    samples = generated_set(config(tmp_path), with_template, template, "data").samples
    assert [s.origin for s in samples] == ["generated", "template_generated", "generated"]
    assert all(s.label == OK and s.mask is None and s.template == template for s in samples)
    assert all(s.image.is_file() for s in samples) and len({s.image for s in samples}) == 3
    assert generated_set(config(tmp_path), with_template, template, "data").samples == samples
    assert len(trainings()) == 1


def test_what_defines_the_training_trains_again_and_nothing_else(ok, tmp_path, trainings):
    def folder(data: str = "data", **values) -> Path:
        return generated_set(config(tmp_path, **values), ok, None, data).folder

    first = folder()
    assert len({first, folder(structure_guard={"enabled": False}), folder(strength=0.1), folder(count=2)}) == 4
    assert len(trainings()) == 1
    folder(seed=1), folder(look=1), folder(data="other")
    assert len(trainings()) == 4
    cfg = config(tmp_path, seed=7)
    cfg.generator.seed = 0  # one training for the runs of a sweep over seeds
    assert generated_set(cfg, ok, None, "data").folder == first and len(trainings()) == 4


def test_the_first_images_of_many_are_those_of_few(ok, tmp_path):
    few = generated_set(config(tmp_path, damage=2), ok, None, "data").samples
    many = generated_set(config(tmp_path, damage=2, count=5), ok, None, "data").samples
    assert len(few) == 3 and len(many) == 5
    for a, b in zip(few, many[:3], strict=True):
        assert a.image.read_bytes() == b.image.read_bytes()


def test_a_killed_training_goes_on(ok, tmp_path, trainings):
    cfg = config(tmp_path, fail_at=1)
    with pytest.raises(RuntimeError, match="killed"):
        generated_set(cfg, ok, None, "data")
    assert [p.name for p in (tmp_path / "artifacts").iterdir() if not p.name.startswith(".")] == []
    made = generated_set(cfg, ok, None, "data")
    (trained,) = (tmp_path / "artifacts").glob("generator-*")
    assert len(trainings()) == 2 and len(list(trained.glob("step*"))) == 3
    steps = [json.loads(line)["step"] for line in (trained / "losses.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2], "the second training began anew"
    assert "Training" in (made.report / "generated.html").read_text()


def test_two_processes_train_once(ok, tmp_path, trainings):
    script = f"""
from tests.jobs.test_generate import *
ok = [Sample(Path(p), OK) for p in {[str(s.image) for s in ok]}]
print([s.image.name for s in generated_set(config(Path({str(tmp_path)!r}), patience=0.5), ok, None, "data").samples])
"""
    environment = one_thread(**{TRAININGS: str(tmp_path / "trainings.txt")})
    started = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, text=True, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0].splitlines()[-1] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert said[0] == said[1] == str(["0000.png", "0001.png", "0002.png"])
    assert len(trainings()) == 1
    assert sorted(p.name.split("-")[0] for p in (tmp_path / "artifacts").iterdir()) == ["generated", "generator"]


def test_the_tracker_gets_losses_quality_and_pictures(ok, tmp_path):
    class Logger:
        values: list = []  # noqa: RUF012

        def log_metrics(self, metrics, step=None):
            self.values.append((step, metrics))

    class Tracker:
        logger = Logger()

        def log_result(self, findings):
            self.metrics, self.pictures = findings.metrics, findings.pictures["generated"]

    tracker = Tracker()
    generated_set(config(tmp_path), ok, None, "data", tracker)
    assert [step for step, _ in Logger.values] == [0, 1, 2] and Logger.values[0][1] == {"loss": 1.0}
    assert tracker.metrics["generated"]["drawn"]["kept"] == 3
    ((caption, sheet),) = tracker.pictures
    assert "real" in caption and sheet.dtype == np.uint8 and sheet.shape[2] == 3


def test_one_ok_image_is_enough_and_the_report_says_what_it_cannot_tell(ok, tmp_path):
    made = generated_set(config(tmp_path, count=None), ok[:1], None, "data")
    assert len(made.samples) == 1 and made.quality["frechet"] is None
    page = (made.report / "generated.html").read_text()
    assert "frechet not available: needs four images a set" in page


def test_fewer_than_asked_for_is_said(ok, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        samples = generated_set(config(tmp_path, damage=-6), ok, None, "data").samples
    assert len(samples) == 2
    assert "3 images were asked for, and of 12 drawn 2 kept their structure" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "generator.count is a whole number, 1 or more"),
        ({"count": "many"}, "but is many"),
        ({"structure_guard": {"quantile": 2}}, "between 0 and 1"),
        ({"damage": 1}, "All 12 images that Recolour made have a damaged structure"),
        ({"target": "tests.generators.tiny.Silent"}, "Silent gives no image"),
        ({"target": "tests.generators.tiny.Refusing"}, "not with these images"),
    ],
)
def test_what_cannot_be_made_is_explained_and_leaves_nothing_half_made(ok, tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        generated_set(config(tmp_path, **values), ok, None, "data")
    assert list(tmp_path.glob("artifacts/generated-*")) == []


def test_no_ok_images_and_no_generator_are_explained(products, tmp_path, run_verb):
    with pytest.raises(UserError, match="there are none"):
        generated_set(config(tmp_path), [], None, "data")
    done = run_verb("generate", "generator=none", "tracking=none", "data=mvtec_ad", f"data.root={products.parent}")
    assert done.status == 2 and "generator=none makes no images" in done.err


def test_help_shows_examples_and_the_generators(run_verb):
    done = run_verb("generate", "--help")
    assert done.status == 0
    for words in ("anomalib-lite generate generator=singan", "structure_guard", "histaugan"):
        assert words in done.out
