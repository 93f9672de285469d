"""DeepPCB's layout, its boxes and faults, and OK pairs that no scan went into."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.data import deeppcb
from anomalib_lite.data.decode import read_image, read_mask
from anomalib_lite.data.deeppcb import simulated_pair
from anomalib_lite.data.sample import NOK, OK
from anomalib_lite.errors import UserError
from tests.made import write_pixels

SIZE = 96


def board(seed: int) -> np.ndarray:
    """Dark tracks on white."""
    picture = np.full((SIZE, SIZE), 255, np.uint8)
    for row in 10 + np.random.default_rng(seed).permutation(70)[:3]:
        picture[row : row + 8, 5:-5] = 0
    return picture


def write_pair(root: Path, number: int, boxes: str) -> str:
    stem, folder, scan = f"00041{number:03d}", root / "group00041/00041", board(number)
    write_pixels(folder / f"{stem}_temp.jpg", scan)
    scan[40:50, 40:50] = 255 - scan[40:50, 40:50]
    write_pixels(folder / f"{stem}_test.jpg", scan)
    boxed = root / "group00041/00041_not"
    boxed.mkdir(exist_ok=True)
    (boxed / f"{stem}.txt").write_text(boxes)
    return f"group00041/00041/{stem}.jpg group00041/00041_not/{stem}.txt\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "PCBData"
    train = [write_pair(root, i, "30 30 60 60 1\n") for i in range(6)]
    test = [write_pair(root, 6, "30 30 60 60 1\n35 40 60 62 1\n"), write_pair(root, 7, "30,31,60,61,6\n\n1 2 9 8 2\n")]
    (root / "trainval.txt").write_text("".join(train))
    (root / "test.txt").write_text("".join(test) + "\n")
    return root


def test_scans_are_tested_against_their_own_templates(root: Path, tmp_path: Path):
    splits = deeppcb.read(root, tmp_path / "artifacts")
    assert [s.image.name for s in splits.test] == ["00041006_test.jpg", "00041007_test.jpg"]
    assert [s.template.name for s in splits.test] == ["00041006_temp.jpg", "00041007_temp.jpg"]
    assert [(s.label, s.defect) for s in splits.test] == [(NOK, "open"), (NOK, "several")]
    wanted = np.zeros((SIZE, SIZE), bool)
    wanted[31:61, 30:60] = wanted[2:8, 1:9] = True
    assert (read_mask(splits.test[1].mask) == wanted).all()
    assert deeppcb.data_folder(root.parent) == root, "the authors' repository has it in a folder"
    boxes = deeppcb.read_boxes(root / "group00041/00041/00041007_test.jpg")
    assert boxes == [deeppcb.Box(30, 31, 60, 61, "pin-hole"), deeppcb.Box(1, 2, 9, 8, "short")]


def test_ok_pairs_come_from_templates_alone(root: Path, tmp_path: Path):
    first = deeppcb.read(root, tmp_path / "a")
    assert (len(first.train), len(first.val)) == (3, 3)
    ok = first.train + first.val
    assert all(s.label == OK and s.mask is None and s.template.stem.endswith("_temp") for s in ok)
    for path in root.rglob("*_test.jpg"):
        if path.stem < "00041006":  # scans of trainval.txt: whatever is in them changes nothing
            write_pixels(path, np.zeros((SIZE, SIZE), np.uint8))
    second = deeppcb.read(root, tmp_path / "b")
    pictures = [[read_image(s.image) for s in splits.train + splits.val] for splits in (first, second)]
    assert all((a == b).all() for a, b in zip(*pictures, strict=True))


def test_made_once_and_anew_when_boxes_change(root: Path, tmp_path: Path):
    artifacts = tmp_path / "artifacts"
    one = deeppcb.read(root, artifacts)
    stamp = one.test[0].mask.stat().st_mtime_ns
    assert deeppcb.read(root, artifacts) == one and one.test[0].mask.stat().st_mtime_ns == stamp
    (root / "group00041/00041_not/00041006.txt").write_text("1 1 5 5 3\n")
    changed = deeppcb.read(root, artifacts).test[0]
    assert changed.defect == "mousebite" and read_mask(changed.mask).sum() == 16


def test_faults_say_what_to_do(root: Path, tmp_path: Path):
    for line in ("1 2 3 4", "1 2 3 4 7", "9 2 3 4 1", "a b c d e", "1 2 3 4 0"):
        (root / "group00041/00041_not/00041006.txt").write_text(f"1 1 5 5 3\n{line}\n")
        with pytest.raises(UserError, match=rf"00041006\.txt, line 2: '{line}' is no box"):
            deeppcb.read_boxes(root / "group00041/00041/00041006_test.jpg")
    with pytest.raises(UserError, match=r"trainval\.txt and test\.txt: set data\.root"):
        deeppcb.read(root / "group00041", tmp_path / "a")
    (root / "group00041/00041/00041003_temp.jpg").unlink()
    with pytest.raises(UserError, match=r"00041003_temp\.jpg is missing"):
        deeppcb.read(root, tmp_path / "a")


def test_a_simulated_pair_is_its_template_but_for_edges():
    template = board(3)
    pair = simulated_pair(template, np.random.default_rng(0))
    assert (pair == simulated_pair(template, np.random.default_rng(0))).all()
    assert set(np.unique(pair)) == {0, 255} and (pair != template).any()
    far = cv2.distanceTransform((cv2.Canny(template, 50, 150) == 0).astype(np.uint8), cv2.DIST_L2, 3)
    assert far[pair != template].max() < 12
    assert not (pair == simulated_pair(template, np.random.default_rng(1))).all()


@pytest.mark.datasets
def test_the_real_set_is_read_whole(datasets_root: Path, tmp_path: Path):
    base = deeppcb.data_folder(datasets_root / "deeppcb")
    pairs = [deeppcb.read_pairs(base, name) for name in ("trainval", "test")]
    assert [len(part) for part in pairs] == [200, 241]
    kinds = Counter(b.kind for part in pairs for p in part for b in deeppcb.read_boxes(p.scan))
    assert kinds == {"open": 591, "short": 431, "mousebite": 625, "spur": 485, "copper": 458, "pin-hole": 454}
