"""Finding images, and naming what is made of them; `tests/test_corpus.py` has links, and folders called like images."""

import os
import re
from pathlib import Path

import pytest

from anomalib_lite.data.files import expand, list_images, output_names, require_folder
from anomalib_lite.errors import UserError


def touch(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [root / name for name in names]


def found(root: Path, *patterns: str) -> list[str]:
    return [p.relative_to(root).as_posix() for p in expand(patterns, root)]


def test_files_folders_and_patterns_are_mixed_and_each_image_comes_once(tmp_path: Path):
    touch(tmp_path, "x/1.PNG", "x/2.png", "y/deep/3.tiff", "y/deep/readme.md", "y/.hidden.png", "4.bmp")
    assert found(tmp_path, "x", "x/1.PNG", "y/**/*", "4.bmp") == ["4.bmp", "x/1.PNG", "x/2.png", "y/deep/3.tiff"]
    assert [p.name for p in list_images(tmp_path)] == ["4.bmp", "1.PNG", "2.png", "3.tiff"]


def test_absolute_patterns_ignore_the_root_and_brackets_are_text_where_such_a_folder_is(tmp_path: Path):
    (image,) = touch(tmp_path, "set [v2]/x/1.png")
    base = tmp_path / "set [v2]"
    assert expand(str(base / "*" / "*.png"), Path("/nowhere")) == [image] == expand(str(base / "x"), Path("/nowhere"))
    assert expand("?/[0-9].png", base) == [image]


def test_what_tools_leave_behind_is_no_data_unless_it_is_named_and_is_said(tmp_path: Path, caplog):
    touch(tmp_path, "nok/a/1.png", "nok/.ipynb_checkpoints/2.png", "nok/__MACOSX/a/._1.png", "nok/a/.3.png")
    for pattern in ("nok", "nok/*", "nok/**/*.png", "nok/*/*"):
        caplog.clear()
        assert found(tmp_path, pattern) == ["nok/a/1.png"]
        assert "hidden" in caplog.text and len(caplog.records) == 1
    assert found(tmp_path, "nok/.ipynb*") == ["nok/.ipynb_checkpoints/2.png"]
    hidden = tmp_path / ".cache"
    touch(hidden, "x/1.png")
    assert found(hidden, "x") == ["x/1.png"], "what lies above the root does not count"


def test_what_is_no_image_is_said_and_a_pattern_without_images_refused(tmp_path: Path, caplog):
    touch(tmp_path, "x/notes.txt")
    for pattern, place in (("y", "y"), ("y/*.png", "y"), ("x/1.png", "x/1.png")):
        with pytest.raises(UserError, match=f": {re.escape(str(tmp_path / place))} does not exist"):
            expand(pattern, tmp_path)
    for pattern in ("x", "x/*"):
        with pytest.raises(UserError, match=rf"No image found at {re.escape(str(tmp_path / pattern))}: .*\.png, \.jpg"):
            expand(pattern, tmp_path)
    (tmp_path / "x/lost.png").symlink_to(tmp_path / "absent.png")
    with pytest.raises(UserError, match=r"broken links: 1, such as .*lost\.png"):
        expand("x", tmp_path)
    touch(tmp_path, "x/1.png")
    assert found(tmp_path, "x") == ["x/1.png"] and "lost.png" in caplog.text and "notes.txt" in caplog.text
    assert expand(None, tmp_path) == []
    with pytest.raises(UserError, match=r"The folder to watch does not exist: .*/absent\. Set images to a folder"):
        require_folder(tmp_path / "absent", "The folder to watch", "images")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/Gr\xfcn.png")).touch()
    with pytest.raises(UserError, match=r"1 image names are not UTF-8, among them .*Gr\\xfcn\.png"):
        expand(".", tmp_path)


def test_output_names_keep_files_apart_and_fit_a_file_system():
    long = ["ü" * 120, "ü" * 119 + "x"]
    names = output_names([Path(f"d/{name}") for name in ("a.png", "a.jpg", "b/a.png", *(f"{n}.png" for n in long))])
    assert names[:3] == ["a_png", "a_jpg", "b/a"]
    assert len(set(names)) == 5 and all(len(name.encode()) <= 180 for name in names)
    assert len(set(output_names([Path(f"d/{name}") for name in ("a.png", "a.bmp", "a_bmp.png")]))) == 3
