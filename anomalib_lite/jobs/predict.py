"""anomalib-lite predict: judge images with a trained run."""

from __future__ import annotations

import json
import logging
import signal
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from anomalib_lite.data.files import expand, require_folder
from anomalib_lite.errors import Skipped
from anomalib_lite.jobs.app import app, say, texts

if TYPE_CHECKING:
    from anomalib_lite.engine.predict import TrainedRun

log = logging.getLogger(__name__)

HELP = """Computes anomaly scores, maps and overlays of any images with a trained run.

Writes predictions.csv (image, score, nok), defects.csv and defects.json (type, measures, severity), overlays/*.png
(heat maps; all images share one scale tied to the threshold, so good parts look calm), defects/*.png (outlines in the
colours of their types) and maps/*.tiff (32-bit float) to the output folder. A killed command resumes where it stopped
when it is started again; results of a different command are replaced. Unreadable images are listed and skipped; the
exit status is then 3. --json writes one line of JSON per image to stdout, and nothing else. watch=true judges new
images in a folder as they arrive, each once, even after a restart; Ctrl-C or SIGTERM ends it.

  anomalib-lite predict run=runs/default/... images=photos/
  anomalib-lite predict run=runs/default/... images='line1/**/*.png' output=checked maps=false
  anomalib-lite predict run=runs/default/... images=camera/ watch=true --json overlays=false maps=false
  anomalib-lite predict run=runs/default/... images=photos/ false_alarm_rate=0.01     or threshold=0.5"""


def hydra_arguments(arguments: list[str]) -> list[str]:
    return ["json=true" if argument == "--json" else argument for argument in arguments]


@app("predict", HELP, hydra_arguments)
def main(cfg: DictConfig) -> None:
    from anomalib_lite.engine.stream import Outputs, predict, watch  # torch takes seconds

    trained, output = open_configured(cfg), Path(cfg.output)
    outputs, report = Outputs(cfg.overlays, cfg.maps, _line if cfg.json else None), log.info if cfg.json else say
    if cfg.watch:
        folders = [require_folder(name, "The folder to watch", "images") for name in texts(cfg.images)]
        stop = Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # images in progress are finished
            signal.signal(number, lambda *_: stop.set())
        log.info("watching %s (Ctrl-C ends it)", ", ".join(map(str, folders)))
        done = watch(trained, folders, output, outputs, stop, cfg.settle)
    else:
        done = predict(trained, expand(texts(cfg.images), Path()), output, outputs)
    report(f"{done.given} images given: {done.judged} judged, {len(done.refused)} refused")
    report(f"{done.flagged} of {done.judged} images are above the threshold {trained.threshold.image:.4g}: NOK")
    if cfg.threshold is not None or cfg.false_alarm_rate is not None:
        report(trained.threshold.in_words())
    report(output / "predictions.csv")
    if done.refused:
        listed = f"{len(done.refused)} of {done.given} images could not be read and were skipped:"
        raise Skipped("\n  ".join([listed, *done.refused]))


def open_configured(cfg: DictConfig) -> TrainedRun:
    """Opens the run with the threshold, region and template of the configuration."""
    from anomalib_lite.engine.predict import open_run

    run = open_run(str(cfg.run), texts(cfg.trust)).for_category(cfg.category)
    run = run.with_threshold(cfg.threshold, cfg.false_alarm_rate).with_region(cfg.roi, cfg.ignore)
    return replace(run, template=Path(cfg.template) if cfg.template else None)


def _line(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)
