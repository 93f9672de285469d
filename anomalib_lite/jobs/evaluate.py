"""The verb evaluate."""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.data.fingerprint import fingerprint
from anomalib_lite.jobs.app import app
from anomalib_lite.jobs.quiet import seed_everything
from anomalib_lite.runs.environment import environment
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.runs.tracking import Tracker

log = logging.getLogger(__name__)

HELP = """Measures a trained run on the test images of its own data set, or of another one.

The detector and its threshold stay as the training left them. Writes metrics.json, predictions.csv, figures/ and
report.html.

  anomalib-lite evaluate run=runs/default/...
  anomalib-lite evaluate run=runs/default/... data=mvtec_ad data.root=DIR data.category=bottle
  anomalib-lite evaluate -m run=runs/a,runs/b"""


@app("evaluate", HELP)
def main(cfg: DictConfig) -> float | None:
    """Returns the image AUROC."""
    from anomalib_lite.data.images import ImageSet
    from anomalib_lite.jobs.defects import open_book
    from anomalib_lite.jobs.evaluation import evaluate_detector
    from anomalib_lite.jobs.inference import device_of, golden_template, image_size, load_model, shown_to
    from anomalib_lite.jobs.outcome import conclude

    source, trained, detector, threshold = load_model(cfg.run)
    data = cfg.get("data") or trained.data  # data=null leaves no such key
    splits = instantiate(data)
    own = not cfg.get("data") or any(s.template is None for s in splits.test)  # other data may bring templates
    splits = shown_to(trained, splits, golden_template(source) if own else None)
    choice = HydraConfig.get().runtime.choices.data or "own"
    run = RunFolder(Path(cfg.output).expanduser() if cfg.output else source / f"evaluation-{choice}")
    seed_everything(trained.seed)
    merged = OmegaConf.create({**trained, "data": data, "tracking": cfg.tracking, "run": str(source)})
    run.start(merged, environment(trained.seed, fingerprint(splits)))
    with run.guarded():
        with run.stage("decode"):
            test = ImageSet(splits.test, image_size(trained), trained.ram_limit_mb, "test")
        detector.to(device_of(trained))
        with run.stage("evaluate"):
            limit = trained.scoring.aupro_limit
            book = open_book(source, threshold)
            result = evaluate_detector(detector, test, threshold, trained.batch_size, limit, book)
        with run.stage("report"):
            conclude(merged, run, detector, test, result, threshold, Tracker(), book)
    log.info("%s", run.path)
    return result.metrics["image_auroc"]


if __name__ == "__main__":
    main()
