"""anomalib-lite review: find NOK images among the OK images of a data set."""

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

HELP = """Finds NOK images among images that are labelled OK.

Splits the OK images into folds and scores each fold with a model fitted to the other folds, so that no image makes
itself look normal. Writes predictions.csv (largest score first) and worst.png to the output folder. No image is moved
or deleted: look at the worst images and remove those that are NOK. `train contamination=0.05` leaves out the worst 5 %
without asking.

  anomalib-lite review data=folder data.ok=ok
  anomalib-lite review data=mvtec_ad data.root=DIR data.category=bottle worst=60
  anomalib-lite annotate crops=ok scores=review/predictions.csv            label them one by one, worst first"""


@app("review", HELP)
def main(cfg: DictConfig) -> None:
    splits: Splits = instantiate(cfg.data)
    need_training_images(splits)
    from anomalib_lite.data.images import ImageSet  # importing torch takes seconds
    from anomalib_lite.engine.build import build_model, image_size
    from anomalib_lite.engine.review import Reviewer
    from anomalib_lite.engine.trainer import devices_of, prepare_process
    from anomalib_lite.report import ink
    from anomalib_lite.report.figures import Block, draw_sheet
    from anomalib_lite.report.pictures import overlay

    prepare_process(cfg.seed, cfg.threads)
    device = devices_of(instantiate(cfg.trainer, _convert_="all")).first
    samples = [*splits.train, *splits.val, *(s for s in splits.test if splits.drawn and s.label == OK)]
    images = ImageSet(samples, image_size(cfg.image_size), cfg.ram_limit_mb, "to review", cfg.resize)
    reviewer = Reviewer(partial(build_model, cfg), device, cfg.batch_size, cfg.seed, share=cfg.contamination)
    outcomes = reviewer.outcomes(images, cfg.worst)
    output = Path(cfg.output)
    write_csv(output / "predictions.csv", [("image", "score"), *((o.sample.image, o.score) for o in outcomes)])
    median = float(np.quantile([o.map.max() for o in outcomes if o.map is not None], 0.5))
    blocks = [
        Block((o.image, overlay(o.image, o.map, median)), short_name(o.sample.image), f"{o.score:.1f} × median")
        for o in outcomes
        if o.image is not None and o.map is not None
    ]
    sheet = draw_sheet(blocks, 4, scale=True, one="median")
    if sheet is not None:
        ink.save_png(sheet, output / "worst.png", dpi=100)
    say(f"{len(outcomes)} OK images; the largest scores, relative to the median score:")
    for outcome in outcomes[:10]:
        say(f"{outcome.score:6.2f}  {outcome.sample.image}")
    say(output / "worst.png")
