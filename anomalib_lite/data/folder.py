"""Any folders of OK images, NOK images and masks, or a labels table; CSV tables as people write them."""

import csv
import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalib_lite.data.files import common_tail, expand, locate, require_folder, same_form
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.data.splits import make_splits, ok_samples
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)

Patterns = str | Iterable[str] | None
LABELS = ("OK", "NOK")
COLUMNS = ("crop", "label", "defect", "mask")


def read(
    root: str | Path = ".",
    ok: Patterns = None,
    nok: Patterns = None,
    mask: Patterns = None,
    test_ok: Patterns = None,
    manifest: str | Path | None = None,
    test_ok_share: float = 0.2,
    **drawing: Any,
) -> Splits:
    """OK images to learn from and NOK images to test on.

    ok, nok, test_ok: folders, files or glob patterns relative to `root`. mask: likewise; a mask belongs to the NOK
    image of the same stem, or of the stem plus `_mask`. A NOK image's defect type is the name of its folder.
    test_ok: OK images for testing alone; where it is not given, `test_ok_share` of the OK images is kept for it.
    Without `ok` the data is there for testing a trained run alone.
    manifest: a CSV instead of the patterns, with the columns crop, label (OK or NOK), defect, mask; its paths are
    relative to the file itself.
    """
    if manifest is not None:
        base, okay, bad = _read_manifest(Path(str(manifest)).expanduser())
        testable: list[Sample] = []
    else:
        if ok is None and test_ok is None and nok is None:
            raise UserError("data=folder needs data.ok (folder or pattern of OK images) or data.manifest (a CSV).")
        base = require_folder(root, "The data set")
        okay, testable = ok_samples(expand(ok, base)), ok_samples(expand(test_ok, base))
        bad = _pair_masks(expand(nok, base), expand(mask, base))
    share = 0 if testable else test_ok_share
    return make_splits(okay, [*testable, *bad], base, test_share=share, **drawing)


def _pair_masks(images: list[Path], masks: list[Path]) -> list[Sample]:
    """By stem; a mask in a folder that is called like some images' folder belongs to an image of that folder.

    Errors: UserError where several masks fit an image, or several images a mask, and where no mask fits any image.
    """
    by_stem: dict[str, list[Path]] = {}
    for path in masks:
        for stem in {same_form(path.stem), same_form(path.stem).removesuffix("_mask")}:
            by_stem.setdefault(stem, []).append(path)
    folders = {same_form(image.parent.name) for image in images}
    samples: list[Sample] = []
    owner: dict[Path, Path] = {}
    for image in images:
        folder = same_form(image.parent.name)
        elsewhere = folders - {folder}
        found = [m for m in by_stem.get(same_form(image.stem), []) if same_form(m.parent.name) not in elsewhere]
        if len(found) > 1:
            shared = [common_tail(image.parent, m.parent) for m in found]
            found = [m for m, depth in zip(found, shared, strict=True) if depth == max(shared)]
        if len(found) > 1 or (found and found[0] in owner):
            rivals = f"{len(found)} masks match {image}"
            if len(found) == 1:
                rivals = f"{image} and {owner[found[0]]} fit the mask {found[0]}"
            raise UserError(
                f"{rivals}. A mask is named {image.stem}.png or {image.stem}_mask.png, and lies in a folder called "
                f"'{image.parent.name}' where several images share that name."
            )
        owner |= {m: image for m in found}
        samples.append(Sample(image, NOK, found[0] if found else None, defect=image.parent.name))
    bare, unused = [s.image for s in samples if not s.mask], [m for m in masks if m not in owner]
    if masks and len(bare) == len(images):
        raise UserError(f"None of {len(masks)} masks belongs to one of {len(images)} NOK images, e.g. {masks[0]}.")
    if masks and bare:
        log.warning("%d of %d NOK images have no mask, among them %s", len(bare), len(images), bare[0])
    if unused:
        log.warning("%d of %d masks belong to no NOK image, among them %s", len(unused), len(masks), unused[0])
    return samples


def _read_manifest(path: Path) -> tuple[Path, list[Sample], list[Sample]]:
    if not path.is_file():
        raise UserError(f"The manifest does not exist: {path.absolute()}.")
    okay: list[Sample] = []
    bad: list[Sample] = []

    def existing(name: str, line: int) -> Path:
        found = locate(path.parent, name)
        if found is None:
            raise UserError(f"{path}, line {line}: {path.parent / name} does not exist.")
        return found

    for row in read_labels(path):
        image = existing(row.crop, row.line)
        mask = existing(row.mask, row.line) if row.mask else None
        if row.label == "OK":
            okay.append(Sample(image, OK))
        else:
            bad.append(Sample(image, NOK, mask, defect=row.defect or "unnamed"))
    return path.parent, okay, bad


@dataclass(frozen=True)
class LabelRow:
    """A line of a labels table; paths as written, with forward slashes, relative to the table's folder."""

    line: int
    crop: str
    label: str
    defect: str | None
    mask: str | None


def read_table(path: Path, needed: Iterable[str], what: str = "") -> list[tuple[int, dict[str, str]]]:
    """Line number and fields of each row; columns by their names in lower case, an absent field is empty.

    Commas, semicolons or tabs; UTF-8, UTF-16 with its mark, or else Windows-1252, which is said.
    Errors: UserError for columns that are missing (`what` says which table was wanted), and an unknown encoding.
    """
    text = _decoded(path)
    header = text.split("\n", 1)[0].split("\r", 1)[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    try:
        columns = [name.strip().lower() for name in next(rows, [])]
        if lacking := [name for name in needed if name not in columns]:
            there = ", ".join(columns) or "none"
            lacks = f"the column{'s' if len(lacking) > 1 else ''} {' and '.join(lacking)}"
            raise UserError(f"{path} lacks {lacks}; it has: {there}. {what}".rstrip())
        empty = dict.fromkeys(columns, "")
        return [
            (rows.line_num, empty | {n: v.strip() for n, v in zip(columns, row, strict=False)}) for row in rows if row
        ]
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}.") from error


def read_labels(path: Path) -> list[LabelRow]:
    """The rows of a labels table, a crop that is listed twice alike once.

    Errors: UserError for a label that is neither OK nor NOK, and for a crop with two answers, with its lines.
    """
    wanted = "A labels table has crop, label (OK or NOK) and, if known, defect and mask; `annotate` writes one."
    seen: dict[str, LabelRow] = {}
    for line, row in read_table(path, ("crop", "label"), wanted):
        if not any(row.values()):  # a spreadsheet leaves such rows at the end
            continue
        label = row["label"].upper()
        if label not in LABELS:
            raise UserError(f"{path}, line {line}: the label must be OK or NOK, not '{row['label']}'.")
        crop, mask = (row.get(name, "").replace("\\", "/") for name in ("crop", "mask"))
        new = LabelRow(line, crop, label, (row.get("defect") or None) if label == "NOK" else None, mask or None)
        old = seen.setdefault(same_form(crop), new)
        if (old.label, old.defect, old.mask) != (new.label, new.defect, new.mask):
            raise UserError(f"{path}: {crop} has two answers, in line {old.line} and in line {line}. Remove one.")
    return list(seen.values())


def csv_line(*fields: Any) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(fields)
    return stream.getvalue()


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            continue
        if encoding == "cp1252":
            log.warning("%s, line %d is not UTF-8: the table is read as Windows-1252.", path, line)
        return text
    raise UserError(f"{path}, line {line} is in an encoding that is not known here: save the table as UTF-8.")
