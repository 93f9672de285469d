"""Reads a user's own data: folders of OK images, NOK images and masks, or a CSV table of labels."""

import csv
import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalib_lite.data.files import common_tail, expand, locate, require_folder, same_form
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.data.splits import make_splits
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
    """Reads OK images for training and NOK images for testing. A NOK image's defect type is the name of its folder.

    `ok`, `nok`, `mask` and `test_ok` are folders, files or glob patterns below `root`. Without `ok` the data only
    serves to test a trained run. A mask has the stem of its image or that stem plus `_mask`. test_ok: OK images used
    only for testing; by default `test_ok_share` of `ok`. manifest: a CSV with the columns crop, label (OK or NOK),
    defect and mask, whose paths are relative to itself, instead of the patterns. drawing: options of `make_splits`.
    """
    test_ok_samples: list[Sample] = []
    if manifest is not None:
        base, ok_images, nok_images = _read_manifest(Path(str(manifest)).expanduser())
    else:
        if ok is None and test_ok is None and nok is None:
            raise UserError("data=folder needs data.ok (folder or pattern of OK images) or data.manifest (a CSV).")
        base = require_folder(root, "The data set")
        ok_images, test_ok_samples = ([Sample(p, OK) for p in expand(given, base)] for given in (ok, test_ok))
        images, masks = expand(nok, base), expand(mask, base)
        if twice := set(images) & set(masks):
            raise UserError(f"{min(twice)} is listed as a NOK image and as a mask: set data.nok and data.mask apart.")
        nok_images = _pair_masks(images, masks)
    share = 0 if test_ok_samples else test_ok_share
    return make_splits(ok_images, [*test_ok_samples, *nok_images], base, test_share=share, **drawing)


def _pair_masks(images: list[Path], masks: list[Path]) -> list[Sample]:
    """Pairs NOK images with masks by their stems.

    A mask in a folder with the name of some images' folder can only belong to an image of that folder. Raises UserError
    if several masks match one image, several images match one mask, or no mask matches any image.
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
        matches = [m for m in by_stem.get(same_form(image.stem), []) if same_form(m.parent.name) not in elsewhere]
        if len(matches) > 1:
            shared = [common_tail(image.parent, m.parent) for m in matches]
            matches = [m for m, depth in zip(matches, shared, strict=True) if depth == max(shared)]
        if len(matches) > 1 or (matches and matches[0] in owner):
            several = f"{len(matches)} masks match {image}"
            conflict = several if len(matches) > 1 else f"{image} and {owner[matches[0]]} fit the mask {matches[0]}"
            raise UserError(
                f"{conflict}. Name the mask {image.stem}.png or {image.stem}_mask.png, and where several images share "
                f"that name, put it into a folder called '{image.parent.name}'."
            )
        owner |= {m: image for m in matches}
        samples.append(Sample(image, NOK, matches[0] if matches else None, defect=image.parent.name))
    unmasked, unused = [s.image for s in samples if not s.mask], [m for m in masks if m not in owner]
    if masks and len(unmasked) == len(images):
        raise UserError(
            f"None of {len(masks)} masks belongs to one of {len(images)} NOK images, e.g. {masks[0]}. "
            "Give each mask the name of its image, with or without `_mask`."
        )
    if masks and unmasked:
        log.warning("%d of %d NOK images have no mask, among them %s", len(unmasked), len(images), unmasked[0])
    if unused:
        log.warning("%d of %d masks belong to no NOK image, among them %s", len(unused), len(masks), unused[0])
    return samples


def _read_manifest(path: Path) -> tuple[Path, list[Sample], list[Sample]]:
    if not path.is_file():
        raise UserError(f"The manifest does not exist: {path.absolute()}. Correct data.manifest.")

    def existing(name: str, line: int) -> Path:
        file = locate(path.parent, name)
        if file is None:
            raise UserError(f"{path}, line {line}: {path.parent / name} does not exist.")
        return file

    samples: dict[str, list[Sample]] = {"OK": [], "NOK": []}
    for row in read_labels(path):
        image, mask = existing(row.crop, row.line), existing(row.mask, row.line) if row.mask else None
        nok = Sample(image, NOK, mask, defect=row.defect or "unnamed")
        samples[row.label].append(Sample(image, OK) if row.label == "OK" else nok)
    return path.parent, samples["OK"], samples["NOK"]


@dataclass(frozen=True)
class LabelRow:
    """A row of a labels table. Paths are relative to the table's folder, with forward slashes."""

    line: int
    crop: str
    label: str
    defect: str | None
    mask: str | None


def read_table(path: Path, needed: Iterable[str], what: str = "") -> list[tuple[int, dict[str, str]]]:
    """Reads a CSV as (line number, fields by lower-case column name) of each row; missing fields are empty.

    The separator may be a comma, semicolon or tab. The encoding is UTF-8, UTF-16 with a byte order mark, or else
    Windows-1252, which is logged. Raises UserError if a column in `needed` is missing (`what` describes the expected
    table in the message), and for an unknown encoding.
    """
    text = _decoded(path)
    header = text.split("\n", 1)[0].split("\r", 1)[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    try:
        columns = [name.strip().lower() for name in next(rows, [])]
        if missing := [name for name in needed if name not in columns]:
            available = ", ".join(columns) or "none"
            names = f"the column{'s' if len(missing) > 1 else ''} {' and '.join(missing)}"
            raise UserError(f"{path} lacks {names}; it has: {available}. {what}".rstrip())
        empty = dict.fromkeys(columns, "")
        return [
            (rows.line_num, empty | {n: v.strip() for n, v in zip(columns, row, strict=False)}) for row in rows if row
        ]
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}.") from error


def read_labels(path: Path) -> list[LabelRow]:
    """Reads a labels table; identical rows for the same crop count once.

    Raises UserError if a label is neither OK nor NOK, or if two rows for one crop differ.
    """
    format_hint = "A labels table has crop, label (OK or NOK) and, if known, defect and mask; `annotate` writes one."
    rows: dict[str, LabelRow] = {}
    for line, row in read_table(path, ("crop", "label"), format_hint):
        if not any(row.values()):  # spreadsheets leave empty rows at the end
            continue
        label = row["label"].upper()
        if label not in LABELS:
            raise UserError(f"{path}, line {line}: the label must be OK or NOK, not '{row['label']}'.")
        crop, mask = (row.get(name, "").replace("\\", "/") for name in ("crop", "mask"))
        new = LabelRow(line, crop, label, (row.get("defect") or None) if label == "NOK" else None, mask or None)
        old = rows.setdefault(same_form(crop), new)
        if (old.label, old.defect, old.mask) != (new.label, new.defect, new.mask):
            raise UserError(f"{path}: {crop} has two answers, in line {old.line} and in line {line}. Remove one.")
    return list(rows.values())


def csv_line(*fields: Any) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(fields)
    return stream.getvalue()


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    has_utf16_mark = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if has_utf16_mark else ("utf-8-sig", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            continue
        if encoding == "cp1252":
            log.warning("%s, line %d is not UTF-8: the table is read as Windows-1252.", path, line)
        return text
    raise UserError(f"{path}, line {line} is in an unknown encoding: save the table as UTF-8.")
