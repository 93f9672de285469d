"""The same test images seen by several finished runs: one picture, a line an image, a column a run.

usage: python experiments/side_by_side.py FIGURE.png TITLE=RUN_FOLDER TITLE=RUN_FOLDER ...

The images are the first of each defect type and the first two good ones: chosen by name, not by what comes out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hydra.utils import instantiate

from anomalib_lite.data.images import ImageSet, loader, to_pixels
from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.jobs.inference import golden_template, image_size, load_model, run_over, shown_to
from anomalib_lite.report.ink import save_png
from anomalib_lite.report.side_by_side import Row, Seen, side_by_side


def chosen(samples: list[Sample]) -> list[int]:
    """Places of the first sample of each defect type and of the first two good ones, the good ones first."""
    first: dict[str | None, int] = {}
    for place, sample in enumerate(samples):
        first.setdefault(sample.defect if sample.label != OK else None, place)
    good = [place for place, sample in enumerate(samples) if sample.label == OK][:2]
    return good + [place for name, place in sorted(first.items(), key=lambda item: str(item[0])) if name is not None]


def seen_by(run: Path) -> list[tuple[Sample, Seen, ImageSet, int]]:
    folder, cfg, detector, threshold = load_model(run)
    test = shown_to(cfg, instantiate(cfg.data), golden_template(folder)).test
    images = ImageSet([test[place] for place in chosen(test)], image_size(cfg), name="images")
    found = []
    for batch, prediction in run_over(detector, loader(images, cfg.batch_size), run.name):
        for k, index in enumerate(batch.index.tolist()):
            score, map = float(prediction.score[k]), prediction.map[k, 0].numpy()
            found.append((images.samples[index], Seen(map, score, threshold.image, threshold.pixel), images, index))
    return found


def main(figure: str, *named: str) -> None:
    titles, folders = zip(*(entry.split("=", 1) for entry in named), strict=True)
    runs = [seen_by(Path(folder)) for folder in folders]
    rows = []
    for parts in zip(*runs, strict=True):
        sample, _, images, index = parts[0]
        if len({part[0].image for part in parts}) > 1:
            sys.exit("the runs were not tested on the same images")
        batch = images[index]
        pixels = to_pixels(batch.image)[0]
        mask = batch.mask[0, 0].numpy() if sample.mask else None
        name = f"{sample.defect or 'good'}  {sample.image.name}"
        rows.append(Row(name, pixels, mask, [part[1] for part in parts]))
    print(save_png(side_by_side(rows, titles), Path(figure), dpi=100))


if __name__ == "__main__":
    if len(sys.argv) < 3 or not all("=" in entry for entry in sys.argv[2:]):
        sys.exit(__doc__)
    main(*sys.argv[1:])
