"""anomalib-lite annotate: label crops in a local web page."""

from __future__ import annotations

from omegaconf import DictConfig

from anomalib_lite.annotate.session import run_session
from anomalib_lite.jobs.app import app


@app("annotate", "Label crops OK or NOK, with defect types and masks, by keyboard in a local web page.")
def main(cfg: DictConfig) -> None:
    run_session(
        crops=cfg.crops,
        defects=list(cfg.defects),
        template=cfg.template,
        scores=cfg.scores,
        host=cfg.host,
        port=cfg.port,
        allow_remote=cfg.allow_remote,
        open_browser=cfg.open_browser,
    )
