"""Finds the crops to label, gives them ids for URLs, and reads a run's scores for them."""

import contextlib
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
    """A crop. id: its name in URLs. key: its path relative to the folder of labels.csv, with forward slashes."""

    id: str
    key: str
    path: Path


class CropSet(NamedTuple):
    """The crops in display order, and the folder of labels.csv, the journal and masks/."""

    root: Path
    crops: tuple[Crop, ...]


class Score(NamedTuple):
    """A run's result for a crop. nok: its verdict at the run's threshold; None if the file has no such column."""

    value: float | None
    nok: bool | None


def find_crops(source: str | Path) -> CropSet:
    """Lists the images in the column `crop` of a manifest CSV, or all images below a folder without a manifest.

    Missing files are skipped with a warning. Raises UserError if no image is left.
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
        raise UserError(f"{source} lists no image that exists: set crops to a folder or manifest of existing images.")
    if len(present) < len(keys):
        missing = sorted(set(keys) - set(present), key=keys.index)
        log.warning("%d of %d crops are missing and skipped, first %s", len(missing), len(keys), root / missing[0])
    # The root is part of the id: a page left open from another folder cannot label a crop of the same name here.
    ids = [hashlib.blake2b(f"{root}\0{key}".encode(), digest_size=8).hexdigest() for key in present]
    return CropSet(root, tuple(Crop(name, key, root / key) for name, key in zip(ids, present, strict=True)))


def mask_key(key: str) -> str:
    """Returns the path of a crop's mask relative to the root: masks/<subfolders of the crop>/<stem>.png."""
    return str(PurePosixPath(MASKS_FOLDER) / PurePosixPath(key).with_suffix(".png"))


def is_inside(key: str) -> bool:
    """Whether a path is relative and stays below its folder."""
    path = PurePosixPath(key.replace("\\", "/"))
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]


def read_scores(source: str | Path, crops: Sequence[Crop]) -> dict[str, Score]:
    """Reads scores, by the crops' keys, from predictions.csv or a run folder that holds it.

    The column `image` is matched by file name and, among equal names, by the number of trailing folders in common; a
    crop without a unique match gets no score. Raises UserError if the file is malformed or matches no crop.
    """
    path = Path(str(source)).expanduser()
    path = path / "predictions.csv" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path} does not exist: set scores=RUN_FOLDER or scores=PREDICTIONS.csv.")
    by_name: dict[str, list[tuple[PurePosixPath, Score]]] = defaultdict(list)
    for line, row in read_table(path, ("image", "score"), "Set scores to the predictions.csv of a run."):
        try:
            value = float(row["score"])
        except ValueError:
            raise UserError(f"{path}, line {line}: the score {row['score']!r} is not a number.") from None
        image = PurePosixPath(row["image"].replace("\\", "/"))
        if math.isfinite(value):
            verdict = VERDICTS.get(row.get("nok", "").lower().removesuffix(".0"))
            by_name[image.name].append((image, Score(value, verdict)))
    namesakes: dict[str, list[Crop]] = defaultdict(list)
    for crop in crops:
        namesakes[crop.path.name].append(crop)
    best = {crop.key: _best(crop, by_name[crop.path.name], namesakes[crop.path.name]) for crop in crops}
    scores = {key: score for key, score in best.items() if score is not None}
    if not scores:
        raise UserError(f"None of the {len(crops)} crops is in {path}: set scores to a run on these crops.")
    if len(scores) < len(crops):
        log.warning("%d of %d crops have no score in %s", len(crops) - len(scores), len(crops), path)
    return scores


def _best(crop: Crop, rows: list[tuple[PurePosixPath, Score]], namesakes: list[Crop]) -> Score | None:
    """Returns the score of the row whose path is most similar to the crop's; None if the match is not unique."""
    depths = [common_tail(crop.path, image) for image, _ in rows]
    best = max(depths, default=0)
    if depths.count(best) != 1:
        return None
    image, score = rows[depths.index(best)]
    return score if sum(common_tail(other.path, image) >= best for other in namesakes) == 1 else None


def _keys_in_folder(folder: Path) -> list[str]:
    """Lists the images of a folder in natural order: crop_2 before crop_10."""

    def natural_order(key: str) -> list[tuple[int, int, str]]:
        parts = [part for part in re.split(r"([0-9]+)", key) if part]
        return [(0, int(part), "") if part.isdigit() else (1, 0, part.casefold()) for part in parts]

    relative = [path.relative_to(folder) for path in list_images(folder)]
    return sorted((path.as_posix() for path in relative if path.parts[0] != MASKS_FOLDER), key=natural_order)


def _manifest_in(folder: Path) -> Path | None:
    """Returns the manifest that `segment` wrote into a folder, None if there is none."""
    manifests = []
    for path in sorted(folder.glob("*.csv")):
        with contextlib.suppress(UserError):  # another table
            read_table(path, ("panel", "crop"))
            manifests.append(path)
    if len(manifests) > 1:
        names = ", ".join(path.name for path in manifests)
        raise UserError(f"{folder} holds several manifests ({names}): choose one, e.g. crops={manifests[0]}.")
    return manifests[0] if manifests else None


def _keys_in_manifest(manifest: Path) -> list[str]:
    if manifest.name == LABELS_NAME:
        raise UserError(f"{manifest} holds the answers: set crops to its folder, or to the manifest of `segment`.")
    keys = []
    for line, row in read_table(manifest, ("crop",)):
        key = row["crop"].replace("\\", "/")
        if not is_inside(key):
            where = f"{manifest}, line {line}"
            raise UserError(f"{where}: {key!r} does not lie in the manifest's folder. Give a path below it.")
        keys.append(str(PurePosixPath(key)))
    return list(dict.fromkeys(keys))
