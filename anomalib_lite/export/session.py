"""An exported file, opened: it judges pixels, and batches as a model does."""

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
from anomalib_lite.errors import UserError
from anomalib_lite.export.graph import ABOUT, FORMATS
from anomalib_lite.registration.template import Alignment

Run = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


def exported_file(path: str | Path) -> Path | None:
    """The exported file that is named, or that lies in a folder that is no run's; None where there is none."""
    path = Path(path).expanduser()
    if path.is_file():
        return path if path.suffix in {Path(name).suffix for name in FORMATS.values()} else None
    if (path / "config.yaml").exists():
        return None
    return next((path / name for name in FORMATS.values() if (path / name).is_file()), None)


class Exported:
    """What an exported file says of itself (`about`), and its graph.

    threads: of the CPU; None: as many as there are cores. trusted: `pt2` among them allows torch's files, which can
    hold code that runs while they are read; the other formats hold numbers and operations alone.
    Errors: UserError for a file that is torn or not trusted, or that this program did not write.
    """

    def __init__(self, file: Path, threads: int | None = None, trusted: Collection[str] = ()) -> None:
        self.file, self.tiling = file, None  # whatever tiles there are lie inside
        if file.suffix == ".pt2" and "pt2" not in trusted:
            raise UserError(
                f"{file} can hold code that torch runs while it reads the file, so it was not opened. If it is your "
                "own, add trust=pt2; a file of format=onnx or openvino needs no trust."
            )
        try:
            self.graph, text = {".onnx": _onnx, ".xml": _openvino, ".pt2": _torch}[file.suffix](file, threads or 0)
            self.about: dict[str, Any] = json.loads(text)
        except ImportError as error:
            raise UserError(f"{file} wants {error.name}: pip install 'anomalib-lite[export]'.") from error
        except Exception as error:  # each library has its own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{file} cannot be read ({reason}), or `anomalib-lite export` did not write it: export the run again."
            ) from error
        self.size: tuple[int, int] = tuple(self.about["size"])
        self.needs_template: bool = self.about["template"]["compares"]
        self.region = unpacked(kept) if (kept := self.about.get("region")) else None
        how = self.about["template"]["alignment"]
        self.alignment = None if how is None else Alignment(**how)

    def run(self, pixels: np.ndarray, template: np.ndarray | None = None) -> list[np.ndarray]:
        """uint8 (N, H, W, 3) -> map (N, h, w), score (N,) and nok (N,). template: see `laid_over`."""
        inputs = {"pixels": pixels} | ({} if template is None else {"template": template})
        fixed = self.about["batch"]
        if fixed in (None, len(pixels)):
            return self.graph(inputs)
        parts = []
        for start in range(0, len(pixels), fixed):  # the last part is filled up with copies
            rows = np.minimum(np.arange(start, start + fixed), len(pixels) - 1)
            parts.append(self.graph({name: value[rows] for name, value in inputs.items()}))
        return [np.concatenate(outputs)[: len(pixels)] for outputs in zip(*parts, strict=True)]

    def laid_over(self, image: Tensor, template: Tensor | None) -> np.ndarray | None:
        """What the graph wants beside the pixels: templates (B, 3, h, w) laid over images, as float32 (B, h, w, 4);
        None where it compares with nothing.
        """
        if not self.needs_template:
            return None
        laid = []
        pairs = zip(*(t.permute(0, 2, 3, 1).float().numpy() for t in (image, required(template))), strict=True)
        for one, other in pairs:
            seen = np.ones(one.shape[:2], bool)
            if self.alignment is not None:
                other, seen = self.alignment(np.ascontiguousarray(one), np.ascontiguousarray(other))
            laid.append(np.dstack([other, seen]).astype(np.float32))
        return np.stack(laid)

    def predict_batch(self, batch: Batch) -> Prediction:
        """As a model's."""
        self.evidence: list[dict[str, float]] = [{} for _ in batch.samples]  # a graph does not say what made its score
        map, score, _ = self.run(to_pixels(batch.image), self.laid_over(batch.image, batch.template))
        return Prediction(torch.from_numpy(map)[:, None], torch.from_numpy(score))

    def at_once(self, batch_size: int) -> int:
        """As a model's."""
        return self.about["batch"] or batch_size


def packed(region: Tensor) -> str:
    """Where images are inspected, bool (1, 1, H, W), as text."""
    return b64encode(cv2.imencode(".png", region[0, 0].cpu().numpy().astype(np.uint8))[1].tobytes()).decode()


def unpacked(text: str) -> Tensor:
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
