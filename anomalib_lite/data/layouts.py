"""Reads public data sets: most have the folders of MVTec AD under other names, the others a list of files."""

import glob
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anomalib_lite.data.decode import mask_files, read_image, read_mask
from anomalib_lite.data.files import list_folders, list_images, require_folder
from anomalib_lite.data.folder import read_table
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.data.splits import make_splits
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)
Categories = str | Sequence[str] | None
Part = Literal["train", "held_out", "test"]
PARTS: tuple[Part, ...] = ("train", "test")
Reader = Callable[[Path, str | None], Iterable[tuple[Part, Sample]]]  # (root, category) -> its samples


@dataclass(frozen=True)
class Layout:
    """Folder names below a category."""

    train: str = "train/good"
    held_out: str | None = None  # OK images for thresholds, if the data set has such a folder
    test: str = "test"
    good: str = "good"  # folder of the OK images in `test`
    masks: str = "ground_truth/{defect}"  # of a defect type
    mask: str = "{stem}_mask.png"  # of an image, or a folder of several; a glob pattern
    saturations: str | None = None  # file that says how much of each defect is enough to find (MVTec LOCO)


def read(
    layout: Layout, root: str | Path, category: Categories = None, test: str | None = None, **drawing: Any
) -> Splits:
    """Reads one category, or several as one data set with defect types named `<category>/<defect>`.

    category: folder name below `root`, a list of names, or None if `root` itself holds the category. test: another
    folder that directly holds unlabelled test images, such as test_private. drawing: options of `make_splits`. Raises
    UserError if a folder is missing, or a defect image has no mask.
    """

    def images(base: Path, name: str | None) -> Iterator[tuple[Part, Sample]]:
        folder = base / name if name else base
        if not (folder / layout.train).is_dir():
            categories = ", ".join(p.name for p in list_folders(base) if (p / layout.train).is_dir())
            hint = f"Categories there: {categories}" if categories else "It holds no category in this data set's layout"
            lack = f"{folder.absolute()} has no folder {layout.train}"
            raise UserError(f"{lack}. {hint}. Set data.root and data.category.")
        yield from (("train", Sample(image, OK)) for image in _images(folder / layout.train))
        if layout.held_out:
            yield from (("held_out", Sample(image, OK)) for image in _images(folder / layout.held_out))
        if test and test != layout.test:
            yield from (("test", Sample(image, None)) for image in _images(folder / test))
        else:
            yield from (("test", sample) for sample in _test_samples(folder, layout))

    return _read(images, root, category, **drawing)


# Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021; other data sets use the same layout:
# Jezek et al., "Deep learning-based defect detection of metal parts", ICUMT 2021, and
# Huang, Qiu, Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 2020
mvtec_ad = mpdd = mtd = partial(read, Layout())
# Mishra et al., "VT-ADL", ISIE 2021; masks are .png or .bmp
btad = partial(read, Layout("train/ok", good="ok", mask="{stem}.*"))
# Bergmann et al., "Beyond Dents and Scratches", IJCV 2022; each image has a folder with one mask per defect
mvtec_loco = partial(read, Layout(held_out="validation/good", mask="{stem}", saturations="defects_config.json"))
# Heckler-Kram et al., "The MVTec AD 2 Dataset", 2025
mvtec_ad_2 = partial(
    read, Layout(held_out="validation/good", test="test_public", masks="test_public/ground_truth/{defect}")
)


def _read(reader: Reader, root: str | Path, category: Categories = None, **drawing: Any) -> Splits:
    base = require_folder(root, "The data set")
    names = [category] if category is None or isinstance(category, (str, int)) else list(category)
    if len({str(name) for name in names}) < len(names):
        raise UserError(f"data.category={names} names a category twice: its images would count twice.")
    pools: dict[Part, list[Sample]] = {"train": [], "held_out": [], "test": []}
    for name in (None if n is None else str(n) for n in names):
        for part, sample in reader(base, name):
            if len(names) > 1:
                defect = f"{name}/{sample.defect}" if sample.label == NOK else sample.defect
                sample = replace(sample, category=name, defect=defect)
            pools[part].append(sample)
    return make_splits(pools["train"], pools["test"], base, pools["held_out"], **drawing)


def visa(root: str | Path, category: Categories = "candle", **drawing: Any) -> Splits:
    """Reads VisA by the table of its one-class split. Source: Zou et al., "SPot-the-Difference", ECCV 2022."""
    base = require_folder(root, "VisA")
    table = base / "split_csv" / "1cls.csv"
    rows = [row for _, row in read_table(table, ("object", "split", "label", "image", "mask"), "It comes with VisA.")]
    categories = sorted({row["object"] for row in rows})

    def read_rows(base: Path, name: str | None) -> Iterator[tuple[Part, Sample]]:
        if name not in categories:
            there = ", ".join(categories)
            raise UserError(f"{table} has no category '{name}'. Categories there: {there}. Set data.category.")
        for row in rows:
            if row["object"] == name and row["split"] in PARTS:
                part: Part = "train" if row["split"] == "train" else "test"
                yield part, _labelled(base, row["image"], row["mask"], row["label"] == "normal")

    return _read(read_rows, base, category, **drawing)


def real_iad(
    root: str | Path, category: Categories = "audiojack", images: str = "realiad_1024", **drawing: Any
) -> Splits:
    """Reads Real-IAD by its one-class split, all five views (Wang et al., CVPR 2024); images: their folder."""

    def read_list(base: Path, name: str | None) -> Iterator[tuple[Part, Sample]]:
        path = base / "realiad_jsons" / "realiad_jsons" / f"{name}.json"
        if not path.is_file():
            categories = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
            raise UserError(f"{path} does not exist. Categories there: {categories}. Set data.category.")
        content = json.loads(path.read_text(encoding="utf-8"))
        for part, entry in ((split, entry) for split in PARTS for entry in content[split]):
            kind = entry["anomaly_class"]
            good = kind == content["meta"]["normal_class"]
            yield part, _labelled(base / images / str(name), entry["image_path"], entry["mask_path"], good, kind)

    return _read(read_list, root, category, **drawing)


def _ksdd(base: Path, _: str | None) -> Iterator[tuple[Part, Sample]]:
    """Reads KolektorSDD (Tabernik et al., Journal of Intelligent Manufacturing 2020): one folder per item.

    The mask `<name>_label.bmp` is black where the surface is good. The last good image of each item is tested, its
    other good images are learned from.
    """
    for item in list_folders(base):
        samples = _beside_masks(item, "_label.bmp")
        good, bad = ([s for s in samples if s.label == label] for label in (OK, NOK))
        yield from (("train", sample) for sample in good[:-1])
        yield from (("test", sample) for sample in good[-1:] + bad)


def _ksdd2(base: Path, _: str | None) -> Iterator[tuple[Part, Sample]]:
    """Reads KolektorSDD2 (Bozic, Tabernik, Skocaj, "Mixed supervision for surface-defect detection", 2021).

    The mask `<name>_GT.png` is black where the surface is good. Only good images of train/ are learned from.
    """
    for part in PARTS:
        samples = _beside_masks(base / part, "_GT.png")
        yield from ((part, sample) for sample in samples if part == "test" or sample.label == OK)


ksdd, ksdd2 = partial(_read, _ksdd, category=None), partial(_read, _ksdd2, category=None)


def _beside_masks(folder: Path, ending: str) -> list[Sample]:
    images = [p for p in _images(folder) if not p.name.endswith(ending)]
    masks = [p.with_name(f"{p.stem}{ending}") for p in images]
    return [_labelled(folder, i.name, m.name, not read_mask(m).any()) for i, m in zip(images, masks, strict=True)]


def _test_samples(folder: Path, layout: Layout) -> list[Sample]:
    samples: list[Sample] = []
    limits = _saturations(folder / layout.saturations) if layout.saturations else None
    for inner in list_folders(folder / layout.test):
        masks = folder / layout.masks.format(defect=inner.name)
        for image in _images(inner) if inner.name != "ground_truth" else ():
            if inner.name == layout.good:
                samples.append(Sample(image, OK))
                continue
            mask = _mask(masks, layout.mask, image)
            shares = tuple(_share(part, limits) for part in mask_files(mask)) if mask and limits else None
            samples.append(Sample(image, NOK, mask, defect=inner.name, saturation=shares))
    return sorted(samples, key=lambda s: (s.label != OK, s.defect or "", s.image))


def _mask(masks: Path, pattern: str, image: Path) -> Path | None:
    """Returns an image's mask; None if the folder `masks` is absent. Raises UserError if only this mask is missing."""
    if not masks.is_dir():
        return None
    matches = list(masks.glob(pattern.format(stem=glob.escape(image.stem))))
    if len(matches) != 1:
        expected = masks.absolute() / pattern.format(stem=image.stem)
        raise UserError(
            f"The mask {expected} of {image.name} is missing. Add it, or remove the image. A defect type without any "
            f"masks (no folder '{masks.name}') is allowed; pixel metrics leave it out."
        )
    return matches[0]


def _saturations(file: Path) -> dict[int, tuple[float, bool]] | None:
    """Reads how much of a defect is enough to find, by mask value: (share of its area, True) or (px, False)."""
    if not file.is_file():
        log.warning("%s is missing, so sPRO is not measured: copy the file from the download.", file.absolute())
        return None
    try:
        return {
            int(entry["pixel_value"]): (float(entry["saturation_threshold"]), bool(entry["relative_saturation"]))
            for entry in json.loads(file.read_text(encoding="utf-8"))
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file.absolute()} is no list of pixel_value, saturation_threshold and relative_saturation ({error!r}): "
            "copy the file from the download."
        ) from error


def _share(mask: Path, limits: dict[int, tuple[float, bool]]) -> float:
    """Returns the share of a defect's area that is enough to find, which holds at any image size."""
    pixels = read_image(mask)[..., 0]
    values = np.unique(pixels[pixels > 0]).tolist()
    if len(values) != 1 or values[0] not in limits:
        raise UserError(f"{mask.absolute()} has the values {values}, not one of defects_config.json: {sorted(limits)}.")
    amount, is_relative = limits[values[0]]
    return amount if is_relative else min(1.0, amount / np.count_nonzero(pixels))


def _images(folder: Path) -> list[Path]:
    images = list_images(folder) if folder.is_dir() else []
    if not images:
        raise UserError(f"No images in {folder.absolute()}: is the download complete?")
    return images


def _labelled(base: Path, image: str | Path, mask: str | Path | None, good: bool, defect: str = "defect") -> Sample:
    """Builds a sample from a data set's list. Raises UserError if a listed file is missing."""
    absent = [base / p for p in (image, None if good else mask) if p and not (base / p).is_file()]
    if absent:
        raise UserError(f"{absent[0]} is missing: is the download complete?")
    if good:
        return Sample(base / image, OK)
    return Sample(base / image, NOK, base / mask if mask else None, defect=defect)
