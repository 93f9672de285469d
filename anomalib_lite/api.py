"""The verbs as functions: `from anomalib_lite import train, predict, load, command`."""

import importlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from anomalib_lite.data.files import expand
from anomalib_lite.data.sample import Outcome
from anomalib_lite.engine.predict import TrainedRun, in_order, open_run
from anomalib_lite.jobs import train as verb
from anomalib_lite.jobs.app import call
from anomalib_lite.runs.overrides import overrides as as_overrides


def train(*overrides: str, trust: tuple[str, ...] = (), **settings: Any) -> TrainedRun:
    """Trains like `anomalib-lite train`: `train("data=folder", "data.ok=photos/ok", detector="padim", image_size=128)`.

    Names without a dot may be keywords. Returns the finished run, e.g. with `run.metrics` and `run.path`; repeating the
    call returns it at once. Raises UserError for what the command line would reject, too. trust: see `load`.
    """
    return load(call("train", verb.train, [*overrides, *as_overrides(settings)]).path, trust)


def command(verb: str, *overrides: str, **settings: Any) -> Any:
    """Runs any verb in this process: `command("segment", "images=photos", "template=golden.png")`. See `train`."""
    main = importlib.import_module(f"anomalib_lite.jobs.{verb}").main
    return call(verb, main.__wrapped__, [*main.to_hydra(list(overrides)), *as_overrides(settings)])


def load(path: str | Path, trust: tuple[str, ...] = ()) -> TrainedRun:
    """Loads a finished run from its folder. trust: your own packages whose code its configuration may use."""
    return open_run(path, trust)


def predict(
    run: TrainedRun | str | Path, images: str | Path | Iterable[str | Path], template: Path | None = None
) -> list[Outcome]:
    """Predicts images like `anomalib-lite predict`, in memory: score, verdict, defects, picture and anomaly map.

    images: files, folders or glob patterns. template: for detectors that compare with one; None: the run's own. Raises
    UserError if `run` is not a run, or an image cannot be read.
    """
    trained = run if isinstance(run, TrainedRun) else load(run)
    trained = trained if template is None else replace(trained, template=template)
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        opened = in_order(pool, trained.open, expand(images, Path()), trained.at_once)
        while batch := list(islice(opened, trained.at_once)):
            outcomes += [judged.outcome for judged in pool.map(trained.inspect, trained.answers(batch))]
    return outcomes
