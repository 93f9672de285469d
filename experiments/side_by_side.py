"""Draws the heat maps of several finished runs on the same test images: a row per image, a column per run.

usage: python experiments/side_by_side.py FIGURE.png TITLE=RUN_FOLDER TITLE=RUN_FOLDER ...

Shows the first image of each defect type and the first two good ones, chosen by name, not by their results. Each map is
coloured relative to its run's threshold, so that colours are comparable between columns.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hydra.utils import instantiate

from anomalib_lite.data.images import loader, to_pixels
from anomalib_lite.data.sample import OK, Outcome, Sample
from anomalib_lite.engine.evaluate import run_over
from anomalib_lite.engine.predict import open_run
from anomalib_lite.report.figures import Block, draw_sheet
from anomalib_lite.report.ink import save_png
from anomalib_lite.report.pictures import draw_outline, overlay
from anomalib_lite.scoring import Threshold

RunResults = tuple[Threshold, list[Outcome]]
TRUTH = (64, 224, 190)  # colour of the true defect


def chosen(samples: list[Sample]) -> list[int]:
    """Returns the indices of the first two good samples, and of the first sample of each defect type."""
    first: dict[str | None, int] = {}
    for index, sample in enumerate(samples):
        first.setdefault(sample.defect if sample.label != OK else None, index)
    good = [index for index, sample in enumerate(samples) if sample.label == OK][:2]
    return good + [index for name, index in sorted(first.items(), key=lambda item: str(item[0])) if name is not None]


def results_of(run: Path) -> RunResults:
    trained = open_run(run)
    judge, threshold = trained.judge, trained.threshold
    splits = trained.apply_mode(instantiate(trained.run.config["data"])).with_bits(trained.data.get("bits"))
    images = judge.images([splits.test[index] for index in chosen(splits.test)], "images")
    outcomes = []
    for batch, prediction in run_over(trained.model, loader(images, judge.batch_size), run.name):
        pixels = to_pixels(batch.image)
        for k, sample in enumerate(batch.samples):
            score, heat = float(prediction.score[k]), prediction.map[k, 0].numpy()
            mask = batch.mask[k, 0].numpy() if sample.mask else None
            nok = threshold.of(sample.category).nok(score)
            outcomes.append(Outcome(sample, score, nok, image=pixels[k], map=heat, mask=mask))
    return threshold, outcomes


def blocks(titles: Sequence[str], runs: Sequence[RunResults]) -> list[Block]:
    """Returns the blocks row by row: the image with its true defect outlined, then each run's heat map."""
    result = []
    for of_image in zip(*(outcomes for _, outcomes in runs), strict=True):
        first = of_image[0]
        image = np.ascontiguousarray(first.image)
        truth = image if first.mask is None else draw_outline(image, first.mask, TRUTH)
        result.append(Block([truth], f"{first.sample.defect or 'good'}  {first.sample.image.name}"))
        for title, (threshold, _), outcome in zip(titles, runs, of_image, strict=True):
            limit = threshold.of(outcome.sample.category)
            caption = f"{outcome.score / limit.image:.2f} × threshold: {'NOK' if outcome.nok else 'OK'}"
            result.append(Block([overlay(image, outcome.map, limit.pixel)], title, caption, outcome.nok))
    return result


def main(figure: str, *named: str) -> None:
    titles, folders = zip(*(entry.split("=", 1) for entry in named), strict=True)
    runs = [results_of(Path(folder)) for folder in folders]
    if len({tuple(outcome.sample.image for outcome in outcomes) for _, outcomes in runs}) > 1:
        sys.exit("error: the runs have different test images; name runs on the same data")
    print(save_png(draw_sheet(blocks(titles, runs), 1 + len(runs), True, 260), Path(figure), dpi=100))


if __name__ == "__main__":
    if len(sys.argv) < 3 or not all("=" in entry for entry in sys.argv[2:]):
        sys.exit(__doc__)
    main(*sys.argv[1:])
