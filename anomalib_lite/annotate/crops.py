"""Which crops are to be labelled, by what id a page may ask for them, and what a run says of them."""

import hashlib
import logging
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from anomalib_lite.data.files import common_tail, list_images
from anomalib_lite.data.folder import read_table
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)

LABELS_NAME = "labels.csv"
MASKS_FOLDER = "masks"
VERDICTS = {"1": True, "true": True, "nok": True, "0": False, "false": False, "ok": False}


class Crop(NamedTuple):
    """`key` is the path relative to the folder of labels.csv, with forward slashes; `id` its name in URLs."""

    id: str
    key: str
    path: Path


class CropSet(NamedTuple):
    """The crops in the order they are shown, and the folder that labels.csv, the journal and masks/ go to."""

    root: Path
    crops: tuple[Crop, ...]


class Score(NamedTuple):
    """`nok` is the run's own verdict at its threshold, None where the file has none."""

    value: float | None
    nok: bool | None


def find_crops(source: str | Path) -> CropSet:
    """The images a manifest CSV names in its column `crop`, or all below a folder that holds no manifest.

    Listed files that are no longer there are left out with a warning. Raises UserError where nothing is left.
    """
    source = Path(str(source)).expanduser()
    if source.is_dir():
        source = _manifest_in(source) or source
    if source.is_dir():
        root, keys = source.resolve(), _keys_in_folder(source)
    elif source.is_file():
        root, keys = source.resolve().parent, _keys_in_manifest(source)
    else:
        raise UserError(f"There is no folder or manifest {source}: set crops=FOLDER or crops=MANIFEST.csv.")
    owners: dict[str, str] = {}
    for key in keys:
        if (other := owners.setdefault(mask_key(key).casefold(), key)) != key:
            raise UserError(f"{other} and {key} would share the mask {mask_key(key)}: rename one of them.")
    present = [key for key in keys if (root / key).is_file()]
    if not present:
        raise UserError(f"{source} names no image that exists: annotate needs crops to label.")
    if len(present) < len(keys):
        gone = sorted(set(keys) - set(present), key=keys.index)
        log.warning("%d of %d crops are missing and left out, first %s", len(gone), len(keys), root / gone[0])
    return CropSet(root, tuple(Crop(crop_id(root, key), key, root / key) for key in present))


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


def read_scores(source: str | Path, crops: Sequence[Crop]) -> dict[str, Score]:
    """Scores by the crop's key, from predictions.csv or a run folder that holds one.

    The column `image` is matched by the file's name and, among namesakes, by the most folders it shares from
    the end; a crop for which that stays ambiguous gets none. Raises UserError where the file does not fit.
    """
    path = Path(str(source)).expanduser()
    path = path / "predictions.csv" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"There is no {path}: set scores=RUN_FOLDER or scores=PREDICTIONS.csv.")
    by_name: dict[str, list[tuple[PurePosixPath, Score]]] = defaultdict(list)
    for line, row in read_table(path, ("image", "score"), "It is no predictions.csv."):
        try:
            value = float(row["score"])
        except ValueError:
            raise UserError(f"{path}, line {line}: {row['score']!r} is no score.") from None
        image = PurePosixPath(row["image"].replace("\\", "/"))
        if math.isfinite(value):
            verdict = VERDICTS.get(row.get("nok", "").lower().removesuffix(".0"))
            by_name[image.name].append((image, Score(value, verdict)))
    namesakes: dict[str, list[Crop]] = defaultdict(list)
    for crop in crops:
        namesakes[crop.path.name].append(crop)
    best = {crop.key: _best(crop, by_name[crop.path.name], namesakes[crop.path.name]) for crop in crops}
    found = {key: score for key, score in best.items() if score is not None}
    if not found:
        raise UserError(f"None of the {len(crops)} crops is in {path}: it belongs to other images.")
    if len(found) < len(crops):
        log.warning("%d of %d crops have no score in %s", len(crops) - len(found), len(crops), path)
    return found


def _best(crop: Crop, rows: list[tuple[PurePosixPath, Score]], namesakes: list[Crop]) -> Score | None:
    """The row nearest to this crop, if no other is as near and no namesake of the crop is as near to it."""
    depths = [common_tail(crop.path, image) for image, _ in rows]
    best = max(depths, default=0)
    if depths.count(best) != 1:
        return None
    image, score = rows[depths.index(best)]
    return score if sum(common_tail(other.path, image) >= best for other in namesakes) == 1 else None


def _keys_in_folder(folder: Path) -> list[str]:
    """crop_2 before crop_10."""

    def order(key: str) -> list[tuple[int, int, str]]:
        parts = [part for part in re.split(r"([0-9]+)", key) if part]
        return [(0, int(part), "") if part.isdigit() else (1, 0, part.casefold()) for part in parts]

    relative = [path.relative_to(folder) for path in list_images(folder)]
    return sorted((path.as_posix() for path in relative if path.parts[0] != MASKS_FOLDER), key=order)


def _manifest_in(folder: Path) -> Path | None:
    """The manifest of segment in this folder, where other pictures than crops may lie."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        try:
            read_table(path, ("panel", "crop"))
            found.append(path)
        except UserError:  # another table
            continue
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{folder} holds several manifests ({names}): choose one, crops={found[0]}.")
    return found[0] if found else None


def _keys_in_manifest(manifest: Path) -> list[str]:
    if manifest.name == LABELS_NAME:
        raise UserError(f"{manifest} holds the answers: give the folder, or the manifest segment wrote.")
    keys = []
    for line, row in read_table(manifest, ("crop",)):
        key = row["crop"].replace("\\", "/")
        if not is_inside(key):
            raise UserError(f"{manifest}, line {line}: {key!r} does not lie in the manifest's folder.")
        keys.append(str(PurePosixPath(key)))
    return list(dict.fromkeys(keys))
