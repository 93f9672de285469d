"""Ablation of a trained fusion: each member alone, and all without it, on the run's test images.

    anomalib-lite train detector=fusion ...
    python experiments/fusion/run.py runs/default/RUN

Needs no new fit, as a member's map does not depend on the other members. Writes members.csv into the run's folder:
image AUROC and AUPRO of each set of members under the chosen fusion rule, and 95 % intervals of the AUROC's difference
from the chosen set, by resampling OK and NOK test images separately 1000 times.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from tqdm import tqdm

from anomalib_lite.data.images import loader
from anomalib_lite.engine.predict import open_run
from anomalib_lite.metrics import PixelMetrics
from anomalib_lite.runs.atomic import atomic_path

RESAMPLES = 1000


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of detector=fusion")
    run = parser.parse_args().run
    trained = open_run(run)
    model, members = trained.model.eval(), trained.model.method.members[0]
    names, chosen = members.names, members.taken.clone()
    subsets = {"chosen": chosen, "all": torch.ones_like(chosen)}
    for index, name in enumerate(names):
        alone = torch.zeros_like(chosen)
        alone[index] = 1
        subsets |= {f"{name} alone": alone, f"all without {name}": 1 - alone}
    splits = instantiate(trained.run.config["data"]).with_bits(trained.data.get("bits"))
    images = trained.judge.images(splits.test)
    scores: dict[str, list[float]] = {name: [] for name in subsets}
    pixels, labels = {name: PixelMetrics() for name in subsets}, []
    for batch in tqdm(loader(images, trained.judge.batch_size), "members"):
        looks = model.method.looker(batch.image, batch.template)
        labels += batch.label.tolist()
        for name, subset in subsets.items():
            members.taken.copy_(subset)
            fused = members.fused(members.maps(looks))
            maps, score = model.finish(torch.nn.functional.softplus(fused), batch.image.shape[-2:])
            scores[name] += score.tolist()
            pixels[name].update(maps, batch.mask, batch.label.tolist())
    rows = [[name, *_figures(name, scores, labels), pixels[name].compute().values["aupro"]] for name in subsets]
    with atomic_path(run / "members.csv") as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["members", "image_auroc", "difference_low", "difference_high", "aupro"])
        writer.writerows(rows)
    for name, auroc, low, high, aupro in rows:
        sys.stdout.write(f"| {name} | {auroc:.4f} | {low:+.4f} to {high:+.4f} | {aupro:.4f} |\n")


def _figures(name: str, scores: dict[str, list[float]], labels: list[int]) -> tuple[float, float, float]:
    """Returns the image AUROC, and the interval of its difference from that of the chosen members."""
    wins, reference = (_wins(np.array(scores[key]), np.array(labels)) for key in (name, "chosen"))
    rng, differences = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        resample = np.ix_(*(rng.integers(0, size, size) for size in wins.shape))
        differences.append((wins - reference)[resample].mean())
    low, high = np.quantile(differences, (0.025, 0.975))
    return float(wins.mean()), float(low), float(high)


def _wins(score: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns for each pair whether the NOK image scores above the OK image (ties 1/2); the mean is the AUROC."""
    difference = score[label == 1][:, None] - score[label == 0]
    return (np.sign(difference) + 1) / 2


if __name__ == "__main__":
    main()
