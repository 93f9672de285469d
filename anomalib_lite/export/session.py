"""Runs exported files, with the same interface as a model."""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from anomalib_lite.data.images import to_pixels
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.model import Prediction
from anomalib_lite.detectors.template import required
from anomalib_lite.errors import UserError, first_line
from anomalib_lite.export.graph import ABOUT, FORMATS
from anomalib_lite.registration.template import Alignment

Run = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


def exported_file(path: str | Path) -> Path | None:
    """Returns the exported file at `path`, or in a folder `path` that is not a run's; None if there is none."""
    path = Path(path).expanduser()
    if path.is_file():
        return path if path.suffix in {Path(name).suffix for name in FORMATS.values()} else None
    if (path / "config.yaml").exists():
        return None
    return next((path / name for name in FORMATS.values() if (path / name).is_file()), None)


class Exported:
    """An exported file, ONNX, OpenVINO or torch: its graph, and its metadata as `about`.

    threads: None: all cores. trusted: `pt2` in it allows torch's files, which can run code when they are loaded; the
    other formats cannot. Raises UserError if the file is damaged or not trusted, or this program did not write it.
    """

    def __init__(self, file: Path, threads: int | None = None, trusted: Collection[str] = ()) -> None:
        self.file, self.tiling = file, None  # the graph contains any tiling
        if file.suffix == ".pt2" and "pt2" not in trusted:
            raise UserError(
                f"{file} was not opened, because torch may run code in such a file while loading it. If you trust the "
                "file, add trust=pt2; files of format=onnx or openvino need no trust."
            )
        try:
            self.graph, text = {".onnx": _onnx, ".xml": _openvino, ".pt2": _torch}[file.suffix](file, threads or 0)
            self.about: dict[str, Any] = json.loads(text)
        except ImportError as error:
            raise UserError(f"{file} needs {error.name}: pip install 'anomalib-lite[export]'.") from error
        except Exception as error:  # each library raises its own kinds
            raise UserError(
                f"{file} cannot be read ({first_line(error)}): it is damaged, or `anomalib-lite export` did not write "
                "it. Export the run again."
            ) from error
        self.size: tuple[int, int] = tuple(self.about["size"])
        self.needs_template: bool = self.about["template"]["compares"]
        self.region = decode_region(region) if (region := self.about.get("region")) else None
        alignment = self.about["template"]["alignment"]
        self.alignment = None if alignment is None else Alignment(**alignment)

    def run(self, pixels: np.ndarray, template: np.ndarray | None = None) -> list[np.ndarray]:
        """Computes map (N, h, w), score (N,) and nok (N,) of uint8 (N, H, W, 3). template: of `aligned_templates`."""
        inputs = {"pixels": pixels} | ({} if template is None else {"template": template})
        fixed = self.about["batch"]
        if fixed in (None, len(pixels)):
            return self.graph(inputs)
        parts = []
        for start in range(0, len(pixels), fixed):  # copies of the last image fill the last batch
            rows = np.minimum(np.arange(start, start + fixed), len(pixels) - 1)
            parts.append(self.graph({name: value[rows] for name, value in inputs.items()}))
        return [np.concatenate(outputs)[: len(pixels)] for outputs in zip(*parts, strict=True)]

    def aligned_templates(self, image: Tensor, template: Tensor | None) -> np.ndarray | None:
        """Aligns templates (B, 3, h, w) with the images, for `run`: float32 (B, h, w, 4), see `graph.Deployed`.

        Returns None if the graph compares with no template.
        """
        if not self.needs_template:
            return None
        aligned = []
        pairs = zip(*(t.permute(0, 2, 3, 1).float().numpy() for t in (image, required(template))), strict=True)
        for picture, golden in pairs:
            covered = np.ones(picture.shape[:2], bool)
            if self.alignment is not None:
                golden, covered = self.alignment(np.ascontiguousarray(picture), np.ascontiguousarray(golden))
            aligned.append(np.dstack([golden, covered]).astype(np.float32))
        return np.stack(aligned)

    def predict_batch(self, batch: Batch) -> Prediction:
        """Like `Model.predict_batch`."""
        self.evidence: list[dict[str, float]] = [{} for _ in batch.samples]  # a graph only outputs the final score
        templates = self.aligned_templates(batch.image, batch.template)
        anomaly_map, score, _ = self.run(to_pixels(batch.image), templates)
        return Prediction(torch.from_numpy(anomaly_map)[:, None], torch.from_numpy(score))

    def at_once(self, batch_size: int) -> int:
        """Like `Model.at_once`."""
        return self.about["batch"] or batch_size


def encode_region(region: Tensor) -> str:
    """Encodes the inspected region, bool (1, 1, H, W), as a base64 PNG."""
    return b64encode(cv2.imencode(".png", region[0, 0].cpu().numpy().astype(np.uint8))[1].tobytes()).decode()


def decode_region(text: str) -> Tensor:
    picture = cv2.imdecode(np.frombuffer(b64decode(text), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    return torch.from_numpy(picture > 0)[None, None]


def _onnx(file: Path, threads: int) -> tuple[Run, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs)), session.get_modelmeta().custom_metadata_map[ABOUT]


def _openvino(file: Path, threads: int) -> tuple[Run, str]:
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", hints | ({"INFERENCE_NUM_THREADS": threads} if threads else {}))
    return lambda inputs: [np.array(a) for a in compiled(dict(inputs)).values()], model.get_rt_info(ABOUT).astype(str)


def _torch(file: Path, threads: int) -> tuple[Run, str]:
    extra = {ABOUT: ""}
    graph = torch.export.load(file, extra_files=extra).module()

    def run(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [out.numpy() for out in graph(**{k: torch.from_numpy(v) for k, v in inputs.items()})]

    return run, extra[ABOUT]
