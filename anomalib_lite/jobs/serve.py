"""The verb serve."""

from omegaconf import DictConfig

from anomalib_lite.jobs.app import app
from anomalib_lite.jobs.predict import answering

HELP = """Answers images over HTTP with a trained run, and serves a page to try it on.

POST /predict with an image file as the body gives score, verdict and defects as JSON; ?overlay=link or base64 adds the
heat map. GET /healthz and /metrics (Prometheus) are for monitors. SIGTERM ends it after the requests under way. It
listens on this machine alone; with another host each request needs the token that ANOMALIB_LITE_TOKEN holds.

  anomalib-lite serve run=runs/default/...
  curl --data-binary @photo.png 'http://127.0.0.1:8766/predict?overlay=link'
  ANOMALIB_LITE_TOKEN=... anomalib-lite serve run=runs/default/... host=0.0.0.0"""


@app("serve", HELP)
def main(cfg: DictConfig) -> None:
    from anomalib_lite.serve.server import Limits, run_server  # torch takes seconds

    limits = Limits(int(cfg.max_mb * 2**20), int(cfg.max_megapixels * 10**6), cfg.queue)
    run_server(answering(cfg), cfg.host, cfg.port, limits)
