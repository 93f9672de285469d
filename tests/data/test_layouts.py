"""Every reader of a public data set on a small copy of its layout, and MVTec AD's layout with its usual faults."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_lite.data import layouts, panels
from anomalib_lite.data.decode import read_image, read_mask
from anomalib_lite.data.layouts import mvtec_ad
from anomalib_lite.data.sample import NOK, OK
from anomalib_lite.errors import UserError
from tests.made import write_category, write_image, write_mask, write_pixels


def images(folder: Path, count: int, seed: int, names: str = "{:03d}.png", mark: bool = False) -> None:
    for i in range(count):
        write_image(folder / names.format(i), seed + i, mark=mark)


def made_mvtec(root: Path) -> None:
    write_category(root, train=6, good=2, defects={"hole": 2})


def made_btad(root: Path) -> None:
    images(root / "train/ok", 6, 0, "{:03d}.bmp")
    images(root / "test/ok", 2, 50, "{:03d}.bmp")
    images(root / "test/ko", 2, 90, "{:03d}.bmp", mark=True)
    for name in ("000.png", "001.bmp"):
        write_mask(root / "ground_truth/ko" / name)


def made_loco(root: Path) -> None:
    images(root / "train/good", 6, 0)
    images(root / "validation/good", 2, 30)
    images(root / "test/good", 2, 50)
    images(root / "test/logical_anomalies", 2, 90, mark=True)
    for name in ("000/000.png", "000/001.png", "001/000.png"):
        write_mask(root / "ground_truth/logical_anomalies" / name)
    enough = {"pixel_value": 255, "saturation_threshold": 0.25, "relative_saturation": True}
    (root / "defects_config.json").write_text(json.dumps([enough]))


def made_ad_2(root: Path) -> None:
    images(root / "train/good", 6, 0, "{:03d}_regular.png")
    images(root / "validation/good", 2, 30, "{:03d}_regular.png")
    images(root / "test_public/good", 2, 50, "{:03d}_overexposed.png")
    images(root / "test_public/bad", 2, 90, "{:03d}_regular.png", mark=True)
    images(root / "test_private", 3, 120)
    for i in range(2):
        write_mask(root / f"test_public/ground_truth/bad/{i:03d}_regular_mask.png")


def made_visa(root: Path) -> None:
    lines = ["object,split,label,image,mask"]
    for split, kind, count, seed in (("train", "Normal", 6, 0), ("test", "Normal", 2, 50), ("test", "Anomaly", 2, 90)):
        for i in range(count):
            image, bad = f"set/Data/Images/{kind}/{seed + i:04d}.JPG", kind == "Anomaly"
            mask = f"set/Data/Masks/Anomaly/{seed + i:04d}.png" if bad else ""
            write_image(root.parent / image, seed + i, mark=bad)
            if bad:
                write_mask(root.parent / mask)
            lines.append(f"set,{split},{kind.lower()},{image},{mask}")
    (root.parent / "split_csv").mkdir()
    (root.parent / "split_csv/1cls.csv").write_text("\n".join(lines))


def made_real_iad(root: Path) -> None:
    lists: dict[str, list[dict]] = {"train": [], "test": []}
    for split, kind, count, seed in (("train", "OK", 6, 0), ("test", "OK", 2, 50), ("test", "HS", 2, 90)):
        for i in range(count):
            image, mask = f"{kind}/S{seed + i}/x.jpg", f"{kind}/S{seed + i}/x.png" if kind != "OK" else None
            write_image(root.parent / "realiad_1024/set" / image, seed + i, mark=kind != "OK")
            if mask:
                write_mask(root.parent / "realiad_1024/set" / mask)
            lists[split].append({"image_path": image, "mask_path": mask, "anomaly_class": kind})
    folder = root.parent / "realiad_jsons/realiad_jsons"
    folder.mkdir(parents=True)
    (folder / "set.json").write_text(json.dumps({"meta": {"normal_class": "OK"}, **lists}))


def made_ksdd2(root: Path) -> None:
    for split, bad, good, seed in (("train", 1, 6, 0), ("test", 2, 2, 50)):
        images(root / split, bad + good, seed, "{:05d}.png")
        for i in range(bad + good):
            write_mask(root / split / f"{i:05d}_GT.png")
            if i >= bad:
                write_pixels(
                    root / split / f"{i:05d}_GT.png", 0 * read_mask(root / split / "00000_GT.png").astype("u1")
                )


def made_ksdd(root: Path) -> None:
    for item in range(2):
        images(root / f"kos{item:02d}", 5, 60 * item, "Part{}.jpg")
        for i in range(5):
            mask = root / f"kos{item:02d}" / f"Part{i}_label.bmp"
            write_mask(mask)
            if i:
                write_pixels(mask, 0 * read_mask(mask).astype("u1"))


READERS: dict[str, Callable[[Path], None]] = {
    "mvtec_ad": made_mvtec, "mpdd": made_mvtec, "mtd": made_mvtec, "btad": made_btad, "mvtec_loco": made_loco,
    "mvtec_ad_2": made_ad_2, "visa": made_visa, "real_iad": made_real_iad, "ksdd": made_ksdd,
    "ksdd2": made_ksdd2,
}  # fmt: skip
WHOLE = ("ksdd", "ksdd2")  # without categories


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
    assert len(learned) == 8 if name in ("mvtec_loco", "mvtec_ad_2") else 6
    assert Counter(s.label for s in splits.test) == {OK: 2, NOK: 2}
    assert all(read_mask(s.mask).sum() == 144 and s.defect for s in splits.test if s.label == NOK)
    few = reader(**place, shots=2, shots_seed=1)
    assert len(few.train) == 2 and few.val == splits.val and few.test == splits.test
    with pytest.raises(UserError, match=r"data\.root"):
        reader(root=tmp_path / "nowhere")
    if name not in WHOLE:
        with pytest.raises(UserError, match=r"Categories there: set\..*data\.category"):
            reader(root=tmp_path, category="other")


def test_loco_says_how_much_of_each_defect_is_enough(tmp_path: Path, caplog):
    made_loco(tmp_path / "box")
    file, mask = tmp_path / "box/defects_config.json", tmp_path / "box/ground_truth/logical_anomalies/000/001.png"
    write_pixels(mask, 7 * read_mask(mask).astype("u1"))
    pixels = {"pixel_value": 7, "saturation_threshold": 36, "relative_saturation": False}
    with pytest.raises(UserError, match=r"000/001\.png has the values \[7\], not one of .*\[255\]"):
        layouts.mvtec_loco(tmp_path, "box")
    for wanted, share in ((36, 0.25), (1000, 1.0)):
        file.write_text(json.dumps([*json.loads(file.read_text())[:1], pixels | {"saturation_threshold": wanted}]))
        tested = layouts.mvtec_loco(tmp_path, "box").test
        assert [s.saturation for s in tested] == [None, None, (0.25, share), (0.25,)]
    file.write_text('[{"pixel_value": 255}]')
    with pytest.raises(UserError, match=r"defects_config\.json is no list of .*saturation_threshold"):
        layouts.mvtec_loco(tmp_path, "box")
    file.unlink()
    assert {s.saturation for s in layouts.mvtec_loco(tmp_path, "box").test} == {None}
    assert "sPRO is not measured" in caplog.text


def test_private_test_images_have_no_labels(tmp_path: Path):
    made_ad_2(tmp_path / "can")
    tested = layouts.mvtec_ad_2(tmp_path, "can", test="test_private").test
    assert [(s.label, s.mask) for s in tested] == [(None, None)] * 3


def test_a_listed_file_that_is_missing_is_named(tmp_path: Path):
    made_visa(tmp_path / "set")
    (tmp_path / "set/Data/Masks/Anomaly/0090.png").unlink()
    with pytest.raises(UserError, match=r"0090\.png is missing"):
        layouts.visa(tmp_path, "set")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_category(tmp_path / "cap", train=10, good=2, defects={"scratch": 3, "dent": 1})
    write_category(tmp_path / "7", train=5, good=0, defects={"bent": 2})
    for i in range(5):
        write_image(tmp_path / f"7/train/good/{i:03d}.png", 400 + i)
    for i in range(2):
        write_image(tmp_path / f"7/test/bent/{i:03d}.png", 500 + i, mark=True)
    return tmp_path


def test_several_categories_keep_their_defects_apart_and_may_be_numbers(root: Path):
    splits = mvtec_ad(root, ["cap", 7])
    assert len(splits.train) + len(splits.val) == 15
    assert {s.defect for s in splits.test} == {None, "cap/scratch", "cap/dent", "7/bent"}
    assert {s.category for _, part in splits for s in part} == {"cap", "7"}
    assert all(s.mask.is_file() for s in splits.test if s.label == NOK)
    assert mvtec_ad(root, 7) == mvtec_ad(str(root), "7") and mvtec_ad(root / "7") == layouts.mtd(root / "7")


def test_an_unknown_category_lists_those_there_are(root: Path):
    for asked in ("bottle", ["cap", "bottle"]):
        with pytest.raises(UserError, match="Categories there: 7, cap"):
            mvtec_ad(root, asked)
    with pytest.raises(UserError, match="no category in this data set's layout"):
        mvtec_ad(root / "cap", "cap")


@pytest.mark.parametrize("folder", ["train/good", "test/scratch", "test/good"])
def test_an_empty_folder_is_named(root: Path, folder: str):
    shutil.rmtree(root / "cap" / folder)
    (root / "cap" / folder).mkdir()
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


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return tmp_path_factory.mktemp("artifacts")


def test_the_splits_hold_what_was_asked_for(artifacts):
    splits = panels.read(artifacts, **SMALL)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (8, 2, 12)
    assert all(s.label == OK for s in splits.train + splits.val)
    bad = [s for s in splits.test if s.label == NOK]
    assert len({s.defect for s in bad}) == 10
    for sample in bad:
        assert read_image(sample.image).shape == (48, 48, 3) and read_mask(sample.mask).any()


def test_the_template_can_be_the_rendered_one_another_or_none(artifacts, tmp_path):
    rendered = panels.read(artifacts, **SMALL)
    assert {s.template.name for s in rendered.train} == {"template.png"}
    own = tmp_path / "own.png"
    own.write_bytes(rendered.train[0].template.read_bytes())
    assert panels.read(artifacts, **SMALL, template=own).test[0].template == own
    assert panels.read(artifacts, **SMALL, template=None).test[0].template is None
    with pytest.raises(UserError, match=r"rust.*structure_bent"):
        panels.read(artifacts, **SMALL, defects=["rust"])


@pytest.mark.datasets
def test_the_real_sets_are_read_whole(datasets_root: Path):
    bottle, tiles = mvtec_ad(datasets_root / "mvtec_ad", "bottle"), layouts.mtd(datasets_root / "mtd")
    assert (len(bottle.train), len(bottle.val)) == (167, 42) and len(tiles.train) + len(tiles.val) == 774
    counts = [Counter(s.defect for s in splits.test) for splits in (bottle, tiles)]
    assert counts[0] == {None: 20, "broken_large": 20, "broken_small": 22, "contamination": 21}
    assert counts[1] == {None: 178, "blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 99}
    assert all(s.mask is not None for s in tiles.test if s.label == NOK)
