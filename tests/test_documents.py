"""Every command that README, docs/, experiments/ and --help name is one that the command line takes."""

import importlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from anomalib_lite import cli
from anomalib_lite.settings import conf_dir
from anomalib_lite.settings.fields import check
from tests.commands import REPOSITORY, Command
from tests.made import write_category

DOCUMENTS = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("experiments/*/README.md")]
PLACES = {"detector=NAME": "detector=padim", "backbone=NAME": "backbone=resnet18", "FILE": "grid.yaml"}


def commands(text: str) -> Iterator[str]:
    """Of a page: the lines of its blocks, and what stands between backquotes. What follows three blanks is prose."""
    for match in re.finditer(
        r"`((?:anomalib-lite|make|python) [^`]+)`|^ *((?:anomalib-lite|make|python) .*)$", text, re.M
    ):
        line = " ".join(match[1].split()) if match[1] else re.split(r" {3,}| +#", match[2])[0]
        if "..." not in line.split() and not line.endswith(("-", "\\", "=...")):
            yield line.strip()


def written() -> dict[str, str]:
    """Each command, and the page on which it stands."""
    helps = {verb: importlib.import_module(f"anomalib_lite.jobs.{verb}").HELP for verb in cli.VERBS}
    pages = {path.relative_to(REPOSITORY): path.read_text().replace("\\\n", " ") for path in DOCUMENTS}
    return {line: str(page) for page, text in (pages | helps).items() for line in commands(text)}


def composed(verb: str, words: list[str]) -> None:
    """Raises where the verb's configuration has no such option or choice, or the value is out of range."""
    if verb == "sweep" and "--" in words:
        composed("train", words[words.index("--") + 1 :])
    words = importlib.import_module(f"anomalib_lite.jobs.{verb}").main.to_hydra(words)
    words = [PLACES.get(word, word) for word in words if "=" in word and not word.startswith("-")]
    first = []
    for one in OverridesParser.create().parse_overrides(words):
        options = list(one.sweep_string_iterator()) if one.is_sweep_override() else []
        if options and (conf_dir() / one.key_or_group).is_dir():
            assert all((conf_dir() / one.key_or_group / f"{option}.yaml").is_file() for option in options)
        first.append(f"{one.key_or_group}={options[0]}" if options else str(one.input_line))
    check(compose(verb, first))


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    return written()


@pytest.mark.slow  # some 150 compositions, a tenth of a second each
def test_every_command_is_one_that_the_command_line_takes(told: dict[str, str]):
    assert len(told) > 80
    wrong = {}
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for line, page in told.items():
            program, verb, *words = shlex.split(line)
            if program == "anomalib-lite" and verb in cli.VERBS and "--help" not in words:
                try:
                    composed(verb, words)
                except Exception as error:
                    wrong[line] = f"{page}: {str(error).splitlines()[0]}"
    assert not wrong


def test_every_make_target_and_every_script_is_there(told: dict[str, str]):
    for line, page in told.items():
        program, *words = shlex.split(line)
        if program == "make":
            done = subprocess.run(["make", "-n", *words], cwd=REPOSITORY, capture_output=True, text=True)
            assert done.returncode == 0, f"{page}: {line}\n{done.stderr}"
        elif program == "python" and words[0].endswith(".py"):
            assert (REPOSITORY / words[0]).is_file(), f"{page}: {line}"


SMALL = ["preset=smoke", "image_size=64", "threads=1", "tracking=none"]  # what makes a command one of seconds


@pytest.mark.slow
def test_the_commands_for_ones_own_images_do_what_they_say(run_verb: Command, tmp_path: Path):
    section = (REPOSITORY / "README.md").read_text().partition("## Your own images")[2].partition("\n## ")[0]
    for name in ("DIR", "DIR/bottle"):  # as MTD and MVTec AD lie
        write_category(tmp_path / name, train=12, good=3, defects={"dot": 2, "square": 2})
    for source, place in (("train/good", "ok"), ("test/good", "new"), ("test/dot", "nok/dot"), ("test", "photos")):
        shutil.copytree(tmp_path / "DIR" / source, tmp_path / place)
    run, ran = "", []
    for line in re.findall(r"^(?:anomalib-lite|make) .*$", section, re.M):
        _, verb, *words = shlex.split(line.split(" #")[0].replace("runs/default/...", run))
        if verb in ("demo", "segment", "annotate") or "segmented" in line:
            continue  # panels: `notebooks/walkthrough.ipynb` goes that way
        if verb in ("train", "generate") and "start_from" not in line:  # which takes the run's own
            words += [*SMALL, *(["data=folder", "data.ok=ok"] if "data=" not in line else [])]
        done = run_verb(verb, *words)
        assert done.status == 0, f"{line}\n{done.err}"
        ran.append(verb)
        run = run or done.out.strip().splitlines()[-1]
    assert ran == ["train", "train", "predict", "evaluate", "evaluate", "train", "export", "generate", "train"]
    named = set(re.findall(r"`([a-z.]+\.(?:json|csv|yaml))`", section)) - {"history.csv"}  # the default has no epochs
    assert {f.name for f in Path(run).iterdir()} >= named
