"""README's first picture: a photograph of a panel, its crops, their anomaly maps and the defects found.

usage: python docs/opening.py DEMO_FOLDER RUN_FOLDER PANEL      (make demo makes both; PANEL is such as panel_004)
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from anomalib_lite import load, predict
from anomalib_lite.data.decode import read_image
from anomalib_lite.data.sample import Outcome
from anomalib_lite.defects import load_inspector
from anomalib_lite.defects.collect import draw_defects
from anomalib_lite.report import ink
from anomalib_lite.report.pictures import overlay

ROWS = 3


def worst_of_each_type(outcomes: list[Outcome]) -> list[Outcome]:
    """The worst defect's image of each type, the types by severity."""
    found: dict[str, Outcome] = {}
    for outcome in sorted(outcomes, key=lambda o: -max(d.severity for d in o.defects)):
        found.setdefault(outcome.defects[0].kind, outcome)
    return list(found.values())[:ROWS]


def main(demo: Path, folder: Path, panel: str) -> None:
    run = load(folder)
    types = load_inspector(folder / "inspector").settings.types
    found = [o for o in predict(run, f"{demo}/crops/{panel}_*.png") if o.defects]
    figure = plt.figure(figsize=(12, 4.4), facecolor=ink.PAPER)
    columns = figure.add_gridspec(
        1, 2, width_ratios=[1.75, 1], wspace=0.03, left=0.01, right=0.99, top=0.93, bottom=0.01
    )
    axis = figure.add_subplot(columns[0])
    axis.imshow(read_image(demo / f"overview/{panel}.jpg"))
    axis.set_title("panel: products found by one template", fontsize=9, color=ink.INK)
    axis.axis("off")
    cells = columns[1].subgridspec(ROWS, 3, wspace=0.04, hspace=0.12)
    for row, outcome in enumerate(worst_of_each_type(found)):
        shown = (
            ("crop", outcome.image),
            ("anomaly map", overlay(outcome.image, outcome.map, run.threshold.pixel)),
            (outcome.defects[0].kind.replace("_", " "), draw_defects(outcome.image, outcome.defects, types)),
        )
        for column, (title, picture) in enumerate(shown):
            axis = figure.add_subplot(cells[row, column])
            axis.imshow(picture)
            axis.axis("off")
            if row == 0 or column == 2:
                axis.set_title(title, fontsize=8, color=ink.INK, pad=2)
    target = Path(__file__).parent / "images/opening.jpg"
    figure.savefig(target, dpi=110, pil_kwargs={"quality": 88})
    print(target, target.stat().st_size)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]), sys.argv[3])
