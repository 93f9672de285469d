"""anomalib-lite export: write a trained run as one file for other programs."""

from pathlib import Path

from omegaconf import DictConfig

from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app, say, texts

HELP = """Exports a trained run as one file that maps pixels of any size to anomaly map, score and verdict.

The file contains resizing, normalisation, views, smoothing, threshold and metadata. Examples of its use are written
beside it: predict.py needs only numpy, OpenCV and ONNX Runtime (or OpenVINO), predict.cpp only OpenVINO. The file is
compared with the run on held-out OK and test images, and removed if it differs by more than the tolerance.

  anomalib-lite export run=runs/default/...
  anomalib-lite export run=runs/default/... format=openvino precision=int8
  anomalib-lite export run=runs/default/... category=bottle                 of a run of several categories
  anomalib-lite predict run=runs/default/.../export-onnx-fp32/model.onnx images=photos/"""


@app("export", HELP)
def main(cfg: DictConfig) -> None:
    try:
        from anomalib_lite.engine.export import export_run  # importing torch takes seconds
        from anomalib_lite.engine.predict import open_run

        trained = open_run(str(cfg.run), texts(cfg.trust))
        name = "-".join(filter(None, ["export", cfg.format, cfg.precision, cfg.category]))
        folder = Path(cfg.output) if cfg.output else trained.path / name
        file, difference = export_run(
            trained, folder, cfg.format, cfg.precision, cfg.batch, cfg.limit, cfg.tolerance, cfg.category
        )
    except ModuleNotFoundError as error:
        raise UserError(f"export needs {error.name}: pip install 'anomalib-lite[export]'.") from error
    size = sum(part.stat().st_size for part in (file, file.with_suffix(".bin")) if part.is_file())
    say(difference.in_words())
    say(f"{file} ({size / 2**20:.1f} MB)")
