"""The layout of MVTec AD: <category>/{train/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png}.

Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021. Many other data sets use the same layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anomalib_lite.data.files import list_images, make_splits, ok_samples, require_folder, with_template
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.errors import UserError


def read(
    root: str | Path,
    category: str | Sequence[str] | None = None,
    template: str | Path | None = None,
    val_share: float = 0.2,
    split_seed: int = 0,
) -> Splits:
    """One category, or several as one data set, whose defect types are then named `<category>/<defect>`.

    category: a folder name below `root`, a list of them, or None where `root` itself holds train and test.
    Errors: UserError for an absent folder (with those that exist), or for a defect image without its mask.
    """
    base = require_folder(Path(root).expanduser(), "The data set")
    names = [None] if category is None else [category] if isinstance(category, str) else list(category)
    ok: list[Sample] = []
    test: list[Sample] = []
    for name in names:
        folder = _category_folder(base, name)
        ok += ok_samples(_images(folder / "train" / "good"))
        test += _test_samples(folder, f"{name}/" if len(names) > 1 else "")
    return with_template(make_splits(ok, test, val_share, split_seed, base), template)


def _category_folder(base: Path, name: str | None) -> Path:
    folder = base if name is None else base / name
    if not (folder / "train" / "good").is_dir():
        known = sorted(p.name for p in base.iterdir() if (p / "train" / "good").is_dir())
        hint = f"Categories there: {', '.join(known)}." if known else "It holds no category in MVTec AD's layout."
        raise UserError(f"{folder.absolute()} has no folder train/good. {hint} Set data.root and data.category.")
    return folder


def _images(folder: Path) -> list[Path]:
    images = list_images(folder)
    if not images:
        raise UserError(f"No images in {folder.absolute()}.")
    return images


def _test_samples(folder: Path, prefix: str) -> list[Sample]:
    if not (folder / "test").is_dir():
        return []
    samples = []
    for defect in sorted(p.name for p in (folder / "test").iterdir() if p.is_dir()):
        images = _images(folder / "test" / defect)
        if defect == "good":
            samples += ok_samples(images)
        else:
            samples += [Sample(p, NOK, _mask(folder, defect, p), defect=prefix + defect) for p in images]
    return sorted(samples, key=lambda s: (s.label != OK, s.defect or "", s.image))


def _mask(folder: Path, defect: str, image: Path) -> Path | None:
    """None where the data set has no masks for this type at all; a single absent one is an error."""
    masks = folder / "ground_truth" / defect
    if not masks.is_dir():
        return None
    path = masks / f"{image.stem}_mask.png"
    if not path.is_file():
        raise UserError(
            f"The mask {path.absolute()} of {image.name} is missing. Add it, or remove the image; without any masks "
            f"for '{defect}' (no folder {masks.name} in ground_truth) pixel metrics leave this type out."
        )
    return path
