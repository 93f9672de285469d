"""What is learned from, held out and tested on; what of the template is seen, and what each origin weighs."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.data.splits import hold_out, make_splits, ok_samples, refuse_held_back, templates_of, weighted
from anomalib_lite.errors import UserError
from anomalib_lite.settings.training import Mode
from tests.made import write_pixels


def written(root: Path, **contents: str) -> list[Path]:
    """Files by their stem, with their content."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (root / f"{name}.png").write_text(content)
    return [root / f"{name}.png" for name in contents]


def many(root: Path, count: int = 50) -> list[Sample]:
    """Of different contents."""
    return ok_samples(written(root / "ok", **{f"{i:03d}": str(i) for i in range(count)}))


def names(samples: list[Sample]) -> set[str]:
    return {s.image.name for s in samples}


@pytest.mark.parametrize(("share", "count"), [(0.2, 10), (0.01, 1), (0.5, 25), (0.98, 49), (0.999, 49)])
def test_every_image_is_on_one_side_and_the_share_is_kept(tmp_path: Path, share: float, count: int):
    train, val = hold_out(many(tmp_path), share, 0, tmp_path)
    assert len(val) == count and len(train) == 50 - count
    assert names(train).isdisjoint(names(val)) and len(names(train) | names(val)) == 50


def test_the_choice_depends_on_the_seed_and_neither_on_the_order_nor_on_the_place(tmp_path: Path):
    """Of 50 images, 5 more may move only those that the 5 displace; a shuffled split would move about 16."""
    here = names(hold_out(many(tmp_path), 0.2, 0, tmp_path)[1])
    shuffled = many(tmp_path)
    random.Random(0).shuffle(shuffled)
    assert names(hold_out(shuffled, 0.2, 0, tmp_path)[1]) == here
    assert names(hold_out(many(tmp_path / "moved"), 0.2, 0, tmp_path / "moved")[1]) == here
    assert names(hold_out(many(tmp_path), 0.2, 1, tmp_path)[1]) != here
    added = names(hold_out(many(tmp_path, 55), 0.2, 0, tmp_path)[1])
    assert len(here ^ (added & names(many(tmp_path)))) <= 5


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images_are_counted_as_they_were_given(tmp_path: Path, count: int):
    with pytest.raises(UserError, match=f"{count} OK images are too few: one is needed to learn from, one for the thr"):
        make_splits(many(tmp_path, count), [], tmp_path, test_share=0.2)
    assert [len(part) for _, part in make_splits(many(tmp_path, 3), [], tmp_path, test_share=0.2)] == [1, 1, 1]
    assert [len(part) for _, part in make_splits(many(tmp_path, 2), [], tmp_path)] == [1, 1, 0]
    same = ok_samples(written(tmp_path, **{f"a{i}": "a" for i in range(9)}))
    with pytest.raises(UserError, match=r"1 OK images \(9 files, the others are copies\) are too few"):
        make_splits(same, [], tmp_path)


def test_copies_count_once_and_on_one_side(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Of each picture four files: the same split as of one file each, and a test image is never learned from."""
    letters = "abcdefghijklmnopqrst"
    single = ok_samples(written(tmp_path, **{c: c for c in letters}))
    copied = ok_samples(written(tmp_path, **{f"{c}{i}": c for c in letters for i in range(3)}))
    alone = make_splits(single, [], tmp_path, test_share=0.2)
    assert make_splits([*single, *copied], [], tmp_path, test_share=0.2) == alone
    assert "60 images are copies of others" in caplog.text
    tested = make_splits(single, ok_samples(written(tmp_path / "test", a="a")), tmp_path)
    assert len(tested.test) == 1 and "a.png" not in names(tested.train + tested.val)


def test_an_image_that_is_learned_from_and_nok_is_refused_also_through_a_link(tmp_path: Path):
    images = written(tmp_path, a="a", b="b", c="c")
    (tmp_path / "link.png").symlink_to(images[1])
    for twin in (images[1], tmp_path / "link.png", *written(tmp_path / "nok", b="b")):
        with pytest.raises(UserError, match=r"b\.png is (listed|the same image as .* one of them is) .*OK and .* NOK"):
            make_splits(ok_samples(images), [Sample(twin, NOK)], tmp_path)


def test_few_shots_are_drawn_by_a_seed_from_what_is_not_held_out(tmp_path: Path):
    whole = make_splits(many(tmp_path), [], tmp_path)
    drawn = {k: make_splits(many(tmp_path), [], tmp_path, shots=k) for k in (1, 2, 4, 40)}
    assert all(len(s.train) == k and s.val == whole.val for k, s in drawn.items())
    assert names(drawn[1].train) < names(drawn[2].train) < names(drawn[4].train) <= names(whole.train)
    assert drawn[40].train == whole.train
    assert names(make_splits(many(tmp_path), [], tmp_path, shots=4, shots_seed=1).train) != names(drawn[4].train)
    for shots in (0, 41):
        with pytest.raises(UserError, match=r"data\.shots must lie between 1 and 40"):
            make_splits(many(tmp_path), [], tmp_path, shots=shots)


def test_of_each_category_as_many_are_held_out_and_shown(tmp_path: Path):
    """Of 3 among 53 images, one share of all together would hold out none as a rule."""
    nuts = [replace(s, category="nut") for s in many(tmp_path)]
    caps = [replace(s, category="cap") for s in ok_samples(written(tmp_path, x="x", y="y", z="z"))]
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
        ("shots", 2.5, "data.shots must lie between 1 and 40, the OK images"),
    ],
)
def test_settings_of_a_reader_of_ones_own_are_refused_out_of_range(
    tmp_path: Path, setting: str, value: Any, message: str
):
    with pytest.raises(UserError, match=message):
        make_splits(many(tmp_path), [], tmp_path, **{setting: value})


def test_images_that_the_data_set_holds_out_are_held_out(tmp_path: Path):
    splits = make_splits(many(tmp_path, 4), [], tmp_path, held_out=ok_samples(written(tmp_path, v="v")))
    assert len(splits.train) == 4 and names(splits.val) == {"v.png"}


def test_one_depth_for_all_16_bit_images_by_the_brightest_ok_image(tmp_path: Path):
    levels = [900, 3000, 200, 100]
    images = [write_pixels(tmp_path / f"{v}.png", np.full((4, 4), v, np.uint16)) for v in levels]
    test = [Sample(write_pixels(tmp_path / "test.png", np.full((4, 4), 20000, np.uint16)), NOK)]
    assert {s.bits for _, part in make_splits(ok_samples(images), test, tmp_path) for s in part} == {12}
    assert {s.bits for _, part in make_splits(ok_samples(images), [], tmp_path, bits=14) for s in part} == {14}
    with pytest.raises(UserError, match=r"data\.bits must be one of 8, 10, 12, 14, 16"):
        make_splits(ok_samples(images), [], tmp_path, bits=11)


def test_the_template_is_given_to_every_sample(tmp_path: Path):
    (golden,) = written(tmp_path, golden="g")
    splits = make_splits(many(tmp_path), [], tmp_path, template=golden)
    assert {s.template for _, part in splits for s in part} == {golden}
    with pytest.raises(UserError, match=r"template does not exist.*absent\.png"):
        make_splits(many(tmp_path), [], tmp_path, template=tmp_path / "absent.png")


def splits(*templates: str | None) -> Splits:
    samples = [Sample(Path(f"{k}.png"), OK, template=Path(t) if t else None) for k, t in enumerate(templates)]
    return Splits(samples[:1], samples[1:2], samples[2:])


def test_one_template_for_all_one_for_each_or_none_at_all():
    assert templates_of(splits("a", "a", "a")) == [Path("a")]
    assert templates_of(splits("b", "a", "a")) == [Path("a"), Path("b")]
    with pytest.raises(UserError, match=r"1\.png has none.*data.template"):
        templates_of(splits("a", None, "a"))
    assert templates_of(splits("a", "b", None).with_template(Path("gold.png"))) == [Path("gold.png")]
    assert {s.template for _, samples in splits("a", "b", "a").with_template(None) for s in samples} == {None}


def test_a_template_with_the_content_of_a_held_back_image_is_refused(tmp_path: Path):
    train, val, test, like_val, golden = written(tmp_path, train="1", val="2", test="6", like_val="2", golden="new")
    held_back = Splits(*([Sample(image, OK)] for image in (train, val, test)))
    refuse_held_back([train, golden], held_back)
    for template, kind in ((like_val, "held-out"), (test, "test")):
        with pytest.raises(UserError, match=f"{template} is one of the {kind} images, .*data.template={train}"):
            refuse_held_back([golden, template], held_back)


def origins(*names: str) -> list[Sample]:
    return [Sample(Path(name), OK, origin=name) for name in names]


@pytest.mark.parametrize(
    ("weights", "generated", "expected"),
    [
        ({"real": 5, "generated": 1, "template_generated": 2, "template": 5}, None, [1, 0.2, 0.4, 1]),
        ({"real": 5, "template": 5}, 0.1, [1, 0.1, 0.1, 1]),
        ({"real": 2, "template": 1}, 0, [1, 0.5]),  # weight 0 is left out
    ],
)
def test_only_the_ratios_of_weights_count_and_a_real_image_weighs_one(weights, generated, expected):
    samples = origins("real", "generated", "template_generated", "template")
    assert [s.weight for s in weighted(samples, Mode(weights=weights, generated=generated))] == expected
    generated = Sample(Path("a"), OK, origin="generated", weight=0.5)
    (half,) = weighted([generated], Mode(weights={"real": 4, "generated": 1}))
    assert half.weight == 0.125, "a sample's own weight is a factor"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"real": 1, "generated": 1}, "names no weight for images of origin template_generated"),
        ({"real": 0, "template_generated": 1}, r"real must be above 0"),
        ({"real": 1, "template_generated": -1}, "negative"),
    ],
)
def test_unknown_origins_and_negative_weights_are_refused(weights: dict[str, float], message: str):
    with pytest.raises(UserError, match=message):
        weighted(origins("template_generated"), Mode(weights=weights))
