"""The home folder, wherever a user may write it; known noise is silent, other warnings are not."""

import warnings

import pytest
import yaml
from omegaconf import OmegaConf

from anomalib_lite.jobs.app import expand_home, prepare_arguments, silence_warnings
from tests.commands import in_process


@pytest.mark.parametrize(
    ("argument", "expanded"),
    [
        ("paths.runs=~/runs", "paths.runs=/home/me/runs"),
        ("paths.runs='~/my runs'", "paths.runs='/home/me/my runs'"),
        ("data.root=~", "data.root=/home/me"),
        ("run=~/a,~/b", "run=/home/me/a,/home/me/b"),
        ("images=[~/a, '~/b',c~]", "images=[/home/me/a, '/home/me/b',c~]"),
        ("images=~other/a", "images=~other/a"),
        ("images=backup~/a", "images=backup~/a"),
        ("~detector.gaussian", "~detector.gaussian"),
        ("~tracking=wandb", "~tracking=wandb"),
        ("--config-dir=~/conf", "--config-dir=/home/me/conf"),
    ],
)
def test_on_the_command_line(argument, expanded, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert prepare_arguments(["-m", argument]) == ["-m", expanded]


def test_in_values_from_files(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    text = """
        paths: {runs: ~/runs}
        data: {root: "${paths.runs}/x", template: null, ok: ["~/ok", {deep: "~"}], seed: 3, name: "~word", split: "???"}
        whole: ${paths}
    """
    cfg = OmegaConf.create(yaml.safe_load(text))
    OmegaConf.set_struct(cfg, True)
    expand_home(cfg)
    assert OmegaConf.to_container(cfg.data, resolve=True) == {
        "root": "/home/me/runs/x", "template": None, "ok": ["/home/me/ok", {"deep": "/home/me"}], "seed": 3,
        "name": "~word", "split": "???",
    }  # fmt: skip
    assert cfg.whole.runs == "/home/me/runs"


@pytest.mark.parametrize("own", [["paths.runs=~/runs"], ["hydra.searchpath=[file://~/conf]", "experiment=mine"]])
def test_a_sweeps_record_lies_among_the_runs_and_not_in_the_current_folder(here, tmp_path_factory, monkeypatch, own):
    home = tmp_path_factory.mktemp("home")
    (home / "conf/experiment").mkdir(parents=True)
    (home / "conf/experiment/mine.yaml").write_text("# @package _global_\npaths: {runs: ~/runs}\n")
    monkeypatch.setenv("HOME", str(home))
    own = [word.replace("file://~", f"file://{home}") for word in own]
    done = in_process("train", "-m", "data=mvtec_ad", "data.root=~/nowhere", "seed=0,1", *own)
    assert f"{home}/nowhere" in done.err and "2 of 2 jobs of the sweep failed" in done.err
    assert list(here.iterdir()) == []
    (record,) = (home / "runs/multirun").glob("*/multirun.yaml")
    assert "seed=0,1" in yaml.safe_load(record.read_text())["hydra"]["overrides"]["task"]


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ("Found 184 module(s) in eval mode at the start of training. This may lead to unexpected behavior.", False),
        ("`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)` instead.", False),
        ("Found 3 duplicates at the start of training", True),
        ("the training images' eval mode", True),
    ],
)
def test_these_warnings_alone_are_silent(message, heard):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        silence_warnings()
        warnings.warn(message, UserWarning, stacklevel=1)
    assert bool(seen) == heard
