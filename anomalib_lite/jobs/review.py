"""The verb review."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from anomalib_lite.data.files import short_name
from anomalib_lite.data.sample import OK, Splits
from anomalib_lite.data.splits import need_training_images
from anomalib_lite.jobs.app import app, say
from anomalib_lite.runs.atomic import write_csv

log = logging.getLogger(__name__)

HELP = """Finds NOK images among those that are taken for OK.

The OK images are dealt into folds, and each fold is judged by a model of the others, so that no image vouches for
itself. Writes predictions.csv (the least usual first) and worst.png to the output folder. Nothing is moved or deleted:
look at the worst, and take those out that are NOK. `train contamination=0.05` leaves out the worst twentieth unseen.

  anomalib-lite review data=folder data.ok=ok
  anomalib-lite review data=mvtec_ad data.root=DIR data.category=bottle worst=60
  anomalib-lite annotate crops=ok scores=review/predictions.csv            judge them one by one, worst first"""


@app("review", HELP)
def main(cfg: DictConfig) -> None:
    splits: Splits = instantiate(cfg.data)
    need_training_images(splits)
    from anomalib_lite.data.images import ImageSet  # torch takes seconds
    from anomalib_lite.engine.build import build_model, image_size
    from anomalib_lite.engine.review import Reviewer
    from anomalib_lite.engine.trainer import devices_of, prepare_process
    from anomalib_lite.report import ink
    from anomalib_lite.report.contact_sheet import Block, draw_sheet
    from anomalib_lite.report.pictures import overlay

    prepare_process(cfg.seed, cfg.threads)
    device = devices_of(instantiate(cfg.trainer, _convert_="all")).first
    given = [*splits.train, *splits.val, *(s for s in splits.test if splits.drawn and s.label == OK)]
    images = ImageSet(given, image_size(cfg.image_size), cfg.ram_limit_mb, "to review", cfg.resize)
    reviewer = Reviewer(partial(build_model, cfg), device, cfg.batch_size, cfg.seed, share=cfg.contamination)
    outcomes = reviewer.outcomes(images, cfg.worst)
    output = Path(cfg.output)
    write_csv(output / "predictions.csv", [("image", "score"), *((o.sample.image, o.score) for o in outcomes)])
    usual = float(np.quantile([o.map.max() for o in outcomes if o.map is not None], 0.5))
    blocks = [
        Block((o.image, overlay(o.image, o.map, usual)), short_name(o.sample.image), f"{o.score:.1f} × usual")
        for o in outcomes
        if o.image is not None and o.map is not None
    ]
    sheet = draw_sheet(blocks, 4, scale=True, one="usual")
    if sheet is not None:
        ink.save_png(sheet, output / "worst.png", dpi=100)
    say(f"{len(outcomes)} OK images; the least usual, by how many times the usual score:")
    for outcome in outcomes[:10]:
        say(f"{outcome.score:6.2f}  {outcome.sample.image}")
    say(output / "worst.png")
