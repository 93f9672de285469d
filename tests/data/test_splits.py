"""What is learned from, held out and tested on; what a run knows of its data again; what each origin weighs."""

import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalib_lite.data import folder
from anomalib_lite.data import splits as room
from anomalib_lite.data.layouts import mvtec_ad
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.data.splits import check_same_data, describe, fingerprint, make_splits, templates_of, union
from anomalib_lite.errors import UserError
from anomalib_lite.settings.training import Mode
from tests.made import write_category, write_image, write_pixels


def written(root: Path, **contents: str) -> list[Path]:
    """Files by their stem, with their content."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (root / f"{name}.png").write_text(content)
    return [root / f"{name}.png" for name in contents]


def good(root: Path, **contents: str) -> list[Sample]:
    return [Sample(path, OK) for path in written(root, **contents)]


def many(root: Path, count: int = 50) -> list[Sample]:
    """Of different contents."""
    return good(root / "ok", **{f"{i:03d}": str(i) for i in range(count)})


def names(samples: list[Sample]) -> set[str]:
    return {s.image.name for s in samples}


@pytest.mark.parametrize(("share", "count"), [(0.2, 10), (0.01, 1), (0.5, 25), (0.98, 49), (0.999, 49)])
def test_every_image_is_on_one_side_and_the_share_is_kept(tmp_path: Path, share: float, count: int):
    train, val = room.hold_out(many(tmp_path), share, 0, tmp_path)
    assert len(val) == count and len(train) == 50 - count and len(names(train + val)) == 50


def test_the_choice_depends_on_the_seed_and_neither_on_the_order_nor_on_the_place(tmp_path: Path):
    """Of 50 images, 5 more may move only those that the 5 displace; a shuffled split would move about 16."""

    def held(images: list[Sample], seed: int = 0, root: Path = tmp_path) -> set[str]:
        return names(room.hold_out(images, 0.2, seed, root)[1])

    here = held(many(tmp_path))
    assert held(random.Random(0).sample(many(tmp_path), 50)) == here
    assert held(many(tmp_path / "moved"), root=tmp_path / "moved") == here
    assert held(many(tmp_path), seed=1) != here
    assert len(here ^ (held(many(tmp_path, 55)) & names(many(tmp_path)))) <= 5


def test_too_few_images_are_counted_as_they_were_given(tmp_path: Path):
    for count in (1, 2):
        with pytest.raises(UserError, match=f"{count} OK images are too few: one is needed to learn from, one for the"):
            make_splits(many(tmp_path, count), [], tmp_path, test_share=0.2)
    assert [len(part) for _, part in make_splits(many(tmp_path, 3), [], tmp_path, test_share=0.2)] == [1, 1, 1]
    assert [len(part) for _, part in make_splits(many(tmp_path, 2), [], tmp_path)] == [1, 1, 0]
    with pytest.raises(UserError, match=r"1 OK images \(9 files, the others are copies\) are too few"):
        make_splits(good(tmp_path, **{f"a{i}": "a" for i in range(9)}), [], tmp_path)


def test_copies_count_once_and_on_one_side(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Of each picture four files: the same split as of one file each, and a test image is never learned from."""
    letters = "abcdefghijklmnopqrst"
    single = good(tmp_path, **{c: c for c in letters})
    copied = good(tmp_path, **{f"{c}{i}": c for c in letters for i in range(3)})
    alone = make_splits(single, [], tmp_path, test_share=0.2)
    assert make_splits([*single, *copied], [], tmp_path, test_share=0.2) == alone
    assert "60 images are copies of others" in caplog.text
    tested = make_splits(single, good(tmp_path / "test", a="a"), tmp_path)
    assert len(tested.test) == 1 and "a.png" not in names(tested.train + tested.val)


def test_an_image_that_is_learned_from_and_nok_is_refused_also_through_a_link(tmp_path: Path):
    ok = good(tmp_path, a="a", b="b", c="c")
    (tmp_path / "link.png").symlink_to(tmp_path / "b.png")
    for twin in (tmp_path / "b.png", tmp_path / "link.png", *written(tmp_path / "nok", b="b")):
        with pytest.raises(UserError, match=r"b\.png is (listed|the same image as .* one is) .*OK and .* NOK"):
            make_splits(ok, [Sample(twin, NOK)], tmp_path)


def test_few_shots_are_drawn_by_a_seed_from_what_is_not_held_out(tmp_path: Path):
    whole = make_splits(many(tmp_path), [], tmp_path)
    drawn = {k: make_splits(many(tmp_path), [], tmp_path, shots=k) for k in (1, 2, 4, 40)}
    assert all(len(s.train) == k and s.val == whole.val for k, s in drawn.items())
    assert names(drawn[1].train) < names(drawn[2].train) < names(drawn[4].train) <= names(whole.train)
    assert drawn[40].train == whole.train
    assert names(make_splits(many(tmp_path), [], tmp_path, shots=4, shots_seed=1).train) != names(drawn[4].train)


def test_of_each_category_as_many_are_held_out_and_shown(tmp_path: Path):
    """Of 3 among 53 images, one share of all together would hold out none as a rule."""
    nuts = [replace(s, category="nut") for s in many(tmp_path)]
    caps = [replace(s, category="cap") for s in good(tmp_path, x="x", y="y", z="z")]
    splits = make_splits([*nuts, *caps], [], tmp_path, shots=2)
    assert Counter(s.category for s in splits.val) == {"nut": 10, "cap": 1}
    assert Counter(s.category for s in splits.train) == {"nut": 2, "cap": 2}
    assert [s for s in splits.val if s.category == "nut"] == make_splits(nuts, [], tmp_path).val
    with pytest.raises(UserError, match=r"data\.shots must lie between 1 and 2, the OK images"):
        make_splits([*nuts, *caps], [], tmp_path, shots=3)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("val_share", 0, "data.val_share must lie between 0 and 1, not 0"),
        ("val_share", 1.5, "data.val_share must"),
        ("test_share", -0.1, "data.test_ok_share must"),
        *(("shots", shots, "data.shots must lie between 1 and 40, the OK images") for shots in (0, 2.5, 41)),
        ("bits", 11, "data.bits must be one of 8, 10, 12, 14, 16"),
        ("template", "absent.png", r"template does not exist.*absent\.png"),
    ],
)
def test_settings_of_a_reader_of_ones_own_are_refused_out_of_range(
    tmp_path: Path, setting: str, value: Any, message: str
):
    with pytest.raises(UserError, match=message):
        make_splits(many(tmp_path), [], tmp_path, **{setting: value})


def test_images_that_the_data_set_holds_out_are_held_out(tmp_path: Path):
    splits = make_splits(many(tmp_path, 4), [], tmp_path, held_out=good(tmp_path, v="v"))
    assert len(splits.train) == 4 and names(splits.val) == {"v.png"}


def test_one_depth_for_all_16_bit_images_by_the_brightest_ok_image(tmp_path: Path):
    *ok, bright = (write_pixels(tmp_path / f"{v}.png", np.full((4, 4), v, np.uint16)) for v in (900, 3000, 200, 20000))
    for bits, expected in ((None, 12), (14, 14)):
        splits = make_splits([Sample(p, OK) for p in ok], [Sample(bright, NOK)], tmp_path, bits=bits)
        assert {s.bits for _, part in splits for s in part} == {expected}


def test_images_that_are_added_are_read_with_the_first_depth_or_refused(tmp_path: Path):
    def part(value: int) -> Splits:
        images = {k: np.full((4, 4), value + k, np.uint16) for k in (0, 1)}
        files = [write_pixels(tmp_path / f"{value}{k}.png", pixels) for k, pixels in images.items()]
        return make_splits([Sample(file, OK) for file in files], [], tmp_path)

    deep, dark, bright, grey = part(15000), part(200), part(17000), make_splits(many(tmp_path, 2), [], tmp_path)
    for parts in ([deep, dark], [grey, deep, dark]):
        assert {s.bits for _, part in union(parts) for s in part} == {14}
    with pytest.raises(UserError, match="use 16 bits, but the earlier run reads 14, up to 16383"):
        union([deep, bright])
    assert {s.bits for _, part in union([deep, bright.with_bits(14)]) for s in part} == {14}


def splits(*templates: str | None) -> Splits:
    samples = [Sample(Path(f"{k}.png"), OK, template=Path(t) if t else None) for k, t in enumerate(templates)]
    return Splits(samples[:1], samples[1:2], samples[2:])


def test_one_template_for_all_one_for_each_or_none_at_all(tmp_path: Path):
    assert templates_of(splits("a", "a", "a")) == [Path("a")]
    assert templates_of(splits("b", "a", "a")) == [Path("a"), Path("b")]
    with pytest.raises(UserError, match=r"1\.png has none.*data.template"):
        templates_of(splits("a", None, "a"))
    (golden,) = written(tmp_path, golden="g")
    assert templates_of(make_splits(many(tmp_path), [], tmp_path, template=golden)) == [golden]
    assert {s.template for _, samples in splits("a", "b", "a").with_template(None) for s in samples} == {None}


def test_a_template_with_the_content_of_a_held_back_image_is_refused(tmp_path: Path):
    train, val, test, like_val, golden = written(tmp_path, train="1", val="2", test="6", like_val="2", golden="new")
    held_back = Splits(*([Sample(image, OK)] for image in (train, val, test)))
    room.refuse_held_back([train, golden], held_back)
    for template, kind in ((like_val, "held-out"), (test, "test")):
        with pytest.raises(UserError, match=f"{template} is one of the {kind} images, .*data.template={train}"):
            room.refuse_held_back([golden, template], held_back)


@pytest.mark.parametrize(
    ("weights", "generated", "expected"),
    [
        ({"real": 5, "generated": 1, "template_generated": 2, "template": 5}, None, [1, 0.1, 0.4, 1]),
        ({"real": 5, "template": 5}, 0.1, [1, 0.05, 0.1, 1]),
        ({"real": 2, "template": 1}, 0, [1, 0.5]),  # weight 0 is left out
        ({"real": 1, "generated": 1, "template": 1}, None, "names no weight for images of origin template_generated"),
        ({"real": 0, "template_generated": 1}, None, "real must be above 0"),
        ({"real": 1, "template_generated": -1}, None, "negative"),
    ],
)
def test_only_the_ratios_of_weights_count_and_a_real_image_weighs_one(weights, generated, expected):
    """A sample's own weight, 0.5 of the generated one, is a factor."""
    own = {"real": 1, "generated": 0.5, "template_generated": 1, "template": 1}
    samples = [Sample(Path(name), OK, origin=name, weight=weight) for name, weight in own.items()]
    mode = Mode(weights=weights, generated=generated)
    if isinstance(expected, list):
        assert [s.weight for s in room.weighted(samples, mode)] == expected
        return
    with pytest.raises(UserError, match=expected):
        room.weighted(samples, mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_category(tmp_path / "set", train=5, good=1, defects={"dot": 1})


def print_of(root: Path) -> str:
    return fingerprint(mvtec_ad(root))


def test_a_fingerprint_depends_neither_on_dates_nor_on_the_place(root: Path, tmp_path: Path, monkeypatch):
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
    assert len({*prints, print_of(root)}) == 7


def test_what_is_known_of_an_image_and_its_split_count(root: Path):
    splits = mvtec_ad(root)
    *others, last = splits.test
    changes = [{}, {"label": None}, {"defect": "other"}, {"mask": None}, {"origin": "generated"}, {"weight": 0.5},
               {"bits": 12}, {"template": splits.train[0].image}, {"mask": None, "template": last.mask}]  # fmt: skip
    prints = {fingerprint(replace(splits, test=[replace(last, **change), *others])) for change in changes}
    assert len({*prints, fingerprint(Splits(splits.val, splits.train, splits.test))}) == 10
    last.image.unlink()
    with pytest.raises(UserError, match=f"{last.image} cannot be read: No such file"):
        fingerprint(splits)


@pytest.fixture
def lot(tmp_path: Path) -> Path:
    for i in range(20):
        write_image(tmp_path / f"lot/ok/{i:02d}.png", i)
    write_image(tmp_path / "lot/nok/dot/0.png", 100, mark=True)
    return tmp_path / "lot"


def read(root: Path) -> Splits:
    return folder.read(root, ok="ok", nok="nok")


def test_a_run_knows_its_own_data_wherever_it_lies_and_refuses_it_changed(lot: Path, tmp_path: Path):
    known = json.loads(json.dumps(describe(read(lot))))
    moved = read(lot.rename(tmp_path / "moved"))
    for own in (True, False):
        assert check_same_data(moved, known, own) == moved.test
    write_image(tmp_path / "moved/ok/20.png", 20)
    with pytest.raises(UserError, match=r"own data is not what it was .* of the 16 .*data\.test_ok"):
        check_same_data(read(tmp_path / "moved"), known, own=True)


def test_a_new_lot_is_measured_whole_but_for_what_was_learned_from(lot: Path, tmp_path: Path, caplog):
    known, learned = describe(read(lot)), folder.read(lot, ok="ok").train
    for i in range(10):
        write_image(tmp_path / f"new/ok/{i}.png", 200 + i)
    new = folder.read(tmp_path / "new", ok="ok")
    assert len(check_same_data(new, known, own=False)) == 10 and len(new.test) == 2
    (tmp_path / "new/ok/old.png").write_bytes(learned[0].image.read_bytes())
    assert len(check_same_data(folder.read(tmp_path / "new", ok="ok"), known, own=False)) == 10
    assert "1 of 11 images are left out: the run learned from them" in caplog.text
    with pytest.raises(UserError, match="learned from all of these images"):
        check_same_data(Splits([], [], learned), known, own=False)
