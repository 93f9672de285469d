"""Folders as users have them, and labels tables."""

import unicodedata
from pathlib import Path

import pytest

from anomalib_lite.data import folder
from anomalib_lite.data.sample import NOK, OK
from anomalib_lite.data.splits import need_training_images
from anomalib_lite.errors import UserError
from tests.made import write_image, write_mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """20 OK images; scratches 0 and 1, a dent 1 with the same stem as a scratch; masks by type."""
    for i in range(20):
        write_image(tmp_path / f"ok/{i:02d}.png", i)
    for name in ("scratch/0", "scratch/1", "dent/1"):
        write_image(tmp_path / f"nok/{name}.png", 100 + len(name) + int(name[-1]), mark=True)
        write_mask(tmp_path / f"masks/{name}_mask.png")
    return tmp_path


def bad(splits) -> dict[str, str | None]:
    """`type/file` of each NOK image -> the same of its mask."""

    def short(path: Path | None) -> str | None:
        return path and f"{path.parent.name}/{path.name}"

    return {f"{s.defect}/{s.image.name}": short(s.mask) for s in splits.test if s.label == NOK}


def test_ok_images_are_learned_from_held_out_and_tested_on(root: Path):
    splits = folder.read(root, ok="ok", nok="nok/*/*.png")
    tested = [s for s in splits.test if s.label == OK]
    assert (len(splits.train), len(splits.val), len(tested)) == (12, 4, 4)
    assert len({s.image for s in [*splits.train, *splits.val, *tested]}) == 20
    assert bad(splits) == {"scratch/0.png": None, "scratch/1.png": None, "dent/1.png": None}
    other = folder.read(root, ok="ok", split_seed=1)
    assert other.val != splits.val and other.test != tested, "the seed moves both shares"
    own = folder.read(root, ok="ok/0*.png", test_ok="ok/1*.png", nok="nok/dent")
    assert sorted(s.image.name for s in own.test if s.label == OK) == [f"1{i}.png" for i in range(10)]
    assert len(own.train) + len(own.val) == 10
    assert all(s.label == NOK for s in folder.read(root, ok="ok", nok="nok/dent", test_ok_share=0).test)


def test_masks_are_paired_by_stem_and_by_folder_where_a_stem_is_not_enough(root: Path):
    splits = folder.read(root, ok="ok", nok="nok/*/*.png", mask="masks/**/*.png")
    assert bad(splits) == {
        "scratch/0.png": "scratch/0_mask.png", "scratch/1.png": "scratch/1_mask.png", "dent/1.png": "dent/1_mask.png",
    }  # fmt: skip


def test_a_mask_may_have_its_images_own_name_another_format_and_a_name_that_ends_in_mask(root: Path):
    write_mask(root / "flat/0.bmp")
    assert bad(folder.read(root, ok="ok", nok="nok/scratch/0.png", mask="flat")) == {"scratch/0.png": "flat/0.bmp"}
    write_image(root / "nok/tape/face_mask.png", mark=True)
    write_mask(root / "tape/face_mask.png")
    assert bad(folder.read(root, ok="ok", nok="nok/tape", mask="tape")) == {"tape/face_mask.png": "tape/face_mask.png"}


def test_a_mask_of_another_folders_image_is_not_taken(root: Path, caplog: pytest.LogCaptureFixture):
    """The scratch has lost its mask; the dent of the same name has one."""
    (root / "masks/scratch/1_mask.png").unlink()
    read = bad(folder.read(root, ok="ok", nok="nok/*/*.png", mask="masks"))
    assert read["scratch/1.png"] is None and read["dent/1.png"] == "dent/1_mask.png"
    assert "1 of 3 NOK images have no mask, among them" in caplog.text and "scratch/1.png" in caplog.text
    folder.read(root, ok="ok", nok="nok/dent", mask="masks")
    assert "masks belong to no NOK image" in caplog.text


@pytest.mark.parametrize(
    ("nok", "mask", "message"),
    [
        ("nok", "flat", r"scratch/1\.png and .*dent/1\.png fit the mask .*flat/1\.png"),
        ("new", "masks", "None of 3 masks belongs to one of 1 NOK images"),
        ("nok", ["masks", "twice"], r"2 masks match .*nok/scratch/0\.png"),
        ("nok", "nok", r"nok/dent/1\.png is listed as a NOK image and as a mask"),
    ],
)
def test_masks_that_fit_no_image_or_two_are_refused(root: Path, nok: str, mask: str, message: str):
    for name in ("flat/1", "twice/scratch/0"):
        write_mask(root / f"{name}.png")
    write_image(root / "new/9.png", 900, mark=True)
    with pytest.raises(UserError, match=message):
        folder.read(root, ok="ok", nok=nok, mask=mask)


def test_names_in_another_unicode_form_are_the_same_names(root: Path):
    name = "Geh\u00e4use"
    write_image(root / "nok/riss" / f"{unicodedata.normalize('NFD', name)}.png", 600, mark=True)
    write_mask(root / "masks/riss" / f"{name}_mask.png")
    assert len(set(bad(folder.read(root, ok="ok", nok="nok/riss", mask="masks/riss")).values()) - {None}) == 1
    rows = [f"nok\\riss\\{name}.png,NOK,riss,", ",,,", " , ,,,,,"]  # another system's slashes, and empty rows
    assert len(bad(folder.read(manifest=manifest(root, *rows)))) == 1


def test_names_may_look_like_numbers_and_like_patterns(root: Path):
    base = (root / "ok").rename(root / "20240512").parent.rename(root.parent / "set [v2]")
    (base / "nok/dent").rename(base / "7")
    splits = folder.read(base, ok=20240512, nok=[7])
    assert len(splits.train) == 12 and list(bad(splits)) == ["7/1.png"]
    assert folder.read(base, ok="2024*", nok="?") == splits


def test_a_new_lot_is_there_for_testing_alone(root: Path):
    splits = folder.read(root, test_ok="ok", nok="nok")
    assert not splits.train and not splits.val and len(splits.test) == 23
    with pytest.raises(UserError, match=r"no OK images to learn from: set data\.ok"):
        need_training_images(splits)
    assert len(folder.read(root, nok="nok").test) == 3
    with pytest.raises(UserError, match=r"data\.ok .*data\.manifest"):
        folder.read()


def manifest(root: Path, *rows: str) -> Path:
    okay = [f"ok/{i:02d}.png,OK,," for i in range(20)]
    (root / "labels.csv").write_text("\n".join(["crop,label,defect,mask", *okay, *rows]) + "\n", encoding="utf-8")
    return root / "labels.csv"


def test_a_labels_table_is_read_relative_to_itself(root: Path):
    rows = ["nok/scratch/0.png,NOK,scratch,masks/scratch/0_mask.png", '"nok/dent/1.png", nok ,,']
    splits = folder.read("/nowhere", manifest=manifest(root, *rows))
    assert bad(splits) == {"scratch/0.png": "scratch/0_mask.png", "unnamed/1.png": None}
    assert (len(splits.train), len(splits.val)) == (12, 4)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("ends", ["\r\n", "\r"])
def test_a_table_from_a_spreadsheet_program_is_read(root: Path, encoding: str, ends: str, caplog):
    path = manifest(root, "nok/dent/1.png,NOK,Gr\u00f6\u00dfe,")
    path.write_bytes(path.read_text(encoding="utf-8").replace("\n", ends).replace(",", ";").encode(encoding))
    assert bad(folder.read(manifest=path)) == {"Gr\u00f6\u00dfe/1.png": None}
    assert ("is not UTF-8: the table is read as Windows-1252" in caplog.text) == (encoding == "cp1252")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("nok/dent/1.png,MAYBE,,", r"line 22: the label must be OK or NOK, not 'MAYBE'"),
        ("'nok/dent/1.png',NOK,,", r"line 22: .*'nok/dent/1\.png' does not exist"),
        ("nok/dent/1.png,NOK,dent,masks/9.png", r"line 22: .*masks/9\.png does not exist"),
        ("ok/03.png,NOK,dent,", r"ok/03\.png has two answers, in line 5 and in line 22"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(root: Path, row: str, message: str):
    with pytest.raises(UserError, match=message):
        folder.read(manifest=manifest(root, row))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n", "lacks the columns crop and label; it has: a, b"),
        (b"crop\nok/03.png\n", "lacks the column label; it has: crop"),
        (b"", "lacks the columns crop and label; it has: none"),
        (b"crop,label,defect\nok/03.png,NOK,\x81\n", r"labels\.csv, line 2 is in an unknown encoding"),
    ],
)
def test_a_table_that_is_absent_odd_or_lacks_columns_is_refused(root: Path, content: bytes, message: str):
    with pytest.raises(UserError, match="manifest does not exist"):
        folder.read(manifest=root / "absent.csv")
    (root / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        folder.read(manifest=root / "labels.csv")
