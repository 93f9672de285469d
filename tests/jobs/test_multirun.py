"""A multirun that is cut off goes on, runs no job twice, and ends where an undisturbed one ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from anomalib_lite.jobs import multirun
from tests.commands import killed_at_a_checkpoint, one_thread, ran, read_json

RESULTS = ("metrics.json", "predictions.csv", "threshold.json", "model.safetensors", "history.csv")


def runs(folder: Path) -> list[Path]:
    return sorted(run for run in (folder / "runs/default").iterdir() if not run.name.startswith("."))


def results(folder: Path) -> dict[str, tuple[bytes, ...]]:
    return {run.name: tuple((run / name).read_bytes() for name in RESULTS) for run in runs(folder)}


def starts(folder: Path) -> list[int]:
    return sorted(read_json(run / "status.json")["starts"] for run in runs(folder))


def torn(folder: Path) -> list[Path]:
    """What a kill may leave, and the second start must not: temporary files, locks, parts, checkpoints."""
    hidden = [path for path in folder.rglob(".*") if path.is_file() or path.name.endswith(".part")]
    return [*hidden, *folder.rglob("checkpoints"), *folder.rglob(".jobs-*")]


@pytest.mark.slow
def test_a_killed_multirun_goes_on_and_runs_no_job_twice(here, tiny, monkeypatch):
    command, cut = ["train", "-m", *tiny, "scoring=max,topk", "seed=0,1"], here / "cut"
    ran(*command)
    cut.mkdir()
    monkeypatch.chdir(cut)
    killed_at_a_checkpoint(*command, times=2)
    assert starts(cut) == [1, 1] and torn(cut)

    said = ran(*command).err
    assert said.count("already done") == 1 and said.count("resuming the training from") == 1
    assert results(cut) == results(here) and len(results(cut)) == 4
    assert starts(cut) == [1, 1, 1, 2], "the one that was cut off began twice"
    assert torn(cut) == []
    assert len(list((cut / "runs/multirun").iterdir())) == 1, "the same multirun lies where it lay"


def test_who_asks_for_the_same_run_at_the_same_time_waits_for_it(tiny, tmp_path):
    words, how = [sys.executable, "-m", "anomalib_lite.cli", "train", *tiny], {"stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(words, cwd=tmp_path, env=one_thread(), **how) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("already done" in text for text in said) == 1
    assert starts(tmp_path) == [1] and torn(tmp_path) == []


def folder_of(*arguments: str) -> str:
    multirun.begin("train", arguments)
    return OmegaConf.create({"sweep": "${anomalib_lite.sweep:runs}"}).sweep


def test_a_multirun_is_named_by_what_it_consists_of(here):
    name = folder_of("-m", "seed=0,1", "mode=template")
    assert Path(name).parent == here / "runs/multirun"
    assert name == folder_of("mode=template", "seed=0,1", "-m", "hydra/launcher=basic")
    assert name != folder_of("-m", "seed=0,2", "mode=template")
    assert multirun.begin("train", ["-m"]) != multirun.begin("train", ["-m"]), "the records of each start lie apart"


def test_a_job_that_never_ended_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(multirun, "_folder", tmp_path)
    (tmp_path / "start").mkdir()
    for number, state in enumerate(["done", "running"]):
        entry = {"state": state, "command": f"anomalib-lite train seed={number}", "error": None, "host": "here"}
        (tmp_path / f"start/{number}.json").write_text(json.dumps(entry))
    told = multirun.failure_summary(multirun.records_of("start"))
    assert told.splitlines()[:2] == ["1 of 2 jobs of the sweep failed:", "  anomalib-lite train seed=1"]
    assert multirun.NOT_ENDED in told and not (tmp_path / "start").exists()


def test_records_of_a_start_that_was_killed_go_with_the_next(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, alive = (tmp_path / multirun._records(str(process), "ab") for process in (ended.pid, 1))
    for folder in (left, alive):
        folder.mkdir()
    multirun.Begin().on_multirun_start(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert not left.exists() and alive.exists()
