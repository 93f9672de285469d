"""The one path from images to maps and scores: training's evaluation, evaluate and predict all come here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from tqdm import tqdm

from anomalib_lite.data.mode import with_template, without_template
from anomalib_lite.data.sample import Batch, Splits
from anomalib_lite.detectors.model import Model, Prediction
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import atomic_path, write_json
from anomalib_lite.runs.folder import open_finished
from anomalib_lite.scoring import Threshold

MODEL, TEMPLATE = "model.safetensors", "template.png"  # in a run folder


def build_detector(cfg: DictConfig, weights: str | Path | None = None) -> Model:
    """The detector of a configuration; `weights` replaces the backbone's source of weights."""
    overrides = {} if weights is None else {"weights": str(weights)}
    backbone: Callable = instantiate(cfg.backbone, _partial_=True, **overrides)
    augment = instantiate(cfg.augment)
    views, blur, score = (instantiate(part) for part in (cfg.tta, cfg.scoring.blur, cfg.scoring.score))
    method = instantiate(cfg.detector, backbone=backbone)
    return Model(method, views, blur, score, augment if augment.active else None)


def image_size(cfg: DictConfig) -> tuple[int, int]:
    """(height, width) from one number or from a pair."""
    size = cfg.image_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def use_threads(cfg: DictConfig) -> None:
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)


def device_of(cfg: DictConfig) -> torch.device:
    """Errors: UserError where a GPU is asked for and there is none."""
    if cfg.trainer.accelerator != "gpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("trainer.accelerator=gpu, but torch finds no GPU here. Take trainer=cpu.")
    return torch.device("cuda")


def run_over(detector: Model, loader: DataLoader, describe: str) -> Iterator[tuple[Batch, Prediction]]:
    """Each batch with its maps and scores, on the CPU, with a progress bar."""
    for batch in tqdm(loader, describe, delay=2, leave=False):
        map, score = detector.predict_batch(batch)
        yield batch, Prediction(map.float().cpu(), score.float().cpu())


class Timed:
    """Goes through predictions and adds up the seconds that they took, apart from what is done with them."""

    def __init__(self, predictions: Iterator[tuple[Batch, Prediction]]) -> None:
        self.predictions, self.seconds = predictions, 0.0

    def __iter__(self) -> Iterator[tuple[Batch, Prediction]]:
        while True:
            begin = time.perf_counter()
            try:
                item = next(self.predictions)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - begin
            yield item


def shown_to(trained: DictConfig, splits: Splits, golden: Path | None) -> Splits:
    """The data as a trained run's mode shows it. golden: the run's own template, where its images shared one."""
    if trained.mode.name != "template":
        return without_template(splits)
    return with_template(splits, golden) if golden else splits


def golden_template(run: Path) -> Path | None:
    """The template that a run was trained with, in the colours of its OK images."""
    path = run / TEMPLATE
    return path if path.is_file() else None


def save_model(folder: Path, detector: Model, threshold: Threshold) -> int:
    """Writes model.safetensors and threshold.json; returns the model's size in bytes."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in detector.state_dict().items()}
    with atomic_path(folder / MODEL) as temporary:
        save_file(tensors, temporary)
    write_json(folder / "threshold.json", threshold.to_dict())
    return (folder / MODEL).stat().st_size


def load_model(run: str | Path) -> tuple[Path, DictConfig, Model, Threshold]:
    """A finished run's folder, configuration, detector and threshold. The backbone's weights come from the run."""
    folder, cfg = open_finished(run)
    if missing := [key for key in ("mode", "augment", "tta") if key not in cfg]:
        raise UserError(f"{folder} was trained by an older version ({', '.join(missing)} missing): train it again.")
    use_threads(cfg)
    detector = build_detector(cfg, weights="none")
    tensors = load_file(folder / MODEL)
    if not any(name.startswith("method.") for name in tensors):
        raise UserError(f"{folder} was trained by an older version: train it again.")
    detector.load_state_dict(tensors)
    threshold = Threshold.from_dict(json.loads((folder / "threshold.json").read_text()))
    return folder, cfg, detector.eval(), threshold
