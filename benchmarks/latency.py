"""Compares the single-image latency, on one thread, of a run, its exported files, and anomalib's STFPM in OpenVINO.

    python benchmarks/latency.py RUN_OR_FILE ... [--rounds 30] [--peer-python PYTHON]

RUN_OR_FILE: a run folder, to which ratios are relative, and files that `anomalib-lite export` made of it.
--peer-python: a Python with anomalib 2.7 and OpenVINO (benchmarks/peer.py creates one). Its STFPM gets the same
backbone with random weights, which take as long as trained ones. Prints medians of this process's CPU milliseconds;
the images are noise, and the candidates take turns.
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
    args = parser.parse_args()
    if not args.files:
        print("Skipped: give a run and its exported files, see --help.")
        return
    if not MALLOC.items() <= os.environ.items():  # the settings of the command line
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC, "OMP_NUM_THREADS": "1"})
    models = {str(file): load(file) for file in args.files}
    with tempfile.TemporaryDirectory() as folder:
        if args.peer_python:
            subprocess.run([args.peer_python, "-W", "ignore", "-c", PEER, folder], check=True, stdout=sys.stderr)
            models["anomalib, STFPM, OpenVINO"] = load_openvino(next(Path(folder).rglob("*.xml")))
        milliseconds: dict[str, list[float]] = {name: [] for name in models}
        pixels = np.random.default_rng(0).integers(0, 256, (args.rounds + 3, 1, 256, 256, 3), np.uint8)
        for image in pixels:
            for name, model in models.items():
                begin = time.process_time()
                model(image)
                milliseconds[name].append(1000 * (time.process_time() - begin))
    base = milliseconds[str(args.files[0])][3:]  # the first images warm up
    for name, times in milliseconds.items():
        ratio = statistics.median(b / t for b, t in zip(base, times[3:], strict=True))
        print(f"{statistics.median(times[3:]):8.1f} ms  {ratio:5.2f} times as fast as the first  {name}")


def load(file: Path) -> Callable[[np.ndarray], Any]:
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


def load_openvino(file: Path) -> Callable[[np.ndarray], Any]:
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(file, "CPU", hints)
    return lambda pixels: compiled([pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255])


if __name__ == "__main__":
    main()
