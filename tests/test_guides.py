"""Every how-to guide does what it says: its files are written into a user's own folder, and its commands run there."""

import re
import shlex
import sys

import pytest

from tests.commands import REPOSITORY, ran
from tests.made import write_image

GUIDES = sorted((REPOSITORY / "docs" / "guides").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"^(?:# @package \S+\n)?# (mine/\S+)\n")  # the first line of a block that is a file, taken whole
# of a training, where the guide does not say
QUICK = {"preset": "smoke", "image_size": "64", "tracking": "none", "defects": "none"}


@pytest.fixture
def own_folder(here, tiny_set, monkeypatch):
    """A user's folder, with photographs in `photos/` and `named/`; Python finds it as with PYTHONPATH=."""
    (here / "photos").symlink_to(tiny_set)
    for number in range(10):
        write_image(here / f"named/ok_{number}.png", seed=number)
        write_image(here / f"named/square_{number}.png", seed=100 + number, mark=True)
    monkeypatch.syspath_prepend(str(here))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)
    return here


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_works_as_it_is_written(guide, own_folder):
    files, commands = 0, []
    for language, text in BLOCK.findall(guide.read_text()):
        if named := NAMED.match(text):
            path = own_folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            files += 1
        elif language == "bash":
            commands += [line for line in text.replace("\\\n", " ").splitlines() if "anomalib-lite" in line]
    assert files and commands
    for line in commands:
        words = shlex.split(line, comments=True)
        verb, *overrides = words[words.index("anomalib-lite") + 1 :]
        given = {word.partition("=")[0] for word in overrides}
        quick = [f"{key}={value}" for key, value in QUICK.items() if key not in given and verb == "train"]
        runs = sorted(own_folder.glob("runs/default/*-s0-*"))
        overrides = [word.replace("runs/default/...", str(runs[0])) if runs else word for word in overrides]
        ran(verb, *overrides, *quick)


def test_a_detector_from_outside_is_one_short_file():
    (text,) = (t for _, t in BLOCK.findall((REPOSITORY / "docs/guides/add-a-detector.md").read_text()) if "class " in t)
    assert len(text.splitlines()) <= 40
