"""The verb predict."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from anomalib_lite.data.files import expand
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app, say, texts

log = logging.getLogger(__name__)

HELP = """Anomaly scores, maps and overlays for any images, by a trained run.

Writes predictions.csv (image, score, nok), defects.csv and defects.json (type, measures, severity), overlays/*.png
(heat map on one scale tied to the threshold, so that a good part looks calm), defects/*.png (outlines in their types'
colours) and maps/*.tiff (32-bit float) to the output folder, in place of what an earlier call wrote there. Images that
cannot be read are named and skipped; the exit status is then 3.

  anomalib-lite predict run=runs/default/... images=photos/
  anomalib-lite predict run=runs/default/... images='line1/**/*.png' output=checked maps=false
  anomalib-lite predict run=runs/default/... images=photos/ false_alarm_rate=0.01     or threshold=0.5"""


class SkippedImages(UserError):
    """All readable images were predicted; the others are named."""

    status = 3


@app("predict", HELP)
def main(cfg: DictConfig) -> None:
    from anomalib_lite.engine.predict import open_run, predict, readable  # torch takes seconds

    trained = open_run(str(cfg.run), texts(cfg.trust)).at(cfg.threshold, cfg.false_alarm_rate)
    trained = trained.within(cfg.roi, cfg.ignore)
    paths = expand(texts(cfg.images), Path())
    good, broken = readable(paths)
    output = Path(str(cfg.output)).expanduser()
    template = Path(str(cfg.template)).expanduser() if cfg.template is not None else None
    outcomes = predict(trained, good, output, template, cfg.overlays, cfg.maps)
    flagged, limit = sum(outcome.nok for outcome in outcomes), trained.threshold.image
    say(f"{len(outcomes)} images, {flagged} above the threshold {limit:.4g} of {trained.run.path}")
    if cfg.threshold is not None or cfg.false_alarm_rate is not None:
        say(trained.threshold.in_words())
    say(output / "predictions.csv")
    if broken:
        listed = "\n  ".join(broken)
        raise SkippedImages(f"{len(broken)} of {len(paths)} images could not be read and were skipped:\n  {listed}")


if __name__ == "__main__":
    main()
