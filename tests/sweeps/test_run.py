"""Sweeps of trainings that take no time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from anomalib_lite.errors import UserError
from anomalib_lite.sweeps.run import Study, conclude, run_sweep
from anomalib_lite.sweeps.spec import Sweep
from tests.commands import one_thread, read_json, read_rows
from tests.sweeps.conftest import COMMAND, Write, fake_training

NAME = ("experiment_name=fake",)
STUDY = Path("study")
UNIFORM = {"x": {"min": 0.0, "max": 4.0}}


def ran(sweep: Sweep, trials: int | None = None, command: Any = fake_training, **more: Any) -> Study:
    return run_sweep(sweep, NAME, STUDY, command, trials, **more)


def ran_elsewhere(sweep: Sweep, trials: int, **more: Any) -> Study:
    """The same sweep without a past."""
    return run_sweep(sweep, ("experiment_name=other",), Path("other"), fake_training, trials, **more)


def xs(*values: float) -> dict[str, Any]:
    return {"x": {"values": [*values]}}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def starts() -> list[str]:
    """One entry for each time that a run was started."""
    return sorted(p.parent.name for p in Path("runs").rglob("starts") for _ in p.read_text().splitlines())


def drawn(study: Study) -> list[dict[str, Any]]:
    return [study.values(trial) for trial in study.ended()]


def test_a_grid_is_tried_once(sweep_of: Write, capsys: pytest.CaptureFixture):
    sweep = sweep_of(parameters=xs(3, 1, 2) | {"note": {"values": ["a b=c", None]}})
    study = ran(sweep, parallel=2)
    tried = [(x, note) for x in (1, 2, 3) for note in ("None", "a b=c")]
    assert sorted((v["x"], str(v["note"])) for v in drawn(study)) == tried
    assert len(starts()) == 6
    assert conclude(study, NAME, STUDY) is None
    said = capsys.readouterr().out
    assert "best: anomalib-lite train experiment_name=fake x=1 \"note='a b=c'\"" in said
    assert "6 trials (6 done)" in said
    rows = {(r["state"], r["figure"], r["x"]) for r in read_rows(STUDY / "trials.csv")}
    assert rows == {("done", f"{x}.0", str(x)) for x in (1, 2, 3)}
    again = ran(sweep)
    assert len(starts()) == 6 and drawn(again) == drawn(study)


def test_failures_stop_nothing_and_are_told(sweep_of: Write):
    study = ran(sweep_of(parameters=xs(-1, 13, 2)))
    told = conclude(study, NAME, STUDY) or ""
    assert told.startswith("2 trial(s) of the sweep failed:")
    command = "anomalib-lite train experiment_name=fake x=-1"
    assert f"error: x must not be negative: -1.0 (exit status 1)\n    {command}" in told
    assert "There is no metric 'figure': did you mean ms_per_image, timings/train, validation/mean?" in told
    assert [study.values(t) for t in study.best()] == [{"x": 2}]


def test_trials_of_data_that_have_changed_since_are_told(sweep_of: Write, capsys: pytest.CaptureFixture):
    sweep = sweep_of(method="random", parameters=UNIFORM)
    for trials, data in ((2, "first"), (3, "mended")):
        Path("data").write_text(data)
        conclude(ran(sweep, trials), NAME, STUDY)
    first, second = capsys.readouterr().out.split("3 trials (")
    assert "other data" not in first and "WARNING: trials 0, 1 learned from other data" in second


def test_figures_of_metrics_status_and_history(sweep_of: Write):
    names = ["figure", "validation/mean", "validation.mean", "ms_per_image", "val_loss"]
    study = ran(sweep_of(parameters=xs(2), metrics=[{"name": name} for name in names]))
    assert study.ended()[0].values == [2, -2, -2, 8, 2]


def test_of_several_figures_the_front_is_told(sweep_of: Write, capsys: pytest.CaptureFixture):
    metrics = [{"name": "figure", "goal": "minimize"}, {"name": "ms_per_image", "goal": "minimize"}]
    study = ran(sweep_of(parameters=xs(1, 2) | {"epochs": {"values": [1, 2]}}, metrics=metrics))
    conclude(study, NAME, STUDY)
    assert "Pareto front (minimize figure, minimize ms_per_image):" in capsys.readouterr().out
    assert {study.values(t)["x"] for t in study.best()} == {1, 2}


def test_tpe_finds_what_random_does_not(sweep_of: Write):
    space, found = UNIFORM | {"y": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1.0}}, {}
    for method in ("random", "bayes"):
        study = Study(sweep_of(method=method, parameters=space), Path(method), seed=0)
        while len(study.ended()) < 40:
            trial = study.ask()
            values = study.values(trial)
            study.optuna.tell(trial, [(values["x"] - 3) ** 2 + values["y"]])
        found[method] = sum(t.values[0] for t in study.ended()[-15:]) / 15
    assert found["bayes"] < found["random"] / 3


def test_a_kill_while_the_study_is_written_leaves_no_lock(sweep_of: Write):
    sweep = sweep_of(parameters=xs(1))
    ran(sweep)
    os.symlink("study.journal", "study/study.journal.lock")  # what Optuna's own lock leaves; it would wait for ever
    assert len(ran(sweep).ended()) == 1


def test_a_second_process_leaves_the_trials_of_the_first_alone(sweep_of: Write):
    sweep = sweep_of(parameters=xs(1, 2))

    def training(overrides: list[str]) -> list[str]:
        with pytest.raises(UserError, match="Another process is using study: end it"):
            ran(sweep)
        return fake_training(overrides)

    assert [trial.state.name for trial in ran(sweep, command=training, parallel=2).ended()] == ["COMPLETE"] * 2
    assert len(ran(sweep).ended()) == 2


def test_another_seed_is_another_study_where_it_chooses_the_trials(sweep_of: Write):
    grid, random = sweep_of(parameters=xs(1)), sweep_of(method="random", parameters=UNIFORM)
    assert grid.key((), 1) == grid.key(()) and len({random.key((), seed) for seed in (0, 1, 2)}) == 3


def test_a_sweep_without_end_asks_for_one(sweep_of: Write):
    with pytest.raises(UserError, match="needs a number of trials"):
        ran(sweep_of(method="random", parameters=UNIFORM))


def test_more_trials_go_on_from_those_before(sweep_of: Write):
    sweep = sweep_of(method="bayes", parameters=UNIFORM)
    ran(sweep, 2, seed=5)
    parts = ran(sweep, 4, seed=5)
    assert len(starts()) == 4
    assert drawn(parts) == drawn(ran_elsewhere(sweep, 4, seed=5))


def test_a_trial_that_falls_behind_is_stopped(sweep_of: Write):
    # one epoch each for those that the others are compared with; hours for the rest, were they not stopped
    halving = {"type": "hyperband", "min_iter": 1, "eta": 3}

    def training(overrides: list[str]) -> list[str]:
        slow = float(overrides[-1].removeprefix("x=")) > 1
        return fake_training([*overrides, *(["epochs=1000", "pause=0.05"] if slow else ["epochs=1"])])

    study = ran(sweep_of(parameters=xs(1.0, 0.5, 5.0, 6.0), early_terminate=halving), command=training)
    assert conclude(study, NAME, STUDY) is None
    assert [row["state"] for row in read_rows(STUDY / "trials.csv")] == ["done", "done", "pruned", "pruned"]
    for folder in Path("runs/fake").iterdir():
        status, slow = read_json(folder / "status.json"), "pause" in folder.name
        assert status["state"] == ("pruned" if slow else "done")
        assert ("after epoch 1 its val_loss" in status.get("error", "")) == slow


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_at_each_rung_the_best_third_of_those_that_reached_it_goes_on(sweep_of: Write, goal: str):
    """W&B's max_iter 18 and s 2 give the rungs 2 and 6. Losses are compared, whatever the sweep's own goal is."""
    halving = {"type": "hyperband", "max_iter": 18, "s": 2}
    metric = {"name": "figure", "goal": goal}
    study = Study(sweep_of(method="random", parameters=UNIFORM, metric=metric, early_terminate=halving), Path("s"), 0)

    def behind(*losses: float) -> list[int]:
        trial = study.ask()
        return [epoch for epoch, loss in enumerate(losses, 1) if study.behind(trial, epoch, loss)]

    assert behind(9.0, 3.0) == [], "the first has nothing to be compared with"
    assert behind(9.0, 4.0) == [2], "of two the better one"
    assert behind(1.0, 5.0) == [2], "the last value counts, not the best"
    assert behind(9.0, 2.0, 0.0, 0.0, 0.0, 8.0) == []
    assert [behind(9.0, float(loss)) for loss in (9, 2.5)] == [[2], []], "second of six"
    assert behind(9.0, 1.0, 9.0, 9.0, 9.0, 9.0) == [6]


DRIVER = """
import sys
from pathlib import Path
from anomalib_lite.sweeps.run import run_sweep
from anomalib_lite.sweeps.spec import read_sweep
from tests.sweeps.conftest import fake_training
run_sweep(read_sweep(Path("sweep.yaml")), ("experiment_name=fake", "pause=0.15"), Path("study"), fake_training, 5)
"""


def test_a_killed_sweep_goes_on_where_it_was(sweep_of: Write):
    sweep, driver = sweep_of(method="bayes", parameters=UNIFORM), [sys.executable, "-c", DRIVER]
    first = subprocess.Popen(driver, env=one_thread(), start_new_session=True)
    deadline = time.monotonic() + 60
    while len(starts()) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    interrupted = len(starts())
    subprocess.run(driver, env=one_thread(), check=True)
    assert len(set(starts())) == 5 and len(starts()) <= max(6, interrupted + 3)
    resumed, undisturbed = Study(sweep, STUDY, seed=0), ran_elsewhere(sweep, 5)
    assert sorted(v["x"] for v in drawn(resumed)) == sorted(v["x"] for v in drawn(undisturbed))


def test_a_rehearsal_lists_the_trials_and_finds_what_is_wrong_with_them(run_verb: Any):
    content = {
        "method": "random", "metric": {"name": "aupro", "goal": "maximize"}, "command": COMMAND, "run_cap": 2,
        "parameters": {"image_size": {"min": 64, "max": 96}},
    }  # fmt: skip
    Path("my sweep=1.yaml").write_text(yaml.safe_dump(content))
    done = run_verb("sweep", "my sweep=1.yaml", "trials=3", "dry=true", "--", "data=mtd", "data.root=a b", "seed=4")
    assert done.status == 0, done.err
    said = done.out
    assert said.count("anomalib-lite train data=mtd 'data.root=a b' seed=4 \"experiment_name='my sweep=1'\"") == 3
    assert "trial 2: " in said and "image_size=" in said and "3 trials in all" in said and not Path("runs").exists()
    refused = {
        "data=mtdx": "Could not find 'data/mtdx'",
        "data=mtd": "Not set: data.root",
        "detector.epochz=1": "'detector.epochz' is not an option",
        "seed=-1": "seed must be 0 or more",
    }
    for wrong, words in refused.items():
        done = run_verb("sweep", "my sweep=1.yaml", "dry=true", "--", wrong)
        assert done.status == 2 and "Trial 0 cannot start" in done.err and words in done.err
    missing = run_verb("sweep", "none.yaml")
    assert missing.status == 2 and "cannot be read" in missing.err


def test_an_interrupted_sweep_ends_its_trials(sweep_of: Write, monkeypatch: pytest.MonkeyPatch):
    commands: list[list[str]] = []

    def training(overrides: list[str]) -> list[str]:
        commands.append(fake_training([*overrides, "epochs=1000", "pause=1"]))
        return commands[-1]

    def interrupt(_: float) -> None:
        if len(starts()) == 2:
            raise KeyboardInterrupt

    clock = SimpleNamespace(sleep=interrupt, perf_counter=time.perf_counter)  # subprocess.wait sleeps, too
    monkeypatch.setattr("anomalib_lite.sweeps.run.time", clock)
    with pytest.raises(KeyboardInterrupt):
        ran(sweep_of(parameters=xs(1, 2, 3)), command=training, parallel=2)
    running = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True).stdout
    assert len(commands) == 2 and not any(" ".join(command) in running for command in commands)
