"""Every reader of a public data set on a small copy of its layout, and MVTec AD's layout with its usual faults."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from anomalib_lite.data import layouts, panels
from anomalib_lite.data.decode import read_image, read_mask
from anomalib_lite.data.layouts import mvtec_ad
from anomalib_lite.data.sample import NOK, OK
from anomalib_lite.errors import UserError
from anomalib_lite.settings import conf_dir
from tests.made import write_category, write_image, write_mask, write_pixels

OK_TEST, BAD = 50, 90  # seeds; images from BAD on are marked

# images as pattern -> (how many, first seed); masks
FOLDERS: dict[str, tuple[dict[str, tuple[int, int]], str]] = {
    "mvtec_ad": (
        {"train/good/{}.png": (6, 0), "test/good/{}.png": (2, OK_TEST), "test/hole/{}.png": (2, BAD)},
        "ground_truth/hole/0_mask.png ground_truth/hole/1_mask.png",
    ),
    "btad": (
        {"train/ok/{}.bmp": (6, 0), "test/ok/{}.bmp": (2, OK_TEST), "test/ko/{}.bmp": (2, BAD)},
        "ground_truth/ko/0.png ground_truth/ko/1.bmp",
    ),
    "mvtec_loco": (
        {"train/good/{}.png": (6, 0), "validation/good/{}.png": (2, 30), "test/good/{}.png": (2, OK_TEST),
         "test/logical/{}.png": (2, BAD)},
        "ground_truth/logical/0/0.png ground_truth/logical/0/1.png ground_truth/logical/1/0.png",
    ),
    "mvtec_ad_2": (
        {"train/good/{}_regular.png": (6, 0), "validation/good/{}_regular.png": (2, 30),
         "test_public/good/{}_overexposed.png": (2, OK_TEST), "test_public/bad/{}_regular.png": (2, BAD),
         "test_private/{}.png": (3, 120)},
        "test_public/ground_truth/bad/0_regular_mask.png test_public/ground_truth/bad/1_regular_mask.png",
    ),
    "ksdd": ({"kos00/Part{}.jpg": (5, 0), "kos01/Part{}.jpg": (5, 60)}, "kos00/Part0_label.bmp kos01/Part0_label.bmp"),
    "ksdd2": ({"train/{}.png": (7, 0), "test/{}.png": (4, OK_TEST)}, "train/0_GT.png test/0_GT.png test/1_GT.png"),
}  # fmt: skip
FOLDERS["mpdd"] = FOLDERS["mtd"] = FOLDERS["mvtec_ad"]
WHOLE = {"ksdd": "_label.bmp", "ksdd2": "_GT.png"}  # without categories; each image has a mask, of a good one black


def write_set(name: str, root: Path) -> None:
    images, masks = FOLDERS[name]
    for image, seed in ((root / p.format(i), seed + i) for p, (count, seed) in images.items() for i in range(count)):
        write_image(image, seed, mark=seed >= BAD)
        if name in WHOLE:
            write_pixels(image.with_name(image.stem + WHOLE[name]), np.zeros((64, 64), np.uint8))
    for mask in masks.split():
        write_mask(root / mask)
    if name == "mvtec_loco":
        enough = {"pixel_value": 255, "saturation_threshold": 0.25, "relative_saturation": True}
        (root / "defects_config.json").write_text(json.dumps([enough]))


def write_listed(root: Path, image: str, mask: str) -> list[tuple[str, str, str, str | None]]:
    """Split, kind, image and mask of six images to learn from, two good ones and two bad ones to test on."""
    rows = []
    for split, kind, count, seed in (("train", "OK", 6, 0), ("test", "OK", 2, OK_TEST), ("test", "HS", 2, BAD)):
        for i in range(seed, seed + count):
            write_image(root / image.format(kind, i), i, mark=seed == BAD)
            if seed == BAD:
                write_mask(root / mask.format(kind, i))
            rows.append((split, kind, image.format(kind, i), mask.format(kind, i) if seed == BAD else None))
    return rows


def write_visa(root: Path) -> None:
    rows = write_listed(root.parent, "set/Data/Images/{}/{}.JPG", "set/Data/Masks/{}/{}.png")
    lines = [f"set,{s},{'normal' if k == 'OK' else 'anomaly'},{image},{mask or ''}" for s, k, image, mask in rows]
    lines.append("set,val,normal,of/another/split.JPG,")
    (root.parent / "split_csv").mkdir()
    (root.parent / "split_csv/1cls.csv").write_text("\n".join(["object,split,label,image,mask", *lines]))


def write_real_iad(root: Path) -> None:
    rows = write_listed(root.parent / "realiad_1024/set", "{}/S{}/x.jpg", "{}/S{}/x.png")
    lists = {
        split: [{"image_path": i, "mask_path": m, "anomaly_class": k} for s, k, i, m in rows if s == split]
        for split in ("train", "test")
    }
    folder = root.parent / "realiad_jsons/realiad_jsons"
    folder.mkdir(parents=True)
    (folder / "set.json").write_text(json.dumps({"meta": {"normal_class": "OK"}, **lists}))


READERS: dict[str, Callable[[Path], None]] = {
    **{name: partial(write_set, name) for name in FOLDERS}, "visa": write_visa, "real_iad": write_real_iad,
}  # fmt: skip


def test_every_reader_of_conf_keeps_the_contract_or_has_tests_of_its_own():
    assert {*READERS, "folder", "deeppcb", "panels"} == {file.stem for file in (conf_dir() / "data").glob("*.yaml")}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_learns_from_good_images_alone_and_tests_on_all_with_their_masks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    READERS[name](tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    reader = getattr(layouts, name)
    place = {"root": "set"} if name in WHOLE else {"root": ".", "category": "set"}
    splits = reader(**place)
    learned = splits.train + splits.val
    assert splits.val and all(s.label == OK and s.mask is None and s.image.is_file() for s in learned)
    assert len(learned) == (8 if name in ("mvtec_loco", "mvtec_ad_2") else 6)
    assert Counter(s.label for s in splits.test) == {OK: 2, NOK: 2}
    assert all(read_mask(s.mask).sum() == 144 and s.defect for s in splits.test if s.label == NOK)
    few = reader(**place, shots=2, shots_seed=1)
    assert len(few.train) == 2 and few.val == splits.val and few.test == splits.test
    with pytest.raises(UserError, match=r"data\.root"):
        reader(root=tmp_path / "nowhere")
    if name not in WHOLE:
        with pytest.raises(UserError, match=r"Categories there: set\..*data\.category"):
            reader(root=tmp_path, category="other")


def test_a_file_of_what_is_enough_that_does_not_fit_is_refused_and_an_absent_one_said(tmp_path: Path, caplog):
    """tests/engine/test_saturation.py measures by it."""
    write_set("mvtec_loco", tmp_path / "box")
    file, mask = tmp_path / "box/defects_config.json", tmp_path / "box/ground_truth/logical/0/1.png"
    write_pixels(mask, 7 * read_mask(mask).astype("u1"))
    with pytest.raises(UserError, match=r"0/1\.png has the values \[7\], not one of .*\[255\]"):
        layouts.mvtec_loco(tmp_path, "box")
    file.write_text('[{"pixel_value": 255}]')
    with pytest.raises(UserError, match=r"defects_config\.json is no list of .*saturation_threshold"):
        layouts.mvtec_loco(tmp_path, "box")
    file.unlink()
    assert {s.saturation for s in layouts.mvtec_loco(tmp_path, "box").test} == {None}
    assert "sPRO is not measured" in caplog.text


def test_private_test_images_have_no_labels(tmp_path: Path):
    write_set("mvtec_ad_2", tmp_path / "can")
    tested = layouts.mvtec_ad_2(tmp_path, "can", test="test_private").test
    assert [(s.label, s.mask) for s in tested] == [(None, None)] * 3


def test_a_listed_file_that_is_missing_is_named(tmp_path: Path):
    write_visa(tmp_path / "set")
    (tmp_path / "set/Data/Masks/HS/90.png").unlink()
    with pytest.raises(UserError, match=r"90\.png is missing"):
        layouts.visa(tmp_path, "set")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_category(tmp_path / "cap", train=10, good=2, defects={"scratch": 3, "dent": 1})
    write_category(tmp_path / "7", train=5, good=0, defects={"bent": 2}, seed=9000)
    return tmp_path


def test_several_categories_keep_their_defects_apart_and_may_be_numbers(root: Path):
    splits = mvtec_ad(root, ["cap", 7])
    assert len(splits.train) + len(splits.val) == 15
    assert {s.defect for s in splits.test} == {None, "cap/scratch", "cap/dent", "7/bent"}
    assert {s.category for _, part in splits for s in part} == {"cap", "7"}
    assert all(s.mask.is_file() for s in splits.test if s.label == NOK)
    assert mvtec_ad(root, 7) == mvtec_ad(str(root), "7") and mvtec_ad(root / "7") == layouts.mtd(root / "7")
    with pytest.raises(UserError, match="Categories there: 7, cap"):
        mvtec_ad(root, ["cap", "bottle"])
    with pytest.raises(UserError, match="no category in this data set's layout"):
        mvtec_ad(root / "cap", "cap")
    with pytest.raises(UserError, match="names a category twice"):
        mvtec_ad(root, [7, "7"])


def test_an_empty_folder_is_named(root: Path):
    for folder in ("test/scratch", "test/good", "train/good"):
        for image in (root / "cap" / folder).iterdir():
            image.unlink()
        with pytest.raises(UserError, match=f"No images in .*{folder}"):
            mvtec_ad(root, "cap")


def test_a_missing_mask_is_named_and_a_type_without_any_is_taken_without(root: Path):
    (root / "cap/ground_truth/scratch/001_mask.png").unlink()
    with pytest.raises(UserError, match=r"mask .*scratch/001_mask\.png of 001\.png is missing"):
        mvtec_ad(root, "cap")
    shutil.rmtree(root / "cap/ground_truth/scratch")
    masks = {s.defect: s.mask is not None for s in mvtec_ad(root, "cap").test if s.label == NOK}
    assert masks == {"dent": True, "scratch": False}


def test_a_hidden_folder_is_no_defect_type_and_no_test_folder_leaves_nothing_to_test_on(root: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    shutil.copytree(root / "cap/test/good", root / "cap/test/.ipynb_checkpoints")
    assert {s.defect for s in mvtec_ad("~", "cap").test} == {None, "scratch", "dent"}
    shutil.rmtree(root / "cap/test")
    splits = mvtec_ad(root, "cap")
    assert splits.test == [] and splits.train


SMALL = {"size": 48, "n_train": 10, "n_test_good": 2, "n_per_defect": 1}


def test_the_rendered_set_holds_what_was_asked_for_with_its_template_another_or_none(tmp_path: Path):
    splits = panels.read(tmp_path, **SMALL)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (8, 2, 12)
    bad = [s for s in splits.test if s.label == NOK]
    assert len({s.defect for s in bad}) == 10
    assert all(read_image(s.image).shape == (48, 48, 3) and read_mask(s.mask).any() for s in bad)
    assert {s.template.name for s in splits.train} == {"template.png"}
    for template in (splits.train[0].image, None):
        assert panels.read(tmp_path, **SMALL, template=template).test[0].template == template


@pytest.mark.datasets
def test_the_real_sets_are_read_whole(datasets_root: Path):
    bottle, tiles = mvtec_ad(datasets_root / "mvtec_ad", "bottle"), layouts.mtd(datasets_root / "mtd")
    assert (len(bottle.train), len(bottle.val)) == (167, 42) and len(tiles.train) + len(tiles.val) == 774
    counts = [Counter(s.defect for s in splits.test) for splits in (bottle, tiles)]
    assert counts[0] == {None: 20, "broken_large": 20, "broken_small": 22, "contamination": 21}
    assert counts[1] == {None: 178, "blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 99}
    assert all(s.mask is not None for s in tiles.test if s.label == NOK)
