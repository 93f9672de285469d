"""The teacher's weights: the backbone's own, or fine-tuned on this data set once."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.backbones.finetuning import Settings, finetune
from anomalib_lite.backbones.weights import save_cut
from anomalib_lite.data.files import expand
from anomalib_lite.data.fingerprint import fingerprint
from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.inference import image_size
from anomalib_lite.jobs.training import History
from anomalib_lite.runs.artifacts import artifact, artifact_key
from anomalib_lite.runs.atomic import write_json

log = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"


def teacher_weights(
    cfg: DictConfig,
    ok: Sequence[Sample],
    data_hash: str,
    test: Sequence[Sample],
    generated: Sequence[Sample] = (),
    held_out: Sequence[Sample] = (),
) -> str | None:
    """The file of the fine-tuned backbone, made where it is not there yet; None where the teacher stays frozen.

    ok: the OK training images and, in template mode, the template, each with its weight; no held-out ones, which set
    the threshold. data_hash: fingerprint of the data that they come from. test, held_out: images that must not take
    part.
    Beside the weights lie outcome.json (accuracies on held-out images, blocks, seconds) and history.csv.
    """
    if not cfg.teacher.get("_target_"):
        return None
    settings: Settings = instantiate(cfg.teacher)
    nok = _nok(settings, Path(cfg.data.get("root") or "."), ok, test, held_out)
    samples = _relative(settings.task.samples(_weighing(ok), _weighing([*generated, *nok])))
    size = image_size(cfg) if settings.image_size is None else image_size(cfg.teacher)
    folder = Path(cfg.paths.artifacts) / f"teacher-{_key(cfg, samples, size, data_hash)}"
    made = artifact(folder, lambda unfinished: _make(cfg, settings, samples, size, unfinished))
    log.info("teacher %s: %s", "fine-tuned" if made else "fine-tuned before", folder)
    return str(folder / WEIGHTS)


def _make(cfg: DictConfig, settings: Settings, samples: list[Sample], size: tuple[int, int], folder: Path) -> None:
    begin = time.perf_counter()
    train, held_out = _hold_out(samples, settings)
    sets = [ImageSet(s, size, cfg.ram_limit_mb, "the teacher's images") for s in (train, held_out)]
    with isolate_rng():  # the run goes on as if the teacher had been there
        backbone = instantiate(cfg.backbone)
        outcome = finetune(
            backbone,
            *sets,
            settings,
            accelerator=cfg.trainer.accelerator,
            devices=1,
            precision=cfg.trainer.precision,
            callbacks=[History(folder / "history.csv"), TQDMProgressBar(refresh_rate=1)],
            logger=False,
            default_root_dir=folder,
        )
    save_cut(backbone.net, folder / WEIGHTS)
    record = {
        "task": type(settings.task).__name__,
        "classes": list(settings.task.classes),
        **dataclasses.asdict(outcome),
        "images": len(train),
        "held_out_images": len(held_out),
        "image_size": list(size),
        "seconds": round(time.perf_counter() - begin, 3),
    }
    write_json(folder / "outcome.json", record)
    log.info(
        "teacher's task %s: %.3f of the held-out examples right, %.3f before its backbone learned, %.3f by chance",
        record["task"], outcome.accuracy_after, outcome.accuracy_before, outcome.accuracy_by_chance,
    )  # fmt: skip


def _key(cfg: DictConfig, samples: list[Sample], size: tuple[int, int], data_hash: str) -> str:
    """What of the data takes part is known from its fingerprint; what comes besides is read."""
    settings = [OmegaConf.to_container(cfg[group], resolve=True) for group in ("backbone", "teacher")]
    besides = [dataclasses.replace(s, template=None) for s in samples if s.origin != "real" or s.label == NOK]
    weights = [s.weight for s in samples if s.origin == "real" and s.label == OK]
    added = fingerprint(Splits(besides, [], [])) if besides else None
    start = Path(cfg.backbone.weights)
    content = hashlib.sha256(start.read_bytes()).hexdigest() if start.is_file() else None  # else: a source's name
    return artifact_key(*settings, size, cfg.trainer.precision, data_hash, weights, added, content)


def _weighing(samples: Sequence[Sample]) -> list[Sample]:
    return [s for s in samples if s.weight]


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
    for generated in (False, True):
        kind = [i for i, s in enumerate(samples) if _may_be_held_out(s, generated)]
        if generated and not kind:
            continue
        count = max(1, round(settings.held_out * len(kind)))
        if len(kind) - count < 2:
            raise UserError(f"{len(kind)} images are too few to fine-tune a teacher on. Take teacher=frozen.")
        chosen.update(rng.permutation(kind)[:count].tolist())
    return (
        [s for i, s in enumerate(samples) if i not in chosen],
        [s for i, s in enumerate(samples) if i in chosen],
    )


def _may_be_held_out(sample: Sample, generated: bool) -> bool:
    if generated:
        return sample.origin in ("generated", "template_generated")
    return sample.origin == "real" and sample.label == OK


def _nok(
    settings: Settings, root: Path, ok: Sequence[Sample], test: Sequence[Sample], held_out: Sequence[Sample] = ()
) -> list[Sample]:
    """Errors: UserError where one of them is a test image or an OK one, by its path or by its content."""
    if settings.nok is None:
        return []
    images = expand(OmegaConf.to_container(settings.nok) if OmegaConf.is_list(settings.nok) else settings.nok, root)
    digests = {image: _digests(image) for image in images}
    real = [s for s in ok if s.origin == "real"]
    for kind, others in (("test", test), ("OK training", real), ("held-out OK", held_out)):
        known: set[Any] = set().union(*(_digests(s.image) for s in others))
        twice = [image for image in images if digests[image] & known]
        if twice:
            raise UserError(
                f"{len(twice)} of the {len(images)} images of teacher.nok are among the {kind} images, for example "
                f"{twice[0]}. A teacher must not learn from what it is tested on, nor be told that an OK image is NOK: "
                "name other images, or keep these out of the data."
            )
    return [Sample(image, NOK, weight=settings.nok_weight) for image in images]


def _digests(path: Path) -> set[str]:
    return {str(path.resolve()), hashlib.sha256(path.read_bytes()).hexdigest()}
