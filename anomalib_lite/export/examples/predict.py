"""Judges images with an exported file: python predict.py model.onnx IMAGE... Needs numpy, OpenCV and ONNX Runtime.

model.xml needs OpenVINO instead of ONNX Runtime. The graph takes RGB pixels of any size and includes all processing.
"""

import json
import sys
from typing import Any

import cv2
import numpy as np


def load(file: str) -> tuple[Any, dict[str, Any]]:
    """Returns a function from pixels (N, H, W, 3) to map (N, h, w), score (N,), nok (N,), and the file's metadata."""
    if file.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map["anomalib_lite"]
        return lambda pixels: session.run(None, {"pixels": pixels}), json.loads(about)
    import openvino

    model = openvino.Core().read_model(file)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    about = json.loads(model.get_rt_info("anomalib_lite").astype(str))
    return lambda pixels: list(compiled({"pixels": pixels}).values()), about


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    judge, about = load(sys.argv[1])
    if about["template"]["compares"]:
        sys.exit("This file compares with a template, which must be aligned first: use anomalib-lite predict.")
    print(about["promise"], file=sys.stderr)
    for name in sys.argv[2:]:
        if (picture := cv2.imread(name, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)) is None:
            sys.exit(f"{name} cannot be read")
        if picture.dtype != np.uint8:
            scale = 2 ** (about["data"]["bits"] or 16) - 1
            picture = np.round(np.minimum(picture, scale) * (255 / scale)).astype(np.uint8)
        pixels = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        anomaly_map, score, nok = judge(pixels[None])
        share = (anomaly_map[0] > about["threshold"]["pixel"]).mean()
        print(f"{name}\t{float(score[0])!r}\t{'NOK' if nok[0] else 'OK'}\t{share:.2%} above the pixel threshold")
