"""Measures the effect of glibc's malloc settings on feature extraction on a CPU, in alternating processes.

usage: python benchmarks/malloc.py [--rounds 3]
"""

import argparse
import os
import statistics
import subprocess
import sys

from anomalib_lite.cli import MALLOC

WORK = """
import time, torch
from anomalib_lite.backbones import build
net = build("tf_efficientnet_lite0", weights="bundled").eval().to(memory_format=torch.channels_last)
images = torch.rand(16, 3, 256, 256).contiguous(memory_format=torch.channels_last)
with torch.inference_mode():
    net(images)
    begin = time.perf_counter()
    for _ in range(8):
        net(images)
print(1000 * (time.perf_counter() - begin) / (8 * 16))
"""


def milliseconds(environment: dict[str, str]) -> float:
    """Returns the time per image of 256 x 256 px through the truncated EfficientNet-Lite0, in batches of 16."""
    done = subprocess.run([sys.executable, "-c", WORK], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    plain = {key: value for key, value in os.environ.items() if key not in MALLOC}
    pairs = [(milliseconds(plain), milliseconds(plain | MALLOC)) for _ in range(rounds)]
    for name, column in zip(("glibc's defaults", "memory kept"), zip(*pairs, strict=True), strict=True):
        print(f"{name:18} {statistics.median(column):6.1f} ms per image (median of {rounds})")
    ratios = [before / after for before, after in pairs]
    print(f"{'ratio':18} {statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
