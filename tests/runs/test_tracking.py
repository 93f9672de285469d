"""Weights & Biases, offline: a run of its own for each job of a sweep, all figures in it, and no secret."""

import netrc
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb

from anomalib_lite.runs import tracking
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.settings.training import WandB
from tests.commands import Command, one_thread
from tests.wandb_files import offline_runs

KEY = "5ec2e7" * 6 + "abcd"
METRICS = ("image_auroc", "aupro", "per_defect/dot/recall", "threshold/image", "ms_per_image", "model_mb")


@pytest.mark.parametrize("kind", ["csv", "none"])
def test_without_a_service_nothing_is_written(tmp_path: Path, kind: str):
    with tracking.tracked(WandB(kind), RunFolder(tmp_path)) as tracker:
        tracker.log_result(tracking.Findings({"image_auroc": 1.0}))
        tracker.log_history(tmp_path / "history.csv")
    assert list(tmp_path.iterdir()) == [] and tracker.logger is False


def test_a_key_is_looked_for_in_the_environment_and_in_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert not tracking.has_key()
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert tracking.has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
    assert not tracking.has_key()
    (tmp_path / ".netrc").write_text("machine {{{ torn")
    with pytest.raises(netrc.NetrcParseError):
        netrc.netrc()
    assert not tracking.has_key()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert tracking.has_key()


def test_a_name_that_is_looked_up_for_long_does_not_hold_a_training_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3) or [])
    begin = time.monotonic()
    assert not tracking._reachable("http://wandb.example.org")
    assert time.monotonic() - begin < 2


def test_the_id_is_of_the_experiment_and_the_hash():
    names = ["default/stfpm-s0-0123456789", "default/other-s0-0123456789", "a b/c-0123456789", "x" * 99 + "/a-01"]
    ids = [tracking.run_id(Path("runs", name)) for name in names]
    assert ids == ["default-0123456789", "default-0123456789", "a_b-0123456789", "x" * 61 + "-01"]


SCRIPT = """
from pathlib import Path
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.runs.tracking import tracked
from anomalib_lite.settings.training import WandB
tracking = WandB("wandb", "p", "g", artifacts=False)
run = RunFolder(Path("runs/default/panels-stfpm-s1-0123456789"))
run.start({"seed": 1}, {})
with tracked(tracking, run) as tracker:
    tracker.logger.log_metrics({"val_loss": 3.0}, step=5)
    raise KeyboardInterrupt
"""


def test_without_a_key_nothing_is_sent_and_an_interrupted_run_says_so(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = one_thread(WANDB_BASE_URL=f"http://127.0.0.1:{server.getsockname()[1]}", HOME=str(tmp_path))
        ours = {k: v for k, v in ours.items() if k not in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_ERROR_REPORTING")}
        done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, env=ours, capture_output=True, text=True)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert "KeyboardInterrupt" in done.stderr
    (run,) = offline_runs(tmp_path / "runs")
    assert (run.id, run.exit_code, run.curve("val_loss")) == ("default-0123456789", 1, [3.0])


def test_each_job_of_a_sweep_is_its_own_offline_run_and_holds_no_secret(
    run_verb: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = tmp_path / "home of ann"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_USER_EMAIL", "ann@example.org")
    monkeypatch.setenv("DATABASE_PASSWORD", KEY[::-1])
    arguments = [*tiny, "tracking=wandb", "tracking.mode=offline", "defects=default", "seed=3", "tta=none,flips"]
    (home / "link").symlink_to(next(a for a in tiny if a.startswith("data.root=")).partition("=")[2])
    done = run_verb("train", "-m", *arguments, "data.root=~/link")
    assert done.status == 0, done.err
    assert "anonymous" not in done.err and "eval mode" not in done.err and "treespec" not in done.err

    folders = sorted((tmp_path / "runs/default").iterdir())
    runs = {run.file.parents[2].name: run for run in offline_runs(tmp_path / "runs")}
    assert sorted(runs) == [folder.name for folder in folders] and len(runs) == 2
    assert {run.id for run in runs.values()} == {tracking.run_id(folder) for folder in folders}
    assert {run.group for run in runs.values()} == {"default"} and all(run.resume for run in runs.values())
    assert len({run.name for run in runs.values()}) == 2
    for folder in folders:
        run = runs[folder.name]
        assert "seed=3 tta=" in run.name and "data.root" not in run.name
        assert run.exit_code == 0 and run.host is None
        assert len(run.curve("val_loss")) == 1, "of the training, or of the one that it shares"
        assert set(METRICS) <= set(run.summary)
        assert {"training images", "cases", "curves/roc_table", "curves/precision_recall_table"} <= run.logged
        assert run.config["choices"]["detector"] == "stfpm"
        assert run.config["environment"]["seed"] == run.config["seed"]
        assert run.config["data"]["root"] == "~/link"
        assert set(run.artifacts["model"]) == {"model.safetensors", "threshold.json", "config.yaml"}
        assert "report.html" in run.artifacts["report"]

        tracked = b"".join(p.read_bytes() for p in (folder / "wandb").rglob("*") if p.is_file())
        for secret in (KEY, KEY[::-1], "ann@example.org"):
            assert secret.encode() not in tracked, secret
        rest = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
        assert KEY.encode() not in rest and KEY[::-1].encode() not in rest
        assert not list(folder.rglob("wandb-metadata.json")) and not list(folder.rglob("requirements.txt"))
    assert not (tmp_path / "wandb").exists()
    staged = [p.stat().st_size for p in (home / ".local/share/wandb").rglob("*") if p.is_file()]
    assert max(staged) < 100_000, "a model is uploaded from the run folder, not from a copy"


def test_a_resumed_run_keeps_its_id_a_done_one_answers_an_agent_and_force_replaces_both(
    run_verb: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    arguments = [*tiny, "tracking=wandb", "tracking.mode=offline", "tracking.artifacts=false"]
    assert run_verb("train", *arguments).status == 0
    (folder,) = (tmp_path / "runs/default").iterdir()
    status = folder / "status.json"
    status.write_text(status.read_text().replace('"done"', '"running"'))
    assert run_verb("train", *arguments).status == 0
    runs = offline_runs(folder)
    assert set(runs[0].artifacts) == {"run_table"}, "no model"
    assert [run.id for run in runs] == [f"default-{folder.name[-10:]}"] * 2

    # an agent's sweep waits for the metric, under the id that it gave
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_RUN_ID", "trial123")
    wandb.teardown()  # it reads the environment once a process, and an agent starts one for each trial
    assert run_verb("train", *arguments).status == 0
    wandb.teardown()
    (trial,) = (run for run in offline_runs(folder) if run.id == "trial123")
    assert len(trial.curve("val_loss")) == 1 and 0 <= trial.summary["image_auroc"] <= 1
    assert trial.summary["ms_per_image"] > 0

    assert run_verb("train", *arguments, "force=true").status == 0
    assert len(offline_runs(folder)) == 1, "what force replaces is not uploaded"
