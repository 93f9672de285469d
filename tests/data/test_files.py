"""Finding images, and holding some of them out."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from anomalib_lite.data.files import expand, hold_out, list_images, make_splits, ok_samples, with_template
from anomalib_lite.data.sample import NOK, Sample, Splits
from anomalib_lite.errors import UserError


def touch(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [root / name for name in names]


def many(root: Path, count: int = 50) -> list[Sample]:
    return ok_samples(root / f"ok/{i:03d}.png" for i in range(count))


def names(samples: list[Sample]) -> set[str]:
    return {s.image.name for s in samples}


def test_images_are_listed_by_name_whatever_the_case_of_their_suffix(tmp_path: Path):
    touch(tmp_path, "b.PNG", "a.jpeg", "c.tiff", ".hidden.png", "notes.txt", "below/d.png")
    assert [p.name for p in list_images(tmp_path)] == ["a.jpeg", "b.PNG", "c.tiff"]


def test_files_folders_and_patterns_are_mixed_and_each_image_comes_once(tmp_path: Path):
    touch(tmp_path, "x/1.png", "x/2.png", "y/deep/3.png", "y/deep/readme.md", "4.bmp")
    found = expand(["x", "x/1.png", "y/**/*", "4.bmp"], tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["4.bmp", "x/1.png", "x/2.png", "y/deep/3.png"]


def test_absolute_patterns_ignore_the_root(tmp_path: Path):
    (image,) = touch(tmp_path, "x/1.png")
    assert expand(str(tmp_path / "*" / "*.png"), Path("/nowhere")) == [image]
    assert expand(str(tmp_path / "x"), Path("/nowhere")) == [image]


@pytest.mark.parametrize("pattern", ["empty", "none/*.png", "absent.png", "empty/*"])
def test_a_pattern_without_images_is_named_with_the_formats(tmp_path: Path, pattern: str):
    touch(tmp_path, "empty/notes.txt")
    with pytest.raises(UserError, match=rf"No image found at {re.escape(str(tmp_path / pattern))} .*\.png, \.jpg"):
        expand(pattern, tmp_path)


def test_nothing_asked_for_is_nothing_found(tmp_path: Path):
    assert expand(None, tmp_path) == []


@pytest.mark.parametrize(("share", "count"), [(0.2, 10), (0.01, 1), (0.5, 25), (0.98, 49)])
def test_every_image_is_on_one_side_and_the_share_is_kept(tmp_path: Path, share: float, count: int):
    train, val = hold_out(many(tmp_path), share, 0, tmp_path)
    assert len(val) == count and len(train) == 50 - count
    assert names(train).isdisjoint(names(val)) and len(names(train) | names(val)) == 50


def test_the_choice_does_not_depend_on_the_order(tmp_path: Path):
    shuffled = many(tmp_path)
    random.Random(0).shuffle(shuffled)
    assert names(hold_out(shuffled, 0.2, 0, tmp_path)[1]) == names(hold_out(many(tmp_path), 0.2, 0, tmp_path)[1])


def test_the_choice_depends_on_the_seed_but_not_on_where_the_folder_lies(tmp_path: Path):
    here = names(hold_out(many(tmp_path), 0.2, 0, tmp_path)[1])
    assert names(hold_out(many(tmp_path / "moved"), 0.2, 0, tmp_path / "moved")[1]) == here
    assert names(hold_out(many(tmp_path), 0.2, 1, tmp_path)[1]) != here


def test_added_images_leave_the_others_where_they_were(tmp_path: Path):
    """Of 50 images, 5 more may move only those that the 5 displace; a shuffled split would move about 16."""
    before = names(hold_out(many(tmp_path, 50), 0.2, 0, tmp_path)[1])
    after = names(hold_out(many(tmp_path, 55), 0.2, 0, tmp_path)[1])
    old = {f"{i:03d}.png" for i in range(50)}
    assert len(before ^ (after & old)) <= 5


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_a_share_out_of_range_is_refused(tmp_path: Path, share: float):
    with pytest.raises(UserError, match=r"data\.val_share"):
        hold_out(many(tmp_path), share, 0, tmp_path)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_to_hold_any_out_are_refused(tmp_path: Path, count: int):
    with pytest.raises(UserError, match=f"{count} OK images are too few"):
        hold_out(many(tmp_path, count), 0.2, 0, tmp_path)


def test_an_image_in_training_and_test_is_refused_also_through_a_link(tmp_path: Path):
    images = touch(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "link.png").symlink_to(images[1])
    for twin in (images[1], tmp_path / "link.png"):
        with pytest.raises(UserError, match=r"1 images are in the training and in the test set, among them .*b\.png"):
            make_splits(ok_samples(images), [Sample(twin, NOK)], 0.2, 0, tmp_path)


def test_the_template_is_given_to_every_sample(tmp_path: Path):
    (golden,) = touch(tmp_path, "golden.png")
    splits = Splits(many(tmp_path, 2), many(tmp_path, 1), [])
    assert {s.template for _, part in with_template(splits, golden) for s in part} == {golden}
    assert with_template(splits, None) == splits
    with pytest.raises(UserError, match=r"template does not exist.*absent\.png"):
        with_template(splits, tmp_path / "absent.png")


def test_folders_of_folders_stand_for_their_images(tmp_path: Path):
    broken, contam, own, _ = touch(tmp_path, "nok/broken/0.png", "nok/contam/1.png", "ok/2.png", "ok/old/3.png")
    for pattern in ("nok/*", "nok", "nok/**"):
        assert expand(pattern, tmp_path) == [broken, contam], pattern
    assert expand("ok", tmp_path) == [own], "where the folder itself holds images, it stands for those"
