"""Finding image files, and holding OK images out."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from anomalib_lite.data.sample import OK, Sample, Splits
from anomalib_lite.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def list_images(folder: Path) -> list[Path]:
    """Image files directly in `folder`, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def expand(patterns: str | Path | Iterable[str | Path] | None, root: Path) -> list[Path]:
    """Images named by files, folders or glob patterns (`**` goes down), relative to `root`; sorted, each once.

    A folder, named or matched, stands for the images in it or, where it holds none, for those in its subfolders.
    Errors: UserError for a pattern that matches no image.
    """
    if patterns is None:
        return []
    found: set[Path] = set()
    for pattern in [patterns] if isinstance(patterns, (str, Path)) else patterns:
        path = root / Path(pattern).expanduser()
        if path.is_dir():
            images = _images_of(path)
        elif path.is_file():
            images = [path]
        else:
            anchor, rest = (Path(path.anchor), path.relative_to(path.anchor)) if path.is_absolute() else (Path(), path)
            images = []
            for match in anchor.glob(str(rest)):
                if match.is_dir():
                    images += _images_of(match)
                elif match.suffix.lower() in SUFFIXES:
                    images.append(match)
        if not images:
            known = ", ".join(SUFFIXES)
            raise UserError(f"No image found at {path} (a file, a folder or a glob pattern; {known}).")
        found.update(images)
    return sorted(found)


def _images_of(folder: Path) -> list[Path]:
    return list_images(folder) or [p for inner in folder.rglob("*") if inner.is_dir() for p in list_images(inner)]


def short_name(path: str | Path) -> str:
    """Folder and file, as reports call an image."""
    return "/".join(Path(path).parts[-2:])


def output_names(paths: Sequence[Path]) -> list[str]:
    """A name without suffix for each file: its path below the files' common folder, so that equal names stay apart;
    files that differ in their suffix alone keep it as part of the name.
    """
    base = os.path.commonpath([p.absolute().parent for p in paths])
    names = [Path(os.path.relpath(p.absolute(), base)) for p in paths]
    plain = [n.with_suffix("").as_posix() for n in names]
    count = Counter(plain)
    return [p if count[p] == 1 else p + n.suffix.replace(".", "_") for p, n in zip(plain, names, strict=True)]


def require_folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise UserError(f"{what} does not exist: {path.absolute()}. Set data.root to the folder that holds it.")
    return path


def hold_out(samples: Sequence[Sample], share: float, seed: int, root: Path) -> tuple[list[Sample], list[Sample]]:
    """(train, val): `share` of the OK samples is held out, by a hash of each name, so that the choice depends on
    neither the order nor the presence of other files.

    Errors: UserError where either part would be empty.
    """
    if not 0 < share < 1:
        raise UserError(f"data.val_share must lie between 0 and 1, but is {share}.")

    def rank(sample: Sample) -> str:
        name = sample.image.relative_to(root) if sample.image.is_relative_to(root) else sample.image
        return hashlib.sha256(f"{seed}/{name.as_posix()}".encode()).hexdigest()

    ordered = sorted(samples, key=rank)
    count = math.ceil(share * len(ordered))
    if not 0 < count < len(ordered):
        raise UserError(
            f"{len(ordered)} OK images are too few: some are learned from and {share:.0%} are held out for the "
            "threshold. Add OK images."
        )
    chosen = set(s.image for s in ordered[:count])
    return [s for s in samples if s.image not in chosen], [s for s in samples if s.image in chosen]


def make_splits(ok: Sequence[Sample], test: Sequence[Sample], share: float, seed: int, root: Path) -> Splits:
    """Holds OK images out of `ok` and refuses an image that is both learned from and tested on."""
    twice = {s.image.resolve() for s in ok} & {s.image.resolve() for s in test}
    if twice:
        raise UserError(f"{len(twice)} images are in the training and in the test set, among them {min(twice)}.")
    train, val = hold_out(ok, share, seed, root)
    return Splits(train, val, list(test))


def with_template(splits: Splits, template: str | Path | None) -> Splits:
    """The same samples, compared with one golden image."""
    if template is None:
        return splits
    path = Path(template).expanduser()
    if not path.is_file():
        raise UserError(f"The template does not exist: {path.absolute()}.")
    return Splits(*([replace(s, template=path) for s in samples] for _, samples in splits))


def ok_samples(images: Iterable[Path]) -> list[Sample]:
    return [Sample(image, OK) for image in images]
