"""anomalib-lite submit: write a submission for the evaluation server of MVTec AD 2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from anomalib_lite.comparison.runs import find_runs
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app, say, texts

if TYPE_CHECKING:
    from anomalib_lite.engine.predict import TrainedRun

HELP = """Writes a submission for the evaluation server of MVTec AD 2, with one trained run per object.

Judges the private test images, writes <output>/anomaly_images (float16 TIFF at the images' full size) and
anomaly_images_thresholded (PNG of 0 and 255, by each run's pixel threshold), and packs both into submission.tar.gz.

  anomalib-lite train -m data=mvtec_ad_2 data.root=DIR data.category=can,fabric      and the other objects
  anomalib-lite submit runs=runs/default root=DIR"""


@app("submit", HELP)
def main(cfg: DictConfig) -> None:
    from anomalib_lite.engine.predict import open_run  # importing torch takes seconds
    from anomalib_lite.engine.submission import object_of, pack, write_object

    root, output = Path(cfg.root), Path(cfg.output)
    trained: dict[str, TrainedRun] = {}
    for folder in find_runs(texts(cfg.runs)):
        run = open_run(folder, texts(cfg.trust))
        if (other := trained.get(object_of(run))) is not None:
            raise UserError(f"Two runs are of {object_of(run)}: {other.run.path} and {folder}. Name only one of them.")
        trained[object_of(run)] = run
    for name, run in trained.items():
        say(f"{name}: {write_object(run, root, output)} images judged by {run.run.path}")
    say(pack(output))
