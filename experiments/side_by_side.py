"""The same test images seen by several finished runs: one picture, a line an image, a column a run.

usage: python experiments/side_by_side.py FIGURE.png TITLE=RUN_FOLDER TITLE=RUN_FOLDER ...

The images are the first of each defect type and the first two good ones: chosen by name, not by what comes out. Each
map is coloured on its own run's threshold, so that a colour means the same in all columns: how far above what OK images
show.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hydra.utils import instantiate

from anomalib_lite.data.images import ImageSet, loader, to_pixels
from anomalib_lite.data.sample import OK, Outcome, Sample
from anomalib_lite.engine.evaluate import run_over
from anomalib_lite.engine.predict import open_run
from anomalib_lite.report.contact_sheet import TRUTH, Block, draw_sheet
from anomalib_lite.report.ink import save_png
from anomalib_lite.report.pictures import draw_outline, overlay
from anomalib_lite.scoring import Threshold

Seen = tuple[Threshold, list[Outcome]]  # by one run


def chosen(samples: list[Sample]) -> list[int]:
    """Places of the first sample of each defect type and of the first two good ones, the good ones first."""
    first: dict[str | None, int] = {}
    for place, sample in enumerate(samples):
        first.setdefault(sample.defect if sample.label != OK else None, place)
    good = [place for place, sample in enumerate(samples) if sample.label == OK][:2]
    return good + [place for name, place in sorted(first.items(), key=lambda item: str(item[0])) if name is not None]


def seen_by(run: Path) -> Seen:
    trained = open_run(run)
    judge, threshold = trained.judge, trained.threshold
    test = trained.shown(instantiate(trained.run.config["data"])).test
    images = ImageSet([test[place] for place in chosen(test)], judge.size, name="images")
    found = []
    for batch, prediction in run_over(trained.model, loader(images, judge.batch_size), run.name):
        pixels = to_pixels(batch.image)
        for k, sample in enumerate(batch.samples):
            score, map = float(prediction.score[k]), prediction.map[k, 0].numpy()
            mask = batch.mask[k, 0].numpy() if sample.mask else None
            found.append(Outcome(sample, score, threshold.nok(score), image=pixels[k], map=map, mask=mask))
    return threshold, found


def blocks(titles: Sequence[str], runs: Sequence[Seen]) -> list[Block]:
    """Row by row: the image with its true defect outlined, then its heat map by each run."""
    made = []
    for seen in zip(*(outcomes for _, outcomes in runs), strict=True):
        first = seen[0]
        image = np.ascontiguousarray(first.image)
        truth = image if first.mask is None else draw_outline(image, first.mask, TRUTH)
        made.append(Block([truth], f"{first.sample.defect or 'good'}  {first.sample.image.name}"))
        for title, (threshold, _), outcome in zip(titles, runs, seen, strict=True):
            words = f"{outcome.score / threshold.image:.2f} × threshold: {'NOK' if outcome.nok else 'OK'}"
            made.append(Block([overlay(image, outcome.map, threshold.pixel)], title, words, outcome.nok))
    return made


def main(figure: str, *named: str) -> None:
    titles, folders = zip(*(entry.split("=", 1) for entry in named), strict=True)
    runs = [seen_by(Path(folder)) for folder in folders]
    if len({tuple(outcome.sample.image for outcome in outcomes) for _, outcomes in runs}) > 1:
        sys.exit("the runs were not tested on the same images")
    print(save_png(draw_sheet(blocks(titles, runs), 1 + len(runs), True, 260), Path(figure), dpi=100))


if __name__ == "__main__":
    if len(sys.argv) < 3 or not all("=" in entry for entry in sys.argv[2:]):
        sys.exit(__doc__)
    main(*sys.argv[1:])
