"""Which crops are to be labelled, and by what id a page may ask for them."""

from __future__ import annotations

import csv
import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)

# As in anomalib_lite.data.files, which would bring torch and two seconds of waiting with it.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LABELS_NAME = "labels.csv"
MASKS_FOLDER = "masks"


@dataclass(frozen=True)
class Crop:
    """`key` is the path relative to the folder of labels.csv, with forward slashes; `id` its name in URLs."""

    id: str
    key: str
    path: Path


@dataclass(frozen=True)
class CropSet:
    """The crops in the order they are shown, and the folder that labels.csv, the journal and masks/ go to."""

    root: Path
    crops: tuple[Crop, ...]


def find_crops(source: str | Path) -> CropSet:
    """The images a manifest CSV names in its column `crop`, or all below a folder that holds no manifest.

    Listed files that are no longer there are left out with a warning. Raises UserError where nothing is left.
    """
    source = Path(source).expanduser()
    if source.is_dir():
        source = _manifest_in(source) or source
    if source.is_dir():
        root, keys = source.resolve(), _keys_in_folder(source)
    elif source.is_file():
        root, keys = source.resolve().parent, _keys_in_manifest(source)
    else:
        raise UserError(f"There is no folder or manifest {source}: set crops=FOLDER or crops=MANIFEST.csv.")
    _refuse_shared_masks(keys)
    crops = tuple(Crop(crop_id(root, key), key, root / key) for key in keys)
    present = tuple(crop for crop in crops if crop.path.is_file())
    if not present:
        raise UserError(f"{source} names no image that exists: annotate needs crops to label.")
    if len(present) < len(crops):
        missing = next(crop.key for crop in crops if not crop.path.is_file())
        log.warning(
            "%d of %d crops in %s are missing and left out, first %s",
            len(crops) - len(present),
            len(crops),
            source.name,
            missing,
        )
    return CropSet(root, present)


def crop_id(root: Path, key: str) -> str:
    """Names a crop in URLs without its path; the root is in it, so that a page left open from another folder
    cannot label a crop of the same name here."""
    return hashlib.blake2b(f"{root}\0{key}".encode(), digest_size=8).hexdigest()


def mask_key(key: str) -> str:
    """Where a crop's mask goes, relative to the root: masks/<stem>.png, below the crop's own subfolder."""
    return str(PurePosixPath(MASKS_FOLDER) / PurePosixPath(key).with_suffix(".png"))


def is_inside(key: str) -> bool:
    """Whether a relative path stays below the folder it is relative to."""
    path = PurePosixPath(key.replace("\\", "/"))
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]


def natural_order(key: str) -> list[tuple[int, int, str]]:
    """Sorts crop_2 before crop_10."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part.casefold()) for part in re.split(r"([0-9]+)", key) if part
    ]


def _keys_in_folder(folder: Path) -> list[str]:
    keys = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in SUFFIXES and not hidden and relative.parts[0] != MASKS_FOLDER:
            keys.append(relative.as_posix())
    return sorted(keys, key=natural_order)


def _manifest_in(folder: Path) -> Path | None:
    """The manifest of segment in this folder, where other pictures than crops may lie."""
    found = [path for path in sorted(folder.glob("*.csv")) if {"panel", "crop"} <= set(_columns(path))]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{folder} holds several manifests ({names}): choose one, crops={found[0]}.")
    return found[0] if found else None


def _columns(path: Path) -> list[str]:
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as stream:
        return next(csv.reader(stream), [])


def _keys_in_manifest(manifest: Path) -> list[str]:
    if manifest.name == LABELS_NAME:
        raise UserError(f"{manifest} holds the answers: give the folder, or the manifest segment wrote.")
    with open(manifest, newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        if "crop" not in (reader.fieldnames or ()):
            columns = ", ".join(reader.fieldnames or ()) or "none"
            raise UserError(f"{manifest} has no column 'crop'; its columns are: {columns}.")
        keys = [(row["crop"] or "").strip().replace("\\", "/") for row in reader]
    for line, key in enumerate(keys, start=2):
        if not is_inside(key):
            raise UserError(f"{manifest}, line {line}: {key!r} does not lie in the manifest's folder.")
    return list(dict.fromkeys(str(PurePosixPath(key)) for key in keys))


def _refuse_shared_masks(keys: list[str]) -> None:
    owners: dict[str, str] = {}
    for key in keys:
        other = owners.setdefault(mask_key(key).casefold(), key)
        if other != key:
            raise UserError(f"{other} and {key} would share the mask {mask_key(key)}: rename one of them.")
