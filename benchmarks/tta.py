"""Measures the cost of test-time augmentation: milliseconds per image for each set of views, and the ratio to none.

usage: python benchmarks/tta.py [--rounds 5] [--detector stfpm]
"""

import argparse
import statistics
import time

import torch
from hydra import compose, initialize_config_dir

from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.model import Model
from anomalib_lite.engine.build import build_model
from anomalib_lite.settings import conf_dir

CHOICES = ("none", "flips", "flips_color")


class OneBatch(list):
    """Stands in for a loader with one batch of random OK images."""

    def __init__(self, count: int, size: int) -> None:
        flags = torch.ones(count)
        image = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
        image = image.contiguous(memory_format=torch.channels_last)
        batch = Batch(image, image[:, :1] > 2, flags.bool(), flags.long() * 0, flags, torch.arange(count))
        super().__init__([batch])
        self.dataset = range(count)


def prepared(tta: str, detector: str, batches: OneBatch) -> Model:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [f"tta={tta}", f"detector={detector}", "detector.gaussian.choose=levels"])
    model = build_model(cfg)
    model.prepare(batches)
    model.calibrate(batches)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--detector", default="stfpm")
    parser.add_argument("--size", type=int, default=256, help="side of the images in px")
    arguments = parser.parse_args()
    batches = OneBatch(16, arguments.size)
    models = {tta: prepared(tta, arguments.detector, batches) for tta in CHOICES}
    times: dict[str, list[float]] = {tta: [] for tta in CHOICES}
    for _ in range(arguments.rounds + 1):
        for tta, model in models.items():
            begin = time.perf_counter()
            model.predict_batch(batches[0])
            times[tta].append(1000 * (time.perf_counter() - begin) / 16)
    for tta, model in models.items():
        ratios = [t / plain for t, plain in zip(times[tta][1:], times["none"][1:], strict=True)]
        print(
            f"tta={tta:12} {len(model.views.views)} views {statistics.median(times[tta][1:]):7.1f} ms per image, "
            f"{statistics.median(ratios):.2f} times none ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
