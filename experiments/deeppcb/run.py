"""Turns a run's maps on DeepPCB into boxes with defect types, and evaluates them with the authors' metrics.

    anomalib-lite train experiment=deeppcb data.root=DEEPPCB
    python experiments/deeppcb/run.py runs/deeppcb/RUN [--test-list trainval]

Writes boxes.csv and boxes.json into the run's folder, and the tables of the README to the terminal.
"""

import argparse
import csv
import sys
from pathlib import Path

import torch
from boards import BoardRules, find_defects
from boxes import BoxMetrics
from hydra.utils import instantiate
from tqdm import tqdm

from anomalib_lite.data.deeppcb import KINDS, Box, read_boxes
from anomalib_lite.data.images import loader
from anomalib_lite.engine.predict import open_run
from anomalib_lite.runs.atomic import atomic_path, write_json

Boxes = list[tuple[str, list[Box]]]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run with experiment=deeppcb")
    parser.add_argument("--test-list", default="test", help="test | trainval: the list of pairs to evaluate on")
    args = parser.parse_args()
    trained = open_run(args.run)
    model, threshold = trained.model, trained.threshold
    data = trained.run.config["data"] | {"test_list": args.test_list}
    images = trained.judge.images(instantiate(data).with_bits(trained.data.get("bits")).test, keep=False)
    rules, metrics = BoardRules(), BoxMetrics()
    found: Boxes = []
    for batch in tqdm(loader(images, trained.judge.batch_size), "boxes", delay=2, leave=False):
        aligned, covered = model.method.align(batch.image, batch.template)
        maps = model.finish(model.method.compare(batch.image, aligned, covered), batch.image.shape[-2:]).map
        for k, index in enumerate(batch.index.tolist()):
            pictures = (t[k].mean(0).numpy() for t in (batch.image, aligned))
            boxes = find_defects(maps[k, 0].numpy(), threshold.pixel, *pictures, rules)
            found.append((images.samples[index].image.name, boxes))
            metrics.update(boxes, read_boxes(images.samples[index].image))
    name = f"boxes-{args.test_list}"
    _write_csv(args.run / f"{name}.csv", found)
    by_class = {kind: vars(result) for kind, result in metrics.compute_by_class().items()}
    write_json(args.run / f"{name}.json", {**vars(metrics.compute()), "by_class": by_class})
    sys.stdout.write(_tables(metrics))


def _write_csv(path: Path, found: Boxes) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "x0", "y0", "x1", "y1", "type", "score"])
        for name, boxes in found:
            writer.writerows([name, b.x0, b.y0, b.x1, b.y1, b.kind, round(b.score, 4)] for b in boxes)


def _tables(metrics: BoxMetrics) -> str:
    whole, classes = metrics.compute(), metrics.compute_by_class()
    value = {k: "-" if v is None else f"{v:.4f}" for k, v in whole.values.items()}
    head = "| | precision | recall | F | AP |\n|---|---|---|---|---|\n"
    lines = [f"{whole.counts}\n\n", head]
    lines += [f"| class-free | {' | '.join(value[f'box_{k}'] for k in ('precision', 'recall', 'f1', 'ap'))} |\n"]
    typed = " | ".join(value[f"typed_{k}"] for k in ("precision", "recall", "f1"))
    lines += [f"| class must agree | {typed} | {value['map']} |\n"]
    for kind in (k for k in KINDS if k in classes):
        values = classes[kind].values
        cells = " | ".join("-" if (v := values[k]) is None else f"{v:.4f}" for k in ("precision", "recall", "f1", "ap"))
        lines.append(f"| {kind} | {cells} |\n")
    confusion = metrics.confusion()
    columns = [*KINDS, None]
    lines += [f"\n| true \\ found as | {' | '.join(c or 'not found' for c in columns)} |\n", "|---" * 8 + "|\n"]
    for row in columns:
        cells = " | ".join(str(confusion.get((row, column), 0)) for column in columns)
        lines.append(f"| {row or 'no defect'} | {cells} |\n")
    return "".join(lines)


if __name__ == "__main__":
    main()
