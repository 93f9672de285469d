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
    """How a teacher is fine-tuned.

    Attributes:
        backbone: Makes the network with its initial weights.
        recipe: Configuration of backbone and fine-tuning, JSON-ready; the artifact's name is a hash of it and the data.
        image_size: (height, width) in px.
        root: Folder that `settings.nok` is relative to.
        accelerator, precision: Arguments of Lightning's Trainer.
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
    """Builds Teaching from a resolved configuration; None where the backbone stays frozen."""
    settings: Settings | None = instantiate(config["teacher"], _convert_="all")
    if settings is None:
        return None
    teacher = {key: value for key, value in config["teacher"].items() if key != "nok"}  # hashed by content
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
    """Returns the weights file of the fine-tuned backbone, after fine-tuning it if the artifact does not exist.

    Beside the file lie outcome.json (accuracies on held-out images, blocks, seconds) and history.csv.

    Args:
        teaching: How the backbone is fine-tuned.
        ok: The OK training images and, in template mode, the template, each with its weight.
        data_hash: Fingerprint of the data that they come from.
        artifacts: Folder of results that several runs share.
        test, held_out: The run's test images and held-out OK images, which must not be trained on.
        generated: Images of a generator, for tasks that use them.
    """
    task = teaching.settings.task
    nok = _nok(teaching, {"test": test, "OK training": [s for s in ok if s.origin == "real"], "held-out OK": held_out})
    samples = _relative(task.samples(*([s for s in group if s.weight] for group in (ok, [*generated, *nok]))))
    folder = artifacts / f"teacher-{_key(teaching, samples, data_hash)}"
    made = artifact(folder, lambda unfinished: _make(teaching, samples, unfinished))
    log.info("%s: %s", "fine-tuned the teacher" if made else "using a teacher fine-tuned earlier", folder)
    return folder / WEIGHTS


def _make(teaching: Teaching, samples: list[Sample], folder: Path) -> None:
    begin = time.perf_counter()
    train, held_out = _hold_out(samples, teaching.settings)
    training, validation = [
        ImageSet(s, teaching.image_size, teaching.ram_limit_mb, "of the teacher") for s in (train, held_out)
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


def _relative(samples: Sequence[Sample]) -> list[Sample]:
    """Divides the weights by the largest, so that proportional weights share one teacher."""
    largest = max(s.weight for s in samples)
    return [dataclasses.replace(s, weight=s.weight / largest) for s in samples]


def _hold_out(samples: list[Sample], settings: Settings) -> tuple[list[Sample], list[Sample]]:
    """Splits the samples into (train, held out), with the teacher's seed.

    Held out is a share of the real OK and of the generated images; the few templates and NOK images all train.
    """
    rng = np.random.default_rng(settings.seed)
    chosen: set[int] = set()
    real = [i for i, s in enumerate(samples) if s.origin == "real" and s.label == OK]
    generated = [i for i, s in enumerate(samples) if s.origin in ("generated", "template_generated")]
    for kind in (real, generated) if generated else (real,):
        count = max(1, round(settings.held_out * len(kind)))
        if len(kind) - count < 2:
            raise UserError(f"{len(kind)} images are too few to fine-tune a teacher. Use teacher=frozen.")
        chosen.update(rng.permutation(kind)[:count].tolist())
    return (
        [s for i, s in enumerate(samples) if i not in chosen],
        [s for i, s in enumerate(samples) if i in chosen],
    )


def _nok(teaching: Teaching, others: Mapping[str, Sequence[Sample]]) -> list[Sample]:
    """Returns the NOK images that the teacher trains on.

    Raises UserError where one of them has the path or the content of an image in `others`: kind -> the run's samples.
    """
    settings = teaching.settings
    if settings.nok is None:
        return []
    images = expand(settings.nok, teaching.root)
    for kind, samples in others.items():
        taken: set[str] = set().union(*(_identity(s.image) for s in samples))
        if shared := [image for image in images if _identity(image) & taken]:
            raise UserError(
                f"{len(shared)} of the {len(images)} images of teacher.nok are also {kind} images, for example "
                f"{shared[0]}. A teacher must not be trained on test images, nor with OK images labelled NOK: "
                "choose other images, or remove these from the data."
            )
    return [Sample(image, NOK, weight=settings.nok_weight) for image in images]


def _identity(path: Path) -> set[str]:
    """Returns what identifies an image: its resolved path, and the hash of its content."""
    return {str(path.resolve()), content_hash(path)}
