"""The fingerprint changes with the data, and with nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from anomalib_lite.data import folder
from anomalib_lite.data.fingerprint import check_same_data, describe, fingerprint
from anomalib_lite.data.layouts import mvtec_ad
from anomalib_lite.data.sample import Splits
from anomalib_lite.errors import UserError
from tests.made import write_category, write_image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_category(tmp_path / "set", train=5, good=1, defects={"dot": 1})


def print_of(root: Path) -> str:
    return fingerprint(mvtec_ad(root))


def with_first_test(splits: Splits, **changes) -> Splits:
    return Splits(splits.train, splits.val, [replace(splits.test[-1], **changes), *splits.test[:-1]])


def test_it_depends_neither_on_dates_nor_on_the_place(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = print_of(root)
    for path in root.rglob("*.png"):
        path.touch()
    shutil.copytree(root, tmp_path / "deep" / "copy")
    monkeypatch.chdir(tmp_path)
    assert {print_of(root), print_of(tmp_path / "deep/copy"), print_of(Path("deep/copy"))} == {before}


def test_one_changed_byte_a_new_name_an_added_and_a_removed_file_change_it(root: Path):
    prints = [print_of(root)]
    for file in ("train/good/002.png", "test/dot/000.png", "ground_truth/dot/000_mask.png"):
        data = bytearray((root / file).read_bytes())
        data[-1] ^= 1  # same size, same name
        (root / file).write_bytes(data)
        prints.append(print_of(root))
    (root / "train/good/000.png").rename(root / "train/good/0000.png")
    prints.append(print_of(root))
    write_image(root / "train/good/009.png", 9)
    prints.append(print_of(root))
    shutil.rmtree(root / "test/good")
    prints.append(print_of(root))
    assert len(set(prints)) == 7


def test_what_is_known_of_an_image_and_its_split_count(root: Path):
    splits = mvtec_ad(root)
    mask, other = splits.test[-1].mask, splits.train[0].image
    changes = [{}, {"label": None}, {"defect": "other"}, {"mask": None}, {"origin": "generated"}, {"weight": 0.5},
               {"template": other}, {"mask": None, "template": mask}]  # fmt: skip
    prints = {fingerprint(with_first_test(splits, **change)) for change in changes}
    prints.add(fingerprint(Splits(splits.val, splits.train, splits.test)))
    assert len(prints) == 9


def test_a_file_that_vanished_is_named(root: Path):
    splits = mvtec_ad(root)
    splits.train[0].image.unlink()
    with pytest.raises(UserError, match=f"{splits.train[0].image} cannot be read: No such file"):
        fingerprint(splits)


@pytest.fixture
def lot(tmp_path: Path) -> Path:
    for i in range(20):
        write_image(tmp_path / f"lot/ok/{i:02d}.png", i)
    write_image(tmp_path / "lot/nok/dot/0.png", 100, mark=True)
    return tmp_path / "lot"


def test_a_run_knows_its_own_data_wherever_it_lies(lot: Path, tmp_path: Path):
    known = json.loads(json.dumps(describe(folder.read(lot, ok="ok", nok="nok"))))
    moved = folder.read(lot.rename(tmp_path / "moved"), ok="ok", nok="nok")
    for own in (True, False):
        assert check_same_data(moved, known, own) == moved.test


def test_own_data_that_has_changed_is_refused(lot: Path):
    known = describe(folder.read(lot, ok="ok", nok="nok"))
    write_image(lot / "ok/20.png", 20)
    with pytest.raises(UserError, match=r"own data is not what it was .* of the 16 .*data\.test_ok"):
        check_same_data(folder.read(lot, ok="ok", nok="nok"), known, own=True)


def test_a_new_lot_is_measured_whole_but_for_what_was_learned_from(lot: Path, tmp_path: Path, caplog):
    known = describe(folder.read(lot, ok="ok", nok="nok"))
    for i in range(10):
        write_image(tmp_path / f"new/ok/{i}.png", 200 + i)
    new = folder.read(tmp_path / "new", ok="ok")
    assert len(check_same_data(new, known, own=False)) == 10 and len(new.test) == 2
    learned = folder.read(lot, ok="ok").train
    (tmp_path / "new/ok/old.png").write_bytes(learned[0].image.read_bytes())
    assert len(check_same_data(folder.read(tmp_path / "new", ok="ok"), known, own=False)) == 10
    assert "1 of 11 images are left out: the run learned from them" in caplog.text
    with pytest.raises(UserError, match="learned from all of these images"):
        check_same_data(Splits([], [], learned), known, own=False)
