"""A table that comes out again passes; what differs, or is missing, is named."""

import dataclasses
import io
import math
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from anomalib_lite.comparison.runs import _program
from anomalib_lite.errors import UserError
from experiments import reproduce
from experiments.reproduce import beyond_tolerance, factors_of, flat_table

COMMITTED = "run,data,lr,seed,aupro,train_seconds\na,mtd,0.1,0,0.700000,5\nb,mtd,null,0,0.800000,6\nc,mtd,1,0,,7\n"
KEYS, WIDTH = ["data", "lr", "seed"], {"aupro": 0.01}


def test_only_what_lies_beyond_the_tolerance_is_named():
    reference = pd.read_csv(io.StringIO(COMMITTED), dtype=str, keep_default_na=False)
    assert factors_of(reference) == ["lr"]
    rows = [
        {"data": "mtd", "lr": lr, "seed": 0, "aupro": v} for lr, v in (("0.1", 0.709), ("null", 0.8), ("1", math.nan))
    ]
    assert beyond_tolerance(reference, pd.DataFrame(rows), KEYS, WIDTH) == []
    rows[1]["aupro"], rows[2]["aupro"] = 0.78, 0.5
    told = beyond_tolerance(reference, pd.DataFrame(rows[1:]), KEYS, WIDTH)
    assert told[0] == "missing: data=mtd lr=0.1 seed=0"
    assert told[1].startswith("differs: data=mtd lr=null seed=0: aupro 0.7800, committed 0.8000 (-0.0200, allowed")
    assert "lr=1 seed=0: aupro 0.5000, committed nan" in told[2]


def test_figures_of_a_json_file_are_a_table_too():
    flat = flat_table({"values": {"f1": 0.5, "ap": None}, "by_class": {"open": {"values": {"f1": 1.0}}}})
    assert flat.to_dict("records") == [
        {"name": "values.f1", "value": 0.5},
        {"name": "by_class.open.values.f1", "value": 1},
    ]


@pytest.mark.parametrize("name", reproduce.names())
def test_every_experiment_says_what_to_run_and_has_its_table(name: str):
    """Its commands compose, and the tolerance is of columns that the committed table has."""
    experiment = reproduce.load(name)
    reference = pd.read_csv(reproduce.HERE / name / "results.csv")
    assert set(experiment.tolerance) <= set(reference)
    assert experiment.figures or factors_of(reference)
    assert all(command.split()[0] in ("anomalib-lite", "python") for command in experiment.commands)
    named = [w for c in experiment.commands for w in c.split() if w.startswith("experiment=")]
    told = Path("conf", "experiment", named[0].partition("=")[2] + ".yaml")
    assert yaml.safe_load((reproduce.HERE.parent / told).read_text())["experiment_name"] == name


def test_absent_data_are_asked_for_and_overrides_reach_the_trainings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv(reproduce.VARIABLE, raising=False)
    tiles = reproduce.Experiment("tiles", ["anomalib-lite train -m data=mtd data.root={mtd}"], {"aupro": 0.01}, 1)
    with pytest.raises(UserError, match=r"needs real data \(mtd\): set ANOMALIB_LITE_DATASETS=DIR \(DIR/mtd\)"):
        reproduce.data_folders(tiles, [])
    assert reproduce.data_folders(tiles, ["data.root=/x"]) == {"mtd": "/x"}
    (tmp_path / "mtd").mkdir()
    monkeypatch.setenv(reproduce.VARIABLE, str(tmp_path))
    known = reproduce.data_folders(tiles, [])
    started = reproduce.arguments(tiles.commands[0], known, ["force=true"])
    assert started[3:] == ["train", "-m", "data=mtd", f"data.root={tmp_path}/mtd", "force=true"]


def test_a_command_that_fails_is_no_pass_though_earlier_runs_lie_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce.subprocess, "run", lambda command: SimpleNamespace(returncode=1))
    for name, value in {"_table": None, "beyond_tolerance": [], "data_folders": {}}.items():
        monkeypatch.setattr(reproduce, name, lambda *_, value=value: value)
    experiment = dataclasses.replace(reproduce.load("gan_weight"), commands=["true"])
    assert not reproduce.reproduce(experiment, [f"paths.runs={tmp_path}"])
    assert "FAIL: 1 problems" in capsys.readouterr().out


def test_edited_code_and_installed_versions_are_versions_of_their_own():
    recorded = [
        {"git_commit": "0123456789+changes"},
        {"git_commit": "0123456789"},
        {"packages": {"anomalib_lite": "1.2"}},
        {},
    ]
    assert [_program(environment) for environment in recorded] == ["0123456+", "0123456", "v1.2", ""]
