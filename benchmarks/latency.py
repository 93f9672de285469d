"""One image at a time on one thread: a run as it is, its exported files, and anomalib's STFPM in OpenVINO, in turn.

    python benchmarks/latency.py RUN_OR_FILE ... [--rounds 30] [--peer-python PYTHON]

RUN_OR_FILE: run folders and what `anomalib-lite export` made of them, the run first: ratios are to it. --peer-python:
the Python that has anomalib 2.7 and OpenVINO (benchmarks/peer.py makes one); its STFPM gets the same backbone, whose
random weights take as long as trained ones. Processor milliseconds of this process, medians; the images are noise.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_lite.cli import MALLOC

PEER = """
import sys, timm
make = timm.create_model
timm.create_model = lambda name, *a, pretrained=False, **k: make(name, *a, pretrained=False, **k)
from anomalib.models import Stfpm
model = Stfpm(backbone="tf_efficientnet_lite0", layers=["blocks.1", "blocks.2", "blocks.4"], visualizer=False)
model.eval()
print(model.to_openvino(sys.argv[1], input_size=(256, 256)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--peer-python", type=Path)
    asked = parser.parse_args()
    if not asked.files:
        print("Left out: it wants a run and its exported files; --help says more.")
        return
    if not MALLOC.items() <= os.environ.items():  # as the command line sets it for itself
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC, "OMP_NUM_THREADS": "1"})
    judges = {str(file): judge(file) for file in asked.files}
    with tempfile.TemporaryDirectory() as folder:
        if asked.peer_python:
            subprocess.run([asked.peer_python, "-W", "ignore", "-c", PEER, folder], check=True, stdout=sys.stderr)
            judges["anomalib, STFPM, OpenVINO"] = opened(next(Path(folder).rglob("*.xml")))
        took: dict[str, list[float]] = {name: [] for name in judges}
        pixels = np.random.default_rng(0).integers(0, 256, (asked.rounds + 3, 1, 256, 256, 3), np.uint8)
        for image in pixels:
            for name, call in judges.items():
                begin = time.process_time()
                call(image)
                took[name].append(1000 * (time.process_time() - begin))
    base = took[str(asked.files[0])][3:]  # the first images warm up
    for name, times in took.items():
        ratio = statistics.median(b / t for b, t in zip(base, times[3:], strict=True))
        print(f"{statistics.median(times[3:]):8.1f} ms  {ratio:5.2f} times as fast as the first  {name}")


def judge(file: Path) -> Callable[[np.ndarray], Any]:
    import torch

    from anomalib_lite.engine.predict import open_run
    from anomalib_lite.export.session import Exported

    torch.set_num_threads(1)
    if file.is_file():
        return Exported(file, 1, trusted=["pt2"]).run
    model = open_run(file).model.cpu().eval()

    def call(pixels: np.ndarray) -> Any:
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            return model(image.contiguous(memory_format=torch.channels_last))

    return call


def opened(file: Path) -> Callable[[np.ndarray], Any]:
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(file, "CPU", hints)
    return lambda pixels: compiled([pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255])


if __name__ == "__main__":
    main()
