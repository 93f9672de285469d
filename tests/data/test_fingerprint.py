"""The fingerprint changes with the data, and with nothing else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from anomalib_lite.data.fingerprint import fingerprint
from anomalib_lite.data.layouts import mvtec_ad
from anomalib_lite.data.sample import Splits
from anomalib_lite.errors import UserError
from tests.made import write_category


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_category(tmp_path / "set", train=5, good=1, defects={"dot": 1})


def print_of(root: Path) -> str:
    return fingerprint(mvtec_ad(root))


def with_first_test(splits: Splits, **changes) -> Splits:
    return Splits(splits.train, splits.val, [replace(splits.test[-1], **changes), *splits.test[:-1]])


def test_it_stays_where_nothing_changes(root: Path):
    assert print_of(root) == print_of(root)
    for path in root.rglob("*.png"):
        path.touch()
    assert print_of(root) == fingerprint(mvtec_ad(str(root)))


def test_it_does_not_depend_on_the_place(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = print_of(root)
    shutil.copytree(root, tmp_path / "deep" / "copy")
    assert print_of(tmp_path / "deep" / "copy") == before
    monkeypatch.chdir(tmp_path)
    assert print_of(Path("deep/copy")) == before


@pytest.mark.parametrize("file", ["train/good/002.png", "test/dot/000.png", "ground_truth/dot/000_mask.png"])
def test_one_changed_byte_changes_it(root: Path, file: str):
    before, path = print_of(root), root / file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # same size, same name
    path.write_bytes(data)
    assert print_of(root) != before


def test_a_renamed_an_added_and_a_removed_file_change_it(root: Path):
    prints = [print_of(root)]
    (root / "train/good/000.png").rename(root / "train/good/0000.png")
    prints.append(print_of(root))
    shutil.copy(root / "train/good/001.png", root / "train/good/009.png")
    prints.append(print_of(root))
    (root / "test/good/000.png").unlink()
    shutil.rmtree(root / "test/good")
    prints.append(print_of(root))
    assert len(set(prints)) == 4


@pytest.mark.parametrize("change", [{"label": None}, {"defect": "other"}, {"mask": None}, {"origin": "generated"},
                                    {"weight": 0.5}])  # fmt: skip
def test_what_is_known_of_an_image_counts(root: Path, change: dict):
    splits = mvtec_ad(root)
    assert fingerprint(with_first_test(splits)) != fingerprint(with_first_test(splits, **change))


def test_the_template_counts(root: Path):
    splits = mvtec_ad(root)
    template = splits.train[0].image
    assert fingerprint(with_first_test(splits)) != fingerprint(with_first_test(splits, template=template))
    as_mask = with_first_test(splits, mask=None, template=splits.test[-1].mask)
    assert fingerprint(with_first_test(splits, template=None)) != fingerprint(as_mask)


def test_another_split_of_the_same_files_is_another(root: Path):
    splits = mvtec_ad(root)
    assert fingerprint(splits) != fingerprint(Splits(splits.val, splits.train, splits.test))


def test_a_file_that_vanished_is_named(root: Path):
    splits = mvtec_ad(root)
    splits.train[0].image.unlink()
    with pytest.raises(UserError, match=f"{splits.train[0].image} cannot be read: No such file"):
        fingerprint(splits)
