"""anomalib-lite serve: judge images over HTTP."""

from omegaconf import DictConfig

from anomalib_lite.jobs.app import app
from anomalib_lite.jobs.predict import open_configured

HELP = """Judges images over HTTP with a trained run, and serves a page to try it.

POST /predict with an image file as the body returns score, verdict and defects as JSON; ?overlay=link or base64 adds
the heat map. GET /healthz and /metrics (Prometheus) are for monitoring. SIGTERM stops the server after the requests in
progress. By default only this machine can connect; with another host each request needs the token in the environment
variable ANOMALIB_LITE_TOKEN.

  anomalib-lite serve run=runs/default/...
  curl --data-binary @photo.png 'http://127.0.0.1:8766/predict?overlay=link'
  ANOMALIB_LITE_TOKEN=... anomalib-lite serve run=runs/default/... host=0.0.0.0"""


@app("serve", HELP)
def main(cfg: DictConfig) -> None:
    from anomalib_lite.serve.server import Limits, run_server  # importing torch takes seconds

    limits = Limits(int(cfg.max_mb * 2**20), int(cfg.max_megapixels * 10**6), cfg.queue)
    run_server(open_configured(cfg), cfg.host, cfg.port, limits)
