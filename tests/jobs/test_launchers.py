"""The same jobs on each launcher: the same figures as one after the other, and failures told at the end."""

import re
import shlex
from pathlib import Path

import pytest

from anomalib_lite.jobs import multirun
from tests.clusters import HEAD, NODE, ray_cluster, slurm
from tests.commands import Outcome, command_line, in_process, read_json, refused
from tests.wandb_files import offline_runs

SIX = ("scoring=max,topk", "seed=0,1,-1")  # two trainings, each needed by two jobs, and two jobs that fail
Results = dict[str, tuple[bytes, ...]]  # by run, the files that must not depend on where it ran


def results(folder: Path) -> Results:
    names = ("metrics.json", "predictions.csv", "threshold.json", "model.safetensors")
    runs = [run for run in (folder / "runs/default").iterdir() if run.is_dir()]
    return {run.name: tuple((run / name).read_bytes() for name in names) for run in runs}


def told(done: Outcome, folder: Path) -> None:
    """The jobs that failed are named with what to type to see them alone; the others are done."""
    assert done.status == 1, done.err
    assert len(results(folder)) == 4, "what is refused begins no run"
    listed = done.err[done.err.index("2 of 6 jobs of the sweep failed:\n") :].splitlines()
    for command, said in zip(listed[1:5:2], listed[2:5:2], strict=True):
        words = shlex.split(command)
        assert words[:2] == ["anomalib-lite", "train"] and "seed=-1" in words
        assert "seed must be 0 or more" in said
    (records,) = (folder / "runs/multirun").glob("*/jobs.json")
    assert sorted(entry["state"] for entry in read_json(records)) == 4 * ["done"] + 2 * ["failed"]


@pytest.fixture(scope="module")
def basic(tiny, tmp_path_factory):
    """One job after the other."""
    folder = tmp_path_factory.mktemp("basic")
    paths = [f"paths.runs={folder}/runs", f"paths.artifacts={folder}/artifacts"]
    told(in_process("train", "-m", *tiny, *SIX, *paths), folder)
    return results(folder)


def check(folder: Path, tiny: list[str], basic: Results, *launcher: str, **environment: str):
    """From a folder of its own, with paths relative to it, as a user starts it."""
    done = command_line("train", "-m", *tiny, *SIX, *launcher, cwd=folder, **environment)
    told(done, folder)
    assert "UserWarning" not in done.err
    assert results(folder) == basic
    assert not list(folder.rglob("*.lock")) and not list(folder.rglob(".jobs-*"))
    logs = [(run / "run.log").read_text() for run in (folder / "runs/default").iterdir()]
    assert all(len(re.findall("saved the model: ", log)) == 1 for log in logs), "each run's log is of its own job alone"
    assert len(list((folder / "artifacts").glob("trained-*"))) == 2


def test_joblib_with_two_workers_and_a_wandb_run_of_each_job(tmp_path, tiny, basic):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    tracked = [value for value in tiny if not value.startswith("tracking")]
    check(tmp_path, tracked, basic, "hydra/launcher=joblib", "tracking=wandb")
    runs = {run.file.parents[2]: run for run in offline_runs(tmp_path / "runs")}
    assert len(runs) == 4 and len({run.id for run in runs.values()}) == 4
    for folder, run in runs.items():
        metrics = read_json(folder / "metrics.json")
        assert run.exit_code == 0 and run.config["seed"] == int(re.search(r"-s(\d)-", folder.name)[1])
        for name in ("image_auroc", "pixel_auroc", "aupro"):
            assert run.summary[name] == pytest.approx(metrics[name])


def test_a_real_slurm(tmp_path, tiny, basic):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    with slurm() as environment:
        launcher = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1")
        check(tmp_path, tiny, basic, *launcher, **environment)
    assert list((tmp_path / "runs/multirun").glob("*/submitit/*/*_result.pkl")), "Slurm ran them"


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes(tmp_path, tiny, basic):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    where = ("+hydra.callbacks.where._target_=tests.clusters.Where", f"+hydra.callbacks.where.folder={tmp_path}/where")
    with ray_cluster() as (address, environment):
        launcher = ("hydra/launcher=ray_cluster", f"hydra.launcher.ray.init.address={address}", *where)
        check(tmp_path, tiny, basic, *launcher, **environment)
    assert {path.read_text() for path in (tmp_path / "where").iterdir()} == {HEAD, NODE}


def test_a_launcher_that_is_not_installed_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(multirun.LAUNCHERS, "joblib", ("hydra_no_such_launcher", "joblib"))
    said = refused("train", "-m", "seed=0,1", "hydra/launcher=joblib", f"paths.runs={tmp_path}")
    assert "pip install 'anomalib-lite[joblib]'" in said
