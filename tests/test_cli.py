"""The command line: what it offers, and what it says to what it cannot do."""

import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from anomalib_lite import __version__, cli
from tests.commands import REPOSITORY, command_line, in_process, ran, refused

WRONG_SIZES = ("0", "-64", "100.5", "[128]", "abc", "[64,64,3]")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself_and_shows_its_configuration(here, verb):
    done = ran(verb, "--help")
    assert done.out.splitlines()[0].endswith((".", ",", "?"))
    assert f"\n  anomalib-lite {verb}" in done.out, "an example"
    shown = done.out.split("== Configuration: override with key=value ==\n")[1].splitlines()
    own = [line for line in shown if re.match(r"[a-z_]+: ", line) and not re.match(r"(data: null|sets)", line)]
    assert own and all("  # " in line for line in own), "each of the verb's own values with its meaning"
    assert "schema" not in done.out and "\nhydra:" not in done.out
    assert yaml.safe_load(ran(verb, "--cfg", "job").out).keys() - {"hydra"}


def test_the_configuration_shown_is_the_one_with_presets_and_overrides(here):
    shown = yaml.safe_load(ran("train", "preset=smoke", "seed=7", "--cfg", "job", "--resolve").out)
    assert (shown["seed"], shown["image_size"], shown["detector"]["drawn"]) == (7, 96, [16, 32])
    assert shown["data"]["root"] == "artifacts"
    own = yaml.safe_load(ran("train", "preset=smoke", "image_size=64", "tracking=none", "--cfg", "job").out)
    assert (own["image_size"], own["tracking"]) == (64, {"kind": "none"}), "the command line has the last word"


def test_help_shows_the_options_of_ones_own_files(here):
    (here / "my conf/detector").mkdir(parents=True)
    (here / "my conf/detector/mine.yaml").write_text("# Mine.\ndefaults: [padim, _self_]\nstride: 4\n")
    shown = ran("train", "--config-dir", "my conf", "detector=mine", "--help").out
    assert re.search(r"^  stride: 4 +# px between", shown, re.M)


def test_the_overview_names_every_verb_and_the_version_is_told(here):
    for arguments, status in (([], 2), (["--help"], 0), (["-h"], 0), (["help"], 0)):
        done = in_process(*arguments)
        assert done.status == status
        assert all(f"  {verb} " in done.out for verb in cli.VERBS)
    assert ran("--version").out.strip() == __version__


REFUSED = {  # what is typed -> what is said
    "trian seed=1": "no verb 'trian'. Did you mean train?",
    "predikt seed=1": "no verb 'predikt'. Did you mean predict?",
    "qqq": "there is no verb 'qqq'.\n\nanomalib-lite",
    "train sed=3": "'sed' is not an option. Did you mean: seed",
    "train detector.chanels=3": "Did you mean: detector.channels",
    "train detectr.channels=3": "Did you mean: detector.channels",
    "train scoring.false_alarm=0.1": "Did you mean: scoring.false_alarm_rate",
    "train data.qqqqqq=3": "Valid options here: data._target_, data.",
    "train data=mvtec_ad data.categry=bottle": "Did you mean: data.category",
    "predict imges=photos": "Did you mean: images?",
    "evaluate rnu=x": "Did you mean: run?",
    "predict": "error: Not set: images, run.",
    "evaluate": "error: Not set: run.",
    "predict runs/a photos": "error: runs/a is not of the form key=value: write KEY=runs/a.",
    "train detector padim": "error: detector is not of the form key=value: write detector=VALUE.",
    "train --detector padim": "error: --detector is not a flag: options are written key=value.",
    "predict run= images=photos": "error: run is empty: give it a value, or leave it out.",
    "predict run=a images=[]": "error: images is empty",
    "train data=folder data.ok=": "error: data.ok is empty",
    "train data=mvtec_ad data.root=. data.category=[]": "error: data.category is empty",
    "weights backbone=resnet18": "error: weights does not take backbone=resnet18.",
    "evaluate data=mtd backbone=resnet18": "error: evaluate does not take backbone=resnet18.",
    "train data=mtd": "error: Not set: data.root.",
    "train backbone=timm": "error: Not set: backbone.name.",
    "train seed=-1": "seed must be 0 or more and below 4294967296, not -1",
    "train detector=stfpm seed=4294967296": "not 4294967296",
    "train detector=stfpm seed=1.5": "Value '1.5' of type 'float' could not be converted to Integer",
    "train detector=stfpm batch_size=0": "batch_size must be 1 or more",
    "train detector=stfpm detector.epochs=abc": "could not be converted to Integer",
    "train detector=stfpm detector.epochs=-3": "detector.epochs must be 0 or more",
    "train detector=stfpm scoring.false_alarm_rate=2": "scoring.false_alarm_rate must be above 0 and below 1, not 2.0",
    "train detector=stfpm scoring.false_alarm_rate=5%": "Value '5%' of type 'str' could not be converted to Float",
    "train detector=stfpm scoring.aupro_limit=7": "scoring.aupro_limit must be above 0 and at most 1",
    "train detector=stfpm defects.regions.core=1": "defects.regions.core must be 0 or more and below 1",
    "train detector=stfpm defects.scale_mm_per_px=0": "defects.scale_mm_per_px must be above 0",
    "train detector=stfpm defects.severity.measures.area_share.half=0": "area_share.half must be above 0",
    "train detector=stfpm defects.layout.edge_width=wide": "defects.layout.edge_width: Value 'wide'",
    "train detector=stfpm keep=bestt": "keep must be one of last, best, not 'bestt'",
    **{f"train image_size={size}": "image_size must be a whole number of px" for size in WRONG_SIZES},
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_wrong_is_refused_in_words_before_anything_is_written(here, line):
    done = in_process(*line.split())
    assert done.status in (1, 2) and REFUSED[line] in done.err and "Traceback" not in done.err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("value", ["~other/photos", "photos/(1).png"])
def test_a_value_that_hydra_cannot_read_is_shown_in_quotes(here, value):
    assert f"twice: \"images='{value}'\"" in refused("predict", "run=x", f"images={value}")
    quoted = ran("predict", "run=x", f"images='{value}'", "--cfg", "job")
    assert yaml.safe_load(quoted.out)["images"] == value


@pytest.mark.parametrize(("group", "choice"), [("backbone", "resnet"), ("detector", "nope"), ("trainer", "tpu")])
def test_an_unknown_choice_lists_the_choices(here, group, choice):
    said = refused("train", f"{group}={choice}")
    assert f"Available options in '{group}'" in said
    assert all(f"\t{file.stem}\n" in said for file in (REPOSITORY / "conf" / group).glob("*.yaml"))


def test_the_flag_for_a_sweep_may_stand_anywhere(here):
    for place in range(3):
        arguments = ["data=mvtec_ad", "data.root=/nowhere"]
        arguments.insert(place, "-m")
        done = in_process("train", *arguments)
        assert done.status == 1 and "1 of 1 jobs of the sweep failed" in done.err


@pytest.fixture
def restarts(monkeypatch):
    """Command lines that the process would replace itself by."""
    seen: list[list[str]] = []

    def execute(path: str, arguments: list[str]) -> None:
        assert path == sys.executable
        seen.append([*arguments, *sorted(k for k in cli.MALLOC if k in os.environ)])

    kept = {key: value for key, value in os.environ.items() if key not in (cli.MALLOC_SWITCH, *cli.MALLOC)}
    monkeypatch.setattr(os, "execv", execute)
    monkeypatch.setattr(os, "environ", kept)
    return seen


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings are set on Linux alone")
def test_the_process_starts_anew_once_with_glibcs_settings(restarts, monkeypatch):
    given = ["-X", "dev", "-m", "anomalib_lite.cli", "train", "seed=1"]
    monkeypatch.setattr(sys, "orig_argv", ["python", *given])
    cli._keep_memory()
    cli._keep_memory()
    assert restarts == [[sys.executable, *given, *sorted(cli.MALLOC)]]


@pytest.mark.parametrize("variable", [cli.MALLOC_SWITCH, *cli.MALLOC])
def test_who_sets_malloc_himself_is_left_alone(restarts, variable):
    os.environ[variable] = "0"
    cli._keep_memory()
    assert restarts == []


def test_from_a_folder_with_files_named_like_modules(tmp_path):
    """The installed command must not import what lies in the folder where it is called, not after a restart either."""
    for name in ("random", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    script = Path(sys.executable).parent / "anomalib-lite"
    if not script.is_file():
        pytest.skip("anomalib-lite is not installed")
    done = command_line("annotate", "--cfg", "job", cwd=tmp_path, script=script)
    assert done.status == 0, done.err
