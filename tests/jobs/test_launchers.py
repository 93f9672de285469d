"""The same six jobs on each launcher: the same metrics as one after the other, and failures told at the end."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.clusters import HEAD, NODE, ray_cluster, slurm
from tests.commands import Outcome, command_line, in_process
from tests.wandb_files import offline_runs

SIX = ("scoring=max,topk", "seed=0,1,2")  # three trainings, each needed by two jobs
FAILING = ("scoring=max", "seed=0,1", "data.val_share=7,0.2")  # two that fail, and two of the six


def results(folder: Path) -> dict[str, tuple[bytes, ...]]:
    """By run: what must not depend on where it ran."""
    names = ("metrics.json", "predictions.csv", "threshold.json", "model.safetensors")
    runs = [run for run in (folder / "runs/default").iterdir() if run.is_dir()]
    return {run.name: tuple((run / name).read_bytes() for name in names) for run in runs}


@pytest.fixture(scope="module")
def basic(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, ...]]:
    folder = tmp_path_factory.mktemp("basic")
    paths = [f"paths.runs={folder}/runs", f"paths.artifacts={folder}/artifacts"]
    done = in_process("train", "-m", *tiny, *SIX, *paths)
    assert done.status == 0, done.err
    assert len(results(folder)) == 6
    return results(folder)


def sweep(folder: Path, tiny: list[str], *arguments: str, **environment: str) -> Outcome:
    """From a folder of its own, with paths relative to it, as a user starts it."""
    return command_line("train", "-m", *tiny, *arguments, cwd=folder, **environment)


def check(folder: Path, tiny: list[str], basic: dict[str, tuple[bytes, ...]], *launcher: str, **environment: str):
    done = sweep(folder, tiny, *SIX, *launcher, **environment)
    assert done.status == 0, done.err
    assert "UserWarning" not in done.err
    assert results(folder) == basic
    assert not list(folder.rglob("*.lock")) and not list(folder.rglob(".jobs-*"))
    logs = [(run / "run.log").read_text() for run in (folder / "runs/default").iterdir()]
    assert all(len(re.findall("saved: ", log)) == 1 for log in logs), "each run's log is of its own job alone"
    assert len(list((folder / "artifacts").glob("trained-*"))) == 3

    failed = sweep(folder, tiny, *FAILING, *launcher, **environment)
    assert failed.status == 1, failed.err
    told = failed.err[failed.err.index("2 of 4 jobs of the sweep failed:\n") :].splitlines()
    for line, seed in ((1, 0), (3, 1)):
        words = shlex.split(told[line])
        assert words[:2] == ["anomalib-lite", "train"] and {f"seed={seed}", "data.val_share=7"} <= set(words)
        assert told[line + 1].strip() == "data.val_share must be above 0 and below 1, not 7.0."
    assert results(folder) == basic, "the others were done"
    states = {
        entry["state"]
        for records in (folder / "runs/multirun").glob("*/jobs.json")
        for entry in json.loads(records.read_text())
    }
    assert states == {"done", "failed"}


def test_joblib_with_two_workers(tmp_path: Path, tiny: list[str], basic: dict[str, tuple[bytes, ...]]):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    check(tmp_path, tiny, basic, "hydra/launcher=joblib")


def test_each_job_of_joblib_has_a_wandb_run_of_its_own(tmp_path: Path, tiny: list[str]):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    tracked = [value for value in tiny if not value.startswith("tracking")]
    done = sweep(tmp_path, tracked, "tracking=wandb", "hydra/launcher=joblib", "seed=0,1")
    assert done.status == 0, done.err
    runs = {run.file.parents[2]: run for run in offline_runs(tmp_path / "runs")}
    assert len(runs) == 2 and len({run.id for run in runs.values()}) == 2
    for folder, run in runs.items():
        metrics = json.loads((folder / "metrics.json").read_text())
        assert run.exit_code == 0 and run.config["seed"] == int(re.search(r"-s(\d)-", folder.name)[1])
        for name in ("image_auroc", "pixel_auroc", "aupro"):
            assert run.summary[name] == pytest.approx(metrics[name])
        assert {"train_loss", "val_loss"} <= run.logged


def test_a_real_slurm(tmp_path: Path, tiny: list[str], basic: dict[str, tuple[bytes, ...]]):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    with slurm() as environment:
        launcher = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1")
        check(tmp_path, tiny, basic, *launcher, **environment)
    assert list((tmp_path / "runs/multirun").glob("*/submitit/*/*_result.pkl")), "Slurm ran them"


def test_a_ray_cluster_of_two_nodes(tmp_path: Path, tiny: list[str], basic: dict[str, tuple[bytes, ...]]):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    where = ("+hydra.callbacks.where._target_=tests.clusters.Where", f"+hydra.callbacks.where.folder={tmp_path}/where")
    with ray_cluster() as (address, environment):
        launcher = ("hydra/launcher=ray_cluster", f"hydra.launcher.ray.init.address={address}", *where)
        check(tmp_path, tiny, basic, *launcher, **environment)
    assert {path.read_text() for path in (tmp_path / "where").iterdir()} == {HEAD, NODE}


def test_a_launcher_that_is_not_installed_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from anomalib_lite.jobs import multirun

    monkeypatch.setitem(multirun.LAUNCHERS, "joblib", ("hydra_no_such_launcher", "joblib"))
    done = in_process("train", "-m", "seed=0,1", "hydra/launcher=joblib", f"paths.runs={tmp_path}")
    assert done.status == 2 and "pip install 'anomalib-lite[joblib]'" in done.err and "Traceback" not in done.err
