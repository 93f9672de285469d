"""Fine-tunes a backbone on a data set; its weights are an artifact that several runs share."""

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
from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.data.splits import fingerprint
from anomalib_lite.engine.trainer import History
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import Progress
from anomalib_lite.runs.artifacts import artifact, artifact_key, content_hash
from anomalib_lite.runs.atomic import write_json

log = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Teaching:
    """How a teacher is fine-tuned."""

    settings: Settings
    backbone: Callable[[], Backbone]  # makes the network with its initial weights
    recipe: Mapping[str, Any]  # configuration of backbone and fine-tuning; the artifact is named by a hash of it
    image_size: tuple[int, int]  # (height, width) in px
    resize: str  # see `ImageSet`
    root: Path  # folder that `settings.nok` is relative to
    ram_limit_mb: float
    accelerator: str  # this and precision: arguments of Lightning's Trainer
    precision: str


def read_teaching(config: Mapping[str, Any], image_size: tuple[int, int]) -> Teaching | None:
    """Builds Teaching from a resolved configuration; None where the backbone stays frozen."""
    settings: Settings | None = instantiate(config["teacher"], _convert_="all")
    if settings is None:
        return None
    teacher = {key: value for key, value in config["teacher"].items() if key != "nok"}  # hashed by content
    return Teaching(
        settings,
        instantiate(config["backbone"], _partial_=True),
        {"backbone": config["backbone"], "teacher": teacher, "resize": config["resize"]},
        image_size,
        config["resize"],
        root=Path(str(config["data"].get("root") or ".")),
        ram_limit_mb=config["ram_limit_mb"],
        accelerator=config["trainer"]["accelerator"],
        precision=config["trainer"]["precision"],
    )


def finetuned_weights(teaching: Teaching, splits: Splits, data_hash: str, artifacts: Path) -> Path:
    """Returns the weights file of the fine-tuned backbone, after fine-tuning it if the artifact does not exist.

    Beside the file lie outcome.json (accuracies on held-out images, blocks, seconds) and history.csv. splits: `train`
    also holds the template and generated images, for tasks that use them, each with its weight.
    """
    ok = [s for s in splits.train if not s.origin.endswith("generated")]
    real = [s for s in ok if s.origin == "real"]
    nok = _nok(teaching, {"test": splits.test, "OK training": real, "held-out OK": splits.val}, real[0].bits)
    others = [*(s for s in splits.train if s.origin.endswith("generated")), *nok]
    samples = teaching.settings.task.samples(*([s for s in group if s.weight] for group in (ok, others)))
    largest = max(s.weight for s in samples)  # so that proportional weights share one teacher
    samples = [dataclasses.replace(s, weight=s.weight / largest) for s in samples]
    folder = artifacts / f"teacher-{_key(teaching, samples, data_hash)}"
    made = artifact(folder, lambda unfinished: _make(teaching, samples, unfinished))
    log.info("%s: %s", "fine-tuned the teacher" if made else "using a teacher fine-tuned earlier", folder)
    return folder / WEIGHTS


def _make(teaching: Teaching, samples: list[Sample], folder: Path) -> None:
    begin = time.perf_counter()
    train, held_out = _hold_out(samples, teaching.settings)
    training, validation = [
        ImageSet(s, teaching.image_size, teaching.ram_limit_mb, "of the teacher", teaching.resize)
        for s in (train, held_out)
    ]
    with isolate_rng():  # so that the run's random draws do not depend on whether the teacher was made just now
        backbone = teaching.backbone()
        outcome = finetune(
            backbone,
            training,
            validation,
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
        "teacher's task %s: accuracy %.3f on held-out examples, %.3f before the backbone was trained, %.3f by chance",
        record["task"], outcome.accuracy_after, outcome.accuracy_before, outcome.accuracy_by_chance,
    )  # fmt: skip


def _key(teaching: Teaching, samples: list[Sample], data_hash: str) -> str:
    """Hashes settings and data; other samples than real OK images, which `data_hash` covers, count by content."""
    others = [dataclasses.replace(s, template=None) for s in samples if s.origin != "real" or s.label == NOK]
    weights = [s.weight for s in samples if s.origin == "real" and s.label == OK]
    others_hash = fingerprint(Splits(others, [], [])) if others else None
    return artifact_key(teaching.recipe, teaching.image_size, teaching.precision, data_hash, weights, others_hash)


def _hold_out(samples: list[Sample], settings: Settings) -> tuple[list[Sample], list[Sample]]:
    """Splits the samples into (train, held out), with the teacher's seed.

    Held out is a share of the real OK and of the generated images; the few templates and NOK images all train.
    """
    rng = np.random.default_rng(settings.seed)
    chosen: set[int] = set()
    real = [i for i, s in enumerate(samples) if s.origin == "real" and s.label == OK]
    generated = [i for i, s in enumerate(samples) if s.origin.endswith("generated")]
    for kind in (real, generated) if generated else (real,):
        count = max(1, round(settings.held_out * len(kind)))
        if len(kind) - count < 2:
            raise UserError(f"{len(kind)} images are too few to fine-tune a teacher. Use teacher=frozen.")
        chosen.update(rng.permutation(kind)[:count].tolist())
    train, held_out = ([s for i, s in enumerate(samples) if (i in chosen) == held] for held in (False, True))
    return train, held_out


def _nok(teaching: Teaching, others: Mapping[str, Sequence[Sample]], bits: int | None) -> list[Sample]:
    """Returns the NOK images that the teacher trains on.

    Raises UserError where one of them has the path or the content of an image in `others`: kind -> the run's samples.
    """
    settings = teaching.settings
    if settings.nok is None:
        return []
    images = expand(settings.nok, teaching.root)
    for kind, samples in others.items():
        taken = {name for s in samples for name in (s.image.resolve(), content_hash(s.image))}
        if shared := [image for image in images if {image.resolve(), content_hash(image)} & taken]:
            raise UserError(
                f"{len(shared)} of the {len(images)} images of teacher.nok are also {kind} images, for example "
                f"{shared[0]}. A teacher must not be trained on test images, nor with OK images labelled NOK: "
                "choose other images, or remove these from the data."
            )
    return [Sample(image, NOK, weight=settings.nok_weight, bits=bits) for image in images]
