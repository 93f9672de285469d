"""From map to defect, measured: types, areas, severities, and hits on real images.

    python benchmarks/defects.py [--artifacts artifacts] [--run RUN] [--real RUN] [--seeds 6]

1. The built-in panels with each defect's true mask, blurred by 4 px, as the map: are the types right, how far are the
   areas from the true ones? What is measured is then the defect's part alone, on all test images.
2. Five strengths of each defect, all else equal: does the severity rise with them (Spearman, a seed at a time)?
3. --run, a detector trained on the built-in panels: the same as 1 with its maps, at its own threshold.
4. --real, a detector trained on real images with masks: the share of true defects (connected parts of the masks) that a
   region hits, and false regions an OK image.

Rules and cut-offs were set on another rendered set (seed 1000). Types are counted on detected defects: those that a
region touches. Area error: |found - true| / true.
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
from anomalib_lite.data.decode import read_image, read_mask, resize_image, resize_mask
from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import Sample, Splits
from anomalib_lite.defects import Defect, Inspector, LevelsOfMaps, MapLevels, prepare_inspector
from anomalib_lite.defects.collect import confusion, matching
from anomalib_lite.engine.evaluate import run_over
from anomalib_lite.engine.predict import open_run
from anomalib_lite.rendering.flaws import DEFECTS
from anomalib_lite.rendering.product import render_product
from anomalib_lite.settings import conf_dir

BLUR = 4.0  # px: what a detector's map is blurred by
TRUE_MAP = 0.05  # threshold of a blurred true mask: a scratch of one pixel reaches 0.1
STRENGTHS = (0.1, 0.3, 0.5, 0.7, 0.9)

Judged = tuple[Sample, np.ndarray | None, tuple[Defect, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", default="artifacts", help="folder below which the built-in panels are rendered")
    parser.add_argument("--seed", type=int, default=0, help="of the rendered panels")
    parser.add_argument("--seeds", type=int, default=6, help="products a defect for the severities")
    parser.add_argument("--run", help="folder of a training on the built-in panels")
    parser.add_argument("--real", help="folder of a training on real images with masks")
    given = parser.parse_args()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train").defects, resolve=True)
    splits = panels.read(given.artifacts, seed=given.seed)
    inspector = prepare(config, splits, (256, 256), MapLevels(0.0, TRUE_MAP / 5))
    report("Built-in panels, true masks blurred as maps", inspector, list(by_true_masks(inspector, splits.test)))
    severities(inspector, given.seeds)
    if given.run:
        threshold, inspector, judged = by_detector(config, given.run, splits)
        report(f"Built-in panels, maps of {given.run}, threshold {threshold:.3g}", inspector, judged)
        false_regions(judged)
    if given.real:
        threshold, inspector, judged = by_detector(config, given.real)
        print(f"\n{given.real}, threshold {threshold:.3g}")
        hits(judged)
        false_regions(judged)


def prepare(config: dict, splits: Splits, size: tuple[int, int], levels: MapLevels) -> Inspector:
    template = splits.train[0].template
    images = (resize_image(read_image(sample.image), *size) for sample in splits.train)
    return prepare_inspector(
        config, images, levels, None if template is None else resize_image(read_image(template), *size)
    )


def by_true_masks(inspector: Inspector, samples: Iterable[Sample]) -> Iterator[Judged]:
    for sample in tqdm([sample for sample in samples if sample.mask], "true masks", leave=False):
        mask = read_mask(sample.mask)
        yield sample, mask, inspector.inspect(blurred(mask), read_image(sample.image), TRUE_MAP)


def by_detector(config: dict, run: str, splits: Splits | None = None) -> tuple[float, Inspector, list[Judged]]:
    """With `splits`, other images than the run's own are judged; the threshold stays the run's."""
    trained = open_run(run)
    size, batch, threshold = trained.judge.size, trained.judge.batch_size, trained.threshold
    own = trained.shown(instantiate(trained.run.config["data"]))
    levels = LevelsOfMaps()
    for _, prediction in run_over(trained.model, loader(ImageSet(own.val, size), batch), "held-out OK images"):
        levels.update(prediction.map.numpy())
    inspector = prepare(config, own, size, levels.compute())
    test = ImageSet((splits or own).test, size)
    judged: list[Judged] = []
    for seen, prediction in run_over(trained.model, loader(test, batch), "inspect"):
        for k, index in enumerate(seen.index.tolist()):
            sample = test.samples[index]
            result = inspector.inspect(prediction.map[k, 0].numpy(), read_image(sample.image), threshold.pixel)
            judged.append((sample, read_mask(sample.mask) if sample.mask else None, result))
    return threshold.pixel, inspector, judged


def report(title: str, inspector: Inspector, judged: list[Judged]) -> None:
    judged = [case for case in judged if case[0].label]
    names, masks, results = [s.defect for s, _, _ in judged], [m for _, m, _ in judged], [r for _, _, r in judged]
    types = list(inspector.settings.types)
    matched = [matching(result, mask) for result, mask in zip(results, masks, strict=True)]
    kinds = [None if defect is None else defect.kind for defect in matched]
    table = confusion(names, kinds, inspector.settings.names, types)
    accuracy = "-" if table.accuracy is None else f"{table.accuracy:.3f}"
    print(f"\n{title}\ntype accuracy on the {table.counts[:, :-1].sum()} of {len(judged)} detected: {accuracy}")
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
        found = np.array([series(inspector, defect, seed) for seed in range(seeds)])
        each = [spearmanr(STRENGTHS, row).statistic for row in found]
        whole = spearmanr(np.tile(STRENGTHS, seeds), found.ravel()).statistic
        means = "  ".join(f"{value:.2f}" for value in found.mean(axis=0))
        print(f"{defect:20}{means:>34}  {np.mean(each):15.3f} {np.min(each):7.2f} {whole:13.3f}")


def series(inspector: Inspector, defect: str, seed: int) -> list[float]:
    """The worst severity on one product whose defect alone changes."""
    found = []
    for strength in STRENGTHS:
        product = render_product(256, (424242, seed), defect, strength)
        result = inspector.inspect(blurred(product.mask), product.image, TRUE_MAP)
        found.append(result[0].severity if result else 0.0)
    return found


def hits(judged: list[Judged]) -> None:
    tally: dict[str, list[int]] = defaultdict(list)
    for sample, mask, result in judged:
        if mask is None or not mask.any():
            continue
        shape = result[0].mask.shape if result else mask.shape
        found = np.any([d.mask for d in result], axis=0) if result else np.zeros(shape, bool)
        count, parts = cv2.connectedComponents(resize_mask(mask, *shape).astype(np.uint8))
        tally[sample.defect or "unnamed"] += [int((found & (parts == number)).any()) for number in range(1, count)]
    for name in (*sorted(tally), "all"):
        parts = pooled(tally) if name == "all" else tally[name]
        print(f"{name:20} {sum(parts)} of {len(parts)} true defects hit ({np.mean(parts):.1%})")


def false_regions(judged: list[Judged]) -> None:
    counts = [len(result) for sample, _, result in judged if sample.label == 0]
    print(f"{'false regions':20} {sum(counts)} on {len(counts)} OK images ({np.mean(counts):.3f} an image)")


def pooled(table: dict[str, list]) -> list:
    return [value for values in table.values() for value in values]


def blurred(mask: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), BLUR)


if __name__ == "__main__":
    main()
