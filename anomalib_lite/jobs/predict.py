"""The verb predict."""

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
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app, say, texts

if TYPE_CHECKING:
    from anomalib_lite.engine.predict import TrainedRun

log = logging.getLogger(__name__)

HELP = """Anomaly scores, maps and overlays for any images, by a trained run.

Writes predictions.csv (image, score, nok), defects.csv and defects.json (type, measures, severity), overlays/*.png
(heat map on one scale tied to the threshold, so that a good part looks calm), defects/*.png (outlines in their types'
colours) and maps/*.tiff (32-bit float) to the output folder. A command that was killed goes on where it stopped when it
is started again; results of another command are replaced. Images that cannot be read are named and skipped; the exit
status is then 3. --json writes a line of JSON an image to stdout, and nothing else. watch=true answers new images of a
folder as they come, each once, also after a restart; Ctrl-C or SIGTERM ends it.

  anomalib-lite predict run=runs/default/... images=photos/
  anomalib-lite predict run=runs/default/... images='line1/**/*.png' output=checked maps=false
  anomalib-lite predict run=runs/default/... images=camera/ watch=true --json overlays=false maps=false
  anomalib-lite predict run=runs/default/... images=photos/ false_alarm_rate=0.01     or threshold=0.5"""


class SkippedImages(UserError):
    """All readable images were predicted; the others are named."""

    status = 3


def hydra_arguments(arguments: list[str]) -> list[str]:
    return ["json=true" if argument == "--json" else argument for argument in arguments]


@app("predict", HELP, hydra_arguments)
def main(cfg: DictConfig) -> None:
    from anomalib_lite.engine.stream import Wanted, predict, watch  # torch takes seconds

    trained, output = answering(cfg), Path(cfg.output)
    wanted, speak = Wanted(cfg.overlays, cfg.maps, _line if cfg.json else None), log.info if cfg.json else say
    if cfg.watch:
        folders = [require_folder(name, "The folder to watch", "images") for name in texts(cfg.images)]
        stop = Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # what is under way is finished
            signal.signal(number, lambda *_: stop.set())
        log.info("watching %s (Ctrl-C ends it)", ", ".join(map(str, folders)))
        done = watch(trained, folders, output, wanted, stop, cfg.settle)
    else:
        done = predict(trained, expand(texts(cfg.images), Path()), output, wanted)
    speak(f"{done.given} images given: {done.judged} judged, {len(done.refused)} refused")
    speak(f"{done.judged} images, {done.flagged} above the threshold {trained.threshold.image:.4g} of {trained.path}")
    if cfg.threshold is not None or cfg.false_alarm_rate is not None:
        speak(trained.threshold.in_words())
    speak(output / "predictions.csv")
    if done.refused:
        listed = "\n  ".join(done.refused)
        raise SkippedImages(
            f"{len(done.refused)} of {done.given} images could not be read and were skipped:\n  {listed}"
        )


def answering(cfg: DictConfig) -> TrainedRun:
    """The run that is asked, with the threshold, the region and the template that it is given."""
    from anomalib_lite.engine.predict import open_run

    run = open_run(str(cfg.run), texts(cfg.trust)).of(cfg.category).at(cfg.threshold, cfg.false_alarm_rate)
    return replace(run.within(cfg.roi, cfg.ignore), template=Path(cfg.template) if cfg.template else None)


def _line(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)
