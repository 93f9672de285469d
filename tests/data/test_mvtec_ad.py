"""MVTec AD's layout, as it is and with its usual faults."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from anomalib_lite.data import mtd, mvtec_ad
from anomalib_lite.data.sample import NOK, OK
from anomalib_lite.errors import UserError
from tests.made import write_category, write_image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_category(tmp_path / "cap", train=10, good=2, defects={"scratch": 3, "dent": 1})
    write_category(tmp_path / "nut", train=5, good=1, defects={"scratch": 2})
    return tmp_path


def test_one_category(root: Path):
    splits = mvtec_ad.read(root, "cap")
    assert (len(splits.train), len(splits.val)) == (8, 2)
    assert all(s.label == OK and s.mask is None for s in splits.train + splits.val)
    assert Counter((s.label, s.defect) for s in splits.test) == {(OK, None): 2, (NOK, "scratch"): 3, (NOK, "dent"): 1}
    for sample in splits.test:
        if sample.label == NOK:
            assert sample.mask == root / f"cap/ground_truth/{sample.defect}/{sample.image.stem}_mask.png"


def test_several_categories_keep_their_defects_apart(root: Path):
    splits = mvtec_ad.read(root, ["cap", "nut"])
    assert len(splits.train) + len(splits.val) == 15
    assert {s.defect for s in splits.test} == {None, "cap/scratch", "cap/dent", "nut/scratch"}
    assert all(s.mask.is_file() for s in splits.test if s.label == NOK)


def test_the_root_itself_may_be_the_category(root: Path):
    assert mvtec_ad.read(root / "nut", None) == mvtec_ad.read(str(root / "nut"), None)
    assert mtd.read(root / "nut") == mvtec_ad.read(root / "nut", None)


def test_a_home_folder_is_found(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(root))
    assert len(mvtec_ad.read("~", "cap").test) == 6


def test_an_absent_root_says_what_to_set(tmp_path: Path):
    with pytest.raises(UserError, match=r"does not exist: .*nowhere.*data\.root"):
        mvtec_ad.read(tmp_path / "nowhere", "cap")


def test_an_unknown_category_lists_those_there_are(root: Path):
    with pytest.raises(UserError, match="Categories there: cap, nut"):
        mvtec_ad.read(root, "bottle")
    with pytest.raises(UserError, match="Categories there: cap, nut"):
        mvtec_ad.read(root, ["cap", "bottle"])
    with pytest.raises(UserError, match="no category in MVTec AD's layout"):
        mvtec_ad.read(root / "cap", "cap")


@pytest.mark.parametrize("folder", ["train/good", "test/scratch", "test/good"])
def test_an_empty_folder_is_named(root: Path, folder: str):
    shutil.rmtree(root / "cap" / folder)
    (root / "cap" / folder).mkdir()
    with pytest.raises(UserError, match=f"No images in .*{folder}"):
        mvtec_ad.read(root, "cap")


def test_a_missing_mask_is_named(root: Path):
    (root / "cap/ground_truth/scratch/001_mask.png").unlink()
    with pytest.raises(UserError, match=r"mask .*scratch/001_mask\.png of 001\.png is missing"):
        mvtec_ad.read(root, "cap")


def test_a_defect_type_without_any_masks_is_taken_without(root: Path):
    shutil.rmtree(root / "cap/ground_truth/dent")
    masks = {s.defect: s.mask is not None for s in mvtec_ad.read(root, "cap").test if s.label == NOK}
    assert masks == {"dent": False, "scratch": True}


def test_no_test_folder_leaves_nothing_to_test_on(root: Path):
    shutil.rmtree(root / "cap/test")
    splits = mvtec_ad.read(root, "cap")
    assert splits.test == [] and splits.train


def test_other_formats_have_png_masks_all_the_same(root: Path):
    write_image(root / "cap/test/scratch/000.bmp")
    (root / "cap/test/scratch/000.png").unlink()
    assert len(mvtec_ad.read(root, "cap").test) == 6


@pytest.mark.datasets
def test_the_real_bottle_is_read_whole(datasets_root: Path):
    splits = mvtec_ad.read(datasets_root / "mvtec_ad", "bottle")
    assert len(splits.train) + len(splits.val) == 209 and len(splits.val) == 42
    counts = Counter(s.defect for s in splits.test)
    assert counts == {None: 20, "broken_large": 20, "broken_small": 22, "contamination": 21}


@pytest.mark.datasets
def test_the_real_magnetic_tiles_are_read_whole(datasets_root: Path):
    splits = mtd.read(datasets_root / "mtd")
    assert len(splits.train) + len(splits.val) == 774
    counts = Counter(s.defect for s in splits.test)
    assert counts == {None: 178, "blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 99}
    assert all(s.mask is not None for s in splits.test if s.label == NOK)
