"""The teacher's weights: the backbone's own, fine-tuned on this data set once."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from lightning.pytorch.utilities.seed import isolate_rng

from anomalib_lite.backbones import Backbone
from anomalib_lite.backbones.finetuning import Settings, finetune
from anomalib_lite.backbones.weights import save_cut
from anomalib_lite.data.files import expand
from anomalib_lite.data.fingerprint import fingerprint
from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.engine.trainer import History
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import Progress
from anomalib_lite.runs.artifacts import artifact, artifact_key, content_hash
from anomalib_lite.runs.atomic import write_json

log = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Teaching:
    """How a teacher is made. backbone: makes the network with the weights that it starts from. recipe: what both were
    built from, JSON-ready: with the images, it names the artifact. image_size: (height, width) in px. root: folder that
    `settings.nok` is relative to. accelerator, precision: as Lightning's Trainer names them.
    """

    settings: Settings
    backbone: Callable[[], Backbone]
    recipe: Mapping[str, Any]
    image_size: tuple[int, int]
    root: Path
    ram_limit_mb: float
    accelerator: str
    precision: str


def read_teaching(config: Mapping[str, Any], image_size: tuple[int, int]) -> Teaching | None:
    """How a plain, resolved configuration makes a teacher for images of this size; None: it makes none."""
    settings: Settings | None = instantiate(config["teacher"], _convert_="all")
    if settings is None:
        return None
    teacher = {key: value for key, value in config["teacher"].items() if key != "nok"}  # those images are read
    return Teaching(
        settings,
        instantiate(config["backbone"], _partial_=True),
        {"backbone": config["backbone"], "teacher": teacher},
        image_size,
        root=Path(str(config["data"].get("root") or ".")),
        ram_limit_mb=config["ram_limit_mb"],
        accelerator=config["trainer"]["accelerator"],
        precision=config["trainer"]["precision"],
    )


def finetuned_weights(
    teaching: Teaching,
    ok: Sequence[Sample],
    data_hash: str,
    artifacts: Path,
    test: Sequence[Sample] = (),
    held_out: Sequence[Sample] = (),
    generated: Sequence[Sample] = (),
) -> Path:
    """The file of the fine-tuned backbone, made where it is not there yet; beside it lie outcome.json (accuracies on
    held-out images, blocks, seconds) and history.csv.

    Args:
        teaching: How it is made.
        ok: The OK training images and, in template mode, the template, each with its weight.
        data_hash: Fingerprint of the data that they come from.
        artifacts: Folder of results that several runs share.
        test, held_out: The run's test images and held-out OK images, which must not take part.
        generated: Those of a generator, for a task that wants them.
    """
    task = teaching.settings.task
    nok = _nok(teaching, {"test": test, "OK training": [s for s in ok if s.origin == "real"], "held-out OK": held_out})
    samples = _relative(task.samples(*([s for s in given if s.weight] for given in (ok, [*generated, *nok]))))
    folder = artifacts / f"teacher-{_key(teaching, samples, data_hash)}"
    made = artifact(folder, lambda unfinished: _make(teaching, samples, unfinished))
    log.info("teacher %s: %s", "fine-tuned" if made else "fine-tuned before", folder)
    return folder / WEIGHTS


def _make(teaching: Teaching, samples: list[Sample], folder: Path) -> None:
    begin = time.perf_counter()
    train, held_out = _hold_out(samples, teaching.settings)
    learned, tried = [
        ImageSet(s, teaching.image_size, teaching.ram_limit_mb, "of the teacher") for s in (train, held_out)
    ]
    with isolate_rng():  # the run goes on as if the teacher had been there
        backbone = teaching.backbone()
        outcome = finetune(
            backbone,
            learned,
            tried,
            teaching.settings,
            accelerator=teaching.accelerator,
            devices=1,
            precision=teaching.precision,
            callbacks=[History(folder / "history.csv"), Progress()],
            logger=False,
            default_root_dir=folder,
        )
    save_cut(backbone.net, folder / WEIGHTS)
    record = {
        "task": type(teaching.settings.task).__name__,
        "classes": list(teaching.settings.task.classes),
        **dataclasses.asdict(outcome),
        "images": len(train),
        "held_out_images": len(held_out),
        "image_size": list(teaching.image_size),
        "seconds": round(time.perf_counter() - begin, 3),
    }
    write_json(folder / "outcome.json", record)
    log.info(
        "teacher's task %s: %.3f of the held-out examples right, %.3f before its backbone learned, %.3f by chance",
        record["task"], outcome.accuracy_after, outcome.accuracy_before, outcome.accuracy_by_chance,
    )  # fmt: skip


def _key(teaching: Teaching, samples: list[Sample], data_hash: str) -> str:
    """What of the data takes part is known from its fingerprint; what comes besides is read."""
    besides = [dataclasses.replace(s, template=None) for s in samples if s.origin != "real" or s.label == NOK]
    weights = [s.weight for s in samples if s.origin == "real" and s.label == OK]
    added = fingerprint(Splits(besides, [], [])) if besides else None
    return artifact_key(teaching.recipe, teaching.image_size, teaching.precision, data_hash, weights, added)


def _relative(samples: Sequence[Sample]) -> list[Sample]:
    """Weights relative to the largest, so that the same mixture is the same teacher."""
    largest = max(s.weight for s in samples)
    return [dataclasses.replace(s, weight=s.weight / largest) for s in samples]


def _hold_out(samples: list[Sample], settings: Settings) -> tuple[list[Sample], list[Sample]]:
    """(train, held out): a share of the real OK images and one of the generated ones, drawn by the teacher's seed.

    The template and NOK images, of which there are few, are all learned from.
    """
    rng = np.random.default_rng(settings.seed)
    chosen: set[int] = set()
    real = [i for i, s in enumerate(samples) if s.origin == "real" and s.label == OK]
    generated = [i for i, s in enumerate(samples) if s.origin in ("generated", "template_generated")]
    for kind in (real, generated) if generated else (real,):
        count = max(1, round(settings.held_out * len(kind)))
        if len(kind) - count < 2:
            raise UserError(f"{len(kind)} images are too few to fine-tune a teacher on. Take teacher=frozen.")
        chosen.update(rng.permutation(kind)[:count].tolist())
    return (
        [s for i, s in enumerate(samples) if i not in chosen],
        [s for i, s in enumerate(samples) if i in chosen],
    )


def _nok(teaching: Teaching, others: Mapping[str, Sequence[Sample]]) -> list[Sample]:
    """others: by kind, what none of them may be.

    Errors: UserError where one of them is a test image or an OK one, by its path or by its content.
    """
    settings = teaching.settings
    if settings.nok is None:
        return []
    images = expand(settings.nok, teaching.root)
    for kind, samples in others.items():
        known: set[str] = set().union(*(_names(s.image) for s in samples))
        if twice := [image for image in images if _names(image) & known]:
            raise UserError(
                f"{len(twice)} of the {len(images)} images of teacher.nok are among the {kind} images, for example "
                f"{twice[0]}. A teacher must not learn from what it is tested on, nor be told that an OK image is NOK: "
                "name other images, or keep these out of the data."
            )
    return [Sample(image, NOK, weight=settings.nok_weight) for image in images]


def _names(path: Path) -> set[str]:
    return {str(path.resolve()), content_hash(path)}
