"""Public data sets by their folders: most are laid out as MVTec AD is, and differ in names alone."""

import glob
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from anomalib_lite.data.decode import mask_files, read_image, read_mask
from anomalib_lite.data.files import list_folders, list_images, require_folder
from anomalib_lite.data.folder import read_table
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.data.splits import make_splits, ok_samples
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)
Categories = str | Sequence[str] | None
Part = Literal["train", "held_out", "test"]
PARTS: tuple[Part, ...] = ("train", "test")
Reader = Callable[[Path, str | None], Iterable[tuple[Part, Sample]]]  # a folder and a category -> its images


@dataclass(frozen=True)
class Layout:
    """Folders below a category. held_out: OK images for thresholds, where the data set has such. good: the OK images'
    folder in `test`. masks: their folder, with `{defect}`. mask: a file, with `{stem}`, or a folder of several.
    saturations: a file that says how much of each defect is enough to find (MVTec LOCO).
    """

    train: str = "train/good"
    held_out: str | None = None
    test: str = "test"
    good: str = "good"
    masks: str = "ground_truth/{defect}"
    mask: str = "{stem}_mask.png"
    saturations: str | None = None


def read(
    layout: Layout, root: str | Path, category: Categories = None, test: str | None = None, **drawing: Any
) -> Splits:
    """One category, or several as one data set, whose defect types are then named `<category>/<defect>`.

    category: a folder name below `root`, a list of them, or None where `root` itself is one. test: another folder to
    test on, such as test_private, whose images lie directly in it and have no labels.
    Errors: UserError for an absent folder (with those that exist), or for a defect image without its mask.
    """

    def images(base: Path, name: str | None) -> Iterator[tuple[Part, Sample]]:
        folder = base / name if name else base
        if not (folder / layout.train).is_dir():
            known = ", ".join(p.name for p in list_folders(base) if (p / layout.train).is_dir())
            hint = f"Categories there: {known}." if known else "It holds no category in this data set's layout."
            raise UserError(
                f"{folder.absolute()} has no folder {layout.train}. {hint} Set data.root and data.category."
            )
        for image in _images(folder / layout.train):
            yield "train", Sample(image, OK)
        for image in _images(folder / layout.held_out) if layout.held_out else ():
            yield "held_out", Sample(image, OK)
        if test and test != layout.test:
            tested = [Sample(image, None) for image in _images(folder / test)]
        else:
            tested = _test_samples(folder, layout)
        for sample in tested:
            yield "test", sample

    return _read(root, category, images, drawing)


# Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021; many others use the same layout:
# Jezek et al., "Deep learning-based defect detection of metal parts", ICUMT 2021, and
# Huang, Qiu, Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 2020
mvtec_ad = mpdd = mtd = partial(read, Layout())
# Mishra et al., "VT-ADL", ISIE 2021; masks are .png or .bmp
btad = partial(read, Layout("train/ok", good="ok", mask="{stem}.*"))
# Bergmann et al., "Beyond Dents and Scratches", IJCV 2022; a mask a defect, in a folder an image
mvtec_loco = partial(read, Layout(held_out="validation/good", mask="{stem}", saturations="defects_config.json"))
# Heckler-Kram et al., "The MVTec AD 2 Dataset", 2025
mvtec_ad_2 = partial(
    read, Layout(held_out="validation/good", test="test_public", masks="test_public/ground_truth/{defect}")
)


def visa(root: str | Path, category: Categories = "candle", **drawing: Any) -> Splits:
    """VisA by the table of its one-class split: Zou et al., "SPot-the-Difference", ECCV 2022."""
    base = require_folder(root, "VisA")
    table = base / "split_csv" / "1cls.csv"
    rows = [row for _, row in read_table(table, ("object", "split", "label", "image", "mask"), "It comes with VisA.")]

    def images(base: Path, name: str | None) -> list[tuple[Part, Sample]]:
        own = [row for row in rows if row["object"] == name]
        if not own:
            known = ", ".join(sorted({row["object"] for row in rows}))
            raise UserError(f"{table} names no category '{name}'. Categories there: {known}. Set data.category.")
        return [
            (cast("Part", row["split"]), _labelled(base, row["image"], row["mask"], row["label"] == "normal"))
            for row in own
            if row["split"] in PARTS
        ]

    return _read(base, category, images, drawing)


def real_iad(
    root: str | Path, category: Categories = "audiojack", images: str = "realiad_1024", **drawing: Any
) -> Splits:
    """Real-IAD by the lists of its one-class split, all five views: Wang et al., CVPR 2024. images: folder by size."""

    def read_list(base: Path, name: str | None) -> Iterator[tuple[Part, Sample]]:
        listed = base / "realiad_jsons" / "realiad_jsons" / f"{name}.json"
        if not listed.is_file():
            known = ", ".join(sorted(p.stem for p in listed.parent.glob("*.json")))
            raise UserError(f"{listed} does not exist. Categories there: {known or 'none'}. Set data.category.")
        content = json.loads(listed.read_text(encoding="utf-8"))
        for part in PARTS:
            for entry in content[part]:
                kind = entry["anomaly_class"]
                good = kind == content["meta"]["normal_class"]
                yield part, _labelled(base / images / str(name), entry["image_path"], entry["mask_path"], good, kind)

    return _read(root, category, read_list, drawing)


def ksdd(root: str | Path, **drawing: Any) -> Splits:
    """KolektorSDD: a folder an item, masks `<name>_label.bmp`, black where the surface is good; of each item the last
    good image is tested, the others are learned from. Tabernik et al., "Segmentation-based deep-learning approach for
    surface-defect detection", Journal of Intelligent Manufacturing 2020.
    """

    def images(base: Path, name: str | None) -> Iterator[tuple[Part, Sample]]:
        for item in list_folders(base):
            found = _beside_masks(item, "_label.bmp")
            good, bad = ([s for s in found if s.label == label] for label in (OK, NOK))
            yield from (("train", sample) for sample in good[:-1])
            yield from (("test", sample) for sample in good[-1:] + bad)

    return _read(root, None, images, drawing)


def ksdd2(root: str | Path, **drawing: Any) -> Splits:
    """KolektorSDD2: images with masks `<name>_GT.png`, black where the surface is good; of the training folder the
    good ones are learned from. Bozic, Tabernik, Skocaj, "Mixed supervision for surface-defect detection", 2021.
    """

    def images(base: Path, name: str | None) -> list[tuple[Part, Sample]]:
        found = [(part, sample) for part in PARTS for sample in _beside_masks(base / part, "_GT.png")]
        return [(part, sample) for part, sample in found if part == "test" or sample.label == OK]

    return _read(root, None, images, drawing)


def _beside_masks(folder: Path, ending: str) -> list[Sample]:
    images = [p for p in _images(folder) if not p.name.endswith(ending)]
    masks = [p.with_name(f"{p.stem}{ending}") for p in images]
    return [_labelled(folder, i.name, m.name, not read_mask(m).any()) for i, m in zip(images, masks, strict=True)]


def _read(root: str | Path, category: Categories, reader: Reader, drawing: dict[str, Any]) -> Splits:
    base = require_folder(root, "The data set")
    names = [None] if category is None else [category] if isinstance(category, (str, int)) else list(category)
    pools: dict[Part, list[Sample]] = {"train": [], "held_out": [], "test": []}
    for name in (None if n is None else str(n) for n in names):
        for part, sample in reader(base, name):
            if len(names) > 1:
                defect = f"{name}/{sample.defect}" if sample.label == NOK else sample.defect
                sample = replace(sample, category=name, defect=defect)
            pools[part].append(sample)
    return make_splits(pools["train"], pools["test"], base, pools["held_out"], **drawing)


def _test_samples(folder: Path, layout: Layout) -> list[Sample]:
    samples: list[Sample] = []
    enough = _saturations(folder / layout.saturations) if layout.saturations else None
    for inner in list_folders(folder / layout.test):
        if inner.name == "ground_truth":
            continue
        images = _images(inner)
        if inner.name == layout.good:
            samples += ok_samples(images)
        else:
            masks = folder / layout.masks.format(defect=inner.name)
            for image in images:
                mask = _mask(masks, layout.mask, image)
                shares = tuple(_share(part, enough) for part in mask_files(mask)) if mask and enough else None
                samples.append(Sample(image, NOK, mask, defect=inner.name, saturation=shares))
    return sorted(samples, key=lambda s: (s.label != OK, s.defect or "", s.image))


def _mask(masks: Path, pattern: str, image: Path) -> Path | None:
    """None where the data set has no masks for this type at all; a single absent one is an error."""
    if not masks.is_dir():
        return None
    found = list(masks.glob(pattern.format(stem=glob.escape(image.stem))))
    if len(found) != 1:
        wanted = masks.absolute() / pattern.format(stem=image.stem)
        raise UserError(
            f"The mask {wanted} of {image.name} is missing. Add it, or remove the image; without any masks for "
            f"'{masks.name}' (no such folder) pixel metrics leave this type out."
        )
    return found[0]


def _saturations(file: Path) -> dict[int, tuple[float, bool]] | None:
    """By a mask's pixel value: how much of such a defect is enough, in px or, where True, as a share of its area."""
    if not file.is_file():
        log.warning("%s is missing, so sPRO is not measured: copy it from the download.", file.absolute())
        return None
    try:
        return {
            int(entry["pixel_value"]): (float(entry["saturation_threshold"]), bool(entry["relative_saturation"]))
            for entry in json.loads(file.read_text(encoding="utf-8"))
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file.absolute()} is no list of pixel_value, saturation_threshold and relative_saturation: {error!r}."
        ) from error


def _share(mask: Path, enough: dict[int, tuple[float, bool]]) -> float:
    """Of a defect's area that is enough; so it holds at any size of the image."""
    pixels = read_image(mask)[..., 0]
    values = np.unique(pixels[pixels > 0]).tolist()
    if len(values) != 1 or values[0] not in enough:
        raise UserError(f"{mask.absolute()} has the values {values}, not one of defects_config.json: {sorted(enough)}.")
    wanted, relative = enough[values[0]]
    return wanted if relative else min(1.0, wanted / np.count_nonzero(pixels))


def _images(folder: Path) -> list[Path]:
    images = list_images(folder) if folder.is_dir() else []
    if not images:
        raise UserError(f"No images in {folder.absolute()}.")
    return images


def _labelled(base: Path, image: str | Path, mask: str | Path | None, good: bool, defect: str = "defect") -> Sample:
    """Errors: UserError for a file that is listed and not there."""
    absent = [base / p for p in (image, None if good else mask) if p and not (base / p).is_file()]
    if absent:
        raise UserError(f"{absent[0]} is missing: is the download complete?")
    if good:
        return Sample(base / image, OK)
    return Sample(base / image, NOK, base / mask if mask else None, defect=defect)
