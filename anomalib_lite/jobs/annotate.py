"""anomalib-lite annotate: label crops in a local web page."""

from omegaconf import DictConfig

from anomalib_lite.annotate.server import run_session
from anomalib_lite.jobs.app import app

HELP = """Labels crops OK or NOK in a local web page, by keyboard, with defect types and masks.

Saves each answer at once to labels.csv and masks/ beside the crops: you can close the page at any time, and run the
command again to continue. `anomalib-lite train data=folder data.manifest=.../labels.csv` trains on the labels.

  anomalib-lite annotate                                        labels the crops of segment in segmented/
  anomalib-lite annotate crops=photos/ template=golden.png
  anomalib-lite annotate crops=demo/manifest.csv scores=runs/default/... 'types=[scratch, dent]'
  anomalib-lite annotate open_browser=false port=8800           open the printed address yourself"""


@app("annotate", HELP)
def main(cfg: DictConfig) -> None:
    served = {key: cfg[key] for key in ("template", "scores", "host", "port", "allow_remote", "open_browser")}
    run_session(cfg.crops, list(cfg.types), **served)
