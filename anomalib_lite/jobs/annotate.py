"""anomalib-lite annotate: label crops in a local web page."""

from omegaconf import DictConfig

from anomalib_lite.annotate.server import run_session
from anomalib_lite.jobs.app import app

HELP = """Labels crops OK or NOK, with defect types and masks, by keyboard in a local web page.

Writes labels.csv and masks/ beside the crops, each answer at once: close the page whenever you like, and start again
to go on. `anomalib-lite train data=folder data.manifest=.../labels.csv` learns from them.

  anomalib-lite annotate                                        what segment wrote to segmented/
  anomalib-lite annotate crops=photos/ template=golden.png
  anomalib-lite annotate crops=demo/manifest.csv scores=runs/default/... 'types=[scratch, dent]'
  anomalib-lite annotate open_browser=false port=8800           then open the address that it prints"""


@app("annotate", HELP)
def main(cfg: DictConfig) -> None:
    run_session(
        crops=cfg.crops,
        defects=list(cfg.types),
        template=cfg.template,
        scores=cfg.scores,
        host=cfg.host,
        port=cfg.port,
        allow_remote=cfg.allow_remote,
        open_browser=cfg.open_browser,
    )
