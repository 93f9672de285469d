"""Any folders of OK images, NOK images and masks, or a labels table."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from anomalib_lite.data.files import expand, hold_out, make_splits, ok_samples, with_template
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.errors import UserError

Patterns = str | Iterable[str] | None


def read(
    root: str | Path = ".",
    ok: Patterns = None,
    nok: Patterns = None,
    mask: Patterns = None,
    test_ok: Patterns = None,
    manifest: str | Path | None = None,
    template: str | Path | None = None,
    val_share: float = 0.2,
    test_ok_share: float = 0.2,
    split_seed: int = 0,
) -> Splits:
    """OK images to learn from and NOK images to test on.

    ok, nok, test_ok: folders, files or glob patterns relative to `root`. mask: likewise; a mask belongs to the NOK
    image of the same stem, or of the stem plus `_mask`. A NOK image's defect type is the name of its folder.
    test_ok: OK images for testing alone; where it is not given, `test_ok_share` of the OK images is kept for it.
    manifest: a CSV instead of the patterns, with the columns crop, label (OK or NOK), defect, mask; its paths are
    relative to the file itself.
    """
    if manifest is not None:
        base, okay, bad = _read_manifest(Path(manifest).expanduser())
        testable: list[Sample] = []
    else:
        base = Path(root).expanduser()
        if ok is None:
            raise UserError("data=folder needs data.ok (folder or pattern of OK images) or data.manifest (a CSV).")
        okay = ok_samples(expand(ok, base))
        bad = _pair_masks(expand(nok, base), expand(mask, base))
        testable = ok_samples(expand(test_ok, base))
    if not testable and test_ok_share:
        # salted, so that the test images are not the ones that the validation split would take first
        okay, testable = hold_out(okay, test_ok_share, split_seed + 1_000_003, base)
    return with_template(make_splits(okay, [*testable, *bad], val_share, split_seed, base), template)


def _pair_masks(images: list[Path], masks: list[Path]) -> list[Sample]:
    """Pairs by stem, and by the folder's name too where one stem occurs several times."""
    by_stem: dict[str, list[Path]] = {}
    for path in masks:
        for stem in {path.stem, path.stem.removesuffix("_mask")}:
            by_stem.setdefault(stem, []).append(path)
    samples = []
    for image in images:
        found = by_stem.get(image.stem, [])
        if len(found) > 1:
            found = [m for m in found if m.parent.name == image.parent.name]
        if masks and len(found) != 1:
            raise UserError(
                f"{len(found)} masks match {image}. A mask is named {image.stem}.png or {image.stem}_mask.png, and "
                f"lies in a folder called '{image.parent.name}' where several images share that name."
            )
        samples.append(Sample(image, NOK, found[0] if found else None, defect=image.parent.name))
    return samples


def _read_manifest(path: Path) -> tuple[Path, list[Sample], list[Sample]]:
    if not path.is_file():
        raise UserError(f"The manifest does not exist: {path.absolute()}.")
    base = path.parent
    okay: list[Sample] = []
    bad: list[Sample] = []
    with path.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheet programs write a byte-order mark
        rows = csv.DictReader(stream)
        lacking = {"crop", "label"} - set(rows.fieldnames or ())
        if lacking:
            raise UserError(
                f"{path} lacks the column {' and '.join(sorted(lacking))}. A labels table has crop, label (OK or NOK) "
                "and, if known, defect and mask; `anomalib-lite annotate` writes one."
            )
        for line, row in enumerate(rows, start=2):
            image = _existing(base, row["crop"], path, line)
            label = (row["label"] or "").strip().upper()  # None where the row is too short
            if label == "OK":
                okay.append(Sample(image, OK))
            elif label == "NOK":
                mask = _existing(base, row["mask"], path, line) if row.get("mask") else None
                bad.append(Sample(image, NOK, mask, defect=row.get("defect") or "unnamed"))
            else:
                raise UserError(f"{path}, line {line}: the label must be OK or NOK, not '{label}'.")
    return base, okay, bad


def _existing(base: Path, name: str | None, manifest: Path, line: int) -> Path:
    name = (name or "").strip()
    if not (base / name).is_file():
        raise UserError(f"{manifest}, line {line}: {base / name} does not exist.")
    return base / name
