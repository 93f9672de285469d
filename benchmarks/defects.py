"""Measures the defect inspector: types, areas and severities on rendered panels, and detections on real images.

    python benchmarks/defects.py [--artifacts artifacts] [--run RUN] [--real RUN] [--seeds 6]

1. On the built-in panels, with each defect's true mask, blurred by 4 px, as the map: accuracy of the types and error of
   the areas. This tests the inspector alone, on all test images.
2. With five strengths of each defect, all else equal: does the severity rise (Spearman correlation for each seed)?
3. With --run, a detector trained on the built-in panels: the same as 1 with its maps and threshold.
4. With --real, a detector trained on real images with masks: the share of true defects (connected components of the
   masks) that a region overlaps, and false regions per OK image.

The rules and cut-offs were set on another rendered set (seed 1000). Type accuracy is over detected defects, those that
a region overlaps. Area error: |found - true| / true.
"""

import argparse
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import spearmanr
from tqdm import tqdm

from anomalib_lite.data import panels
from anomalib_lite.data.decode import read_image, read_mask, resize_mask
from anomalib_lite.data.images import ImageSet, loader, to_pixels
from anomalib_lite.data.sample import Sample, Splits
from anomalib_lite.defects import Defect, Inspector, MapLevels, prepare_inspector
from anomalib_lite.defects.collect import confusion, matching
from anomalib_lite.engine.evaluate import find_threshold, run_over
from anomalib_lite.engine.predict import open_run
from anomalib_lite.rendering.flaws import DEFECTS
from anomalib_lite.rendering.product import render_product
from anomalib_lite.settings import conf_dir

BLUR = 4.0  # px, as in a detector's map
TRUE_MAP = 0.05  # threshold of a blurred true mask, in which a scratch of one pixel reaches 0.1
STRENGTHS = (0.1, 0.3, 0.5, 0.7, 0.9)

Result = tuple[Sample, np.ndarray | None, tuple[Defect, ...]]  # a sample, its true mask, the defects found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", default="artifacts", help="folder to render the built-in panels in")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rendered panels")
    parser.add_argument("--seeds", type=int, default=6, help="products per defect for the severities")
    parser.add_argument("--run", help="run folder of a detector trained on the built-in panels")
    parser.add_argument("--real", help="run folder of a detector trained on real images with masks")
    args = parser.parse_args()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train").defects, resolve=True)
    splits = panels.read(args.artifacts, seed=args.seed)
    inspector = prepare(config, ImageSet(splits.train, (256, 256)), MapLevels(0.0, TRUE_MAP / 5))
    report("Built-in panels, true masks blurred as maps", inspector, list(by_true_masks(inspector, splits.test)))
    severities(inspector, args.seeds)
    if args.run:
        threshold, inspector, results = by_detector(config, args.run, splits)
        report(f"Built-in panels, maps of {args.run}, threshold {threshold:.3g}", inspector, results)
        false_regions(results)
    if args.real:
        threshold, inspector, results = by_detector(config, args.real)
        print(f"\n{args.real}, threshold {threshold:.3g}")
        hits(results)
        false_regions(results)


def prepare(config: dict, train: ImageSet, levels: MapLevels) -> Inspector:
    golden = next(iter(train.templates(train.samples[:1], [0])), None)
    return prepare_inspector(config, (train.pixels_of(k)[0] for k in range(len(train))), levels, golden)


def by_true_masks(inspector: Inspector, samples: Iterable[Sample]) -> Iterator[Result]:
    for sample in tqdm([sample for sample in samples if sample.mask], "true masks", leave=False):
        mask = read_mask(sample.mask)
        yield sample, mask, inspector.inspect(blurred(mask), read_image(sample.image), TRUE_MAP)


def by_detector(config: dict, run: str, splits: Splits | None = None) -> tuple[float, Inspector, list[Result]]:
    """Inspects the maps of a run at its thresholds, on the run's test images or on those of `splits`."""
    trained = open_run(run)
    judge, threshold = trained.judge, trained.threshold
    own = trained.apply_mode(instantiate(trained.run.config["data"])).with_bits(trained.data.get("bits"))
    test = judge.images((splits or own).test)
    _, levels = find_threshold(trained.model, judge.images(own.val), judge.batch_size, threshold.false_alarm_rate)
    inspector = prepare(config, judge.images(own.train), levels.compute())
    results: list[Result] = []
    for images, prediction in run_over(trained.model, loader(test, judge.batch_size), "inspect"):
        pixels = to_pixels(images.image)
        for k, (sample, index) in enumerate(zip(images.samples, images.index.tolist(), strict=True)):
            limit = threshold.of(sample.category).pixel
            defects = inspector.inspect(prediction.map[k, 0].numpy(), pixels[k], limit, test.shown(index))
            results.append((sample, images.mask[k, 0].numpy() if sample.mask else None, defects))
    return threshold.pixel, inspector, results


def report(title: str, inspector: Inspector, results: list[Result]) -> None:
    results = [result for result in results if result[0].label]
    names, masks, found = [s.defect for s, _, _ in results], [m for _, m, _ in results], [d for _, _, d in results]
    types = list(inspector.settings.types)
    matched = [matching(defects, mask) for defects, mask in zip(found, masks, strict=True)]
    kinds = [None if defect is None else defect.kind for defect in matched]
    table = confusion(names, kinds, inspector.settings.names, types)
    accuracy = "-" if table.accuracy is None else f"{table.accuracy:.3f}"
    print(f"\n{title}\ntype accuracy on the {table.counts[:, :-1].sum()} of {len(results)} detected: {accuracy}")
    print(f"{'truth':18}" + "".join(f"{name:>16}" for name in table.found))
    for name, row in zip(table.truth, table.counts, strict=True):
        print(f"{name:18}" + "".join(f"{count:16d}" for count in row))
    errors, overlaps = defaultdict(list), defaultdict(list)
    for name, mask, defect in zip(names, masks, matched, strict=True):
        if defect is not None:
            true = resize_mask(mask, *defect.mask.shape)
            errors[name].append(abs(int(defect.mask.sum()) - int(true.sum())) / true.sum())
            overlaps[name].append((defect.mask & true).sum() / (defect.mask | true).sum())
    print(f"{'area error, overlap':20}{'n':>4} {'median error':>13} {'median IoU':>11}")
    for name in (*sorted(errors), "all"):
        parts = [pooled(table) if name == "all" else table[name] for table in (errors, overlaps)]
        if parts[0]:
            print(f"{name:20}{len(parts[0]):4d} {np.median(parts[0]):13.1%} {np.median(parts[1]):11.2f}")


def severities(inspector: Inspector, seeds: int) -> None:
    print(f"\nSeverity over {len(STRENGTHS)} strengths of each defect, {seeds} products each")
    print(f"{'defect':20}{'mean of each strength':>34}  {'Spearman, mean':>15} {'lowest':>7} {'all products':>13}")
    for defect in DEFECTS:
        values = np.array([severity_series(inspector, defect, seed) for seed in range(seeds)])
        by_seed = [spearmanr(STRENGTHS, row).statistic for row in values]
        overall = spearmanr(np.tile(STRENGTHS, seeds), values.ravel()).statistic
        means = "  ".join(f"{value:.2f}" for value in values.mean(axis=0))
        print(f"{defect:20}{means:>34}  {np.mean(by_seed):15.3f} {np.min(by_seed):7.2f} {overall:13.3f}")


def severity_series(inspector: Inspector, defect: str, seed: int) -> list[float]:
    """Returns the worst severity on a product at each strength of its defect."""
    worst = []
    for strength in STRENGTHS:
        product = render_product(256, (424242, seed), defect, strength)
        defects = inspector.inspect(blurred(product.mask), product.image, TRUE_MAP)
        worst.append(defects[0].severity if defects else 0.0)
    return worst


def hits(results: list[Result]) -> None:
    hits_of: dict[str, list[int]] = defaultdict(list)
    for sample, mask, defects in results:
        if mask is None or not mask.any():
            continue
        shape = defects[0].mask.shape if defects else mask.shape
        found = np.any([d.mask for d in defects], axis=0) if defects else np.zeros(shape, bool)
        count, parts = cv2.connectedComponents(resize_mask(mask, *shape).astype(np.uint8))
        hits_of[sample.defect or "unnamed"] += [int((found & (parts == number)).any()) for number in range(1, count)]
    for name in (*sorted(hits_of), "all"):
        parts = pooled(hits_of) if name == "all" else hits_of[name]
        print(f"{name:20} {sum(parts)} of {len(parts)} true defects hit ({np.mean(parts):.1%})")


def false_regions(results: list[Result]) -> None:
    counts = [len(defects) for sample, _, defects in results if sample.label == 0]
    print(f"{'false regions':20} {sum(counts)} on {len(counts)} OK images ({np.mean(counts):.3f} per image)")


def pooled(table: dict[str, list]) -> list:
    return [value for values in table.values() for value in values]


def blurred(mask: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), BLUR)


if __name__ == "__main__":
    main()
