"""Weights & Biases, offline: a run of its own for each job of a sweep, and no secret in it."""

from __future__ import annotations

import netrc
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from anomalib_lite.errors import UserError
from anomalib_lite.runs import tracking
from tests.commands import Command

KEY = "5ec2e7" * 6 + "abcd"


def test_an_unknown_kind_names_the_known_ones(tmp_path: Path):
    cfg = OmegaConf.create({"tracking": {"kind": "mlflow"}})
    with pytest.raises(UserError, match="one of wandb, csv, none, not 'mlflow'"), tracking.tracked(cfg, tmp_path):
        pass


@pytest.mark.parametrize("kind", ["csv", "none"])
def test_without_a_service_nothing_is_written(tmp_path: Path, kind: str):
    with tracking.tracked(OmegaConf.create({"tracking": {"kind": kind}}), tmp_path) as tracker:
        tracker.log_result({"image_auroc": 1.0}, [])
    assert list(tmp_path.iterdir()) == [] and tracker.logger is False


def test_nested_metrics_are_flat_and_absent_ones_left_out():
    flat = tracking._flat({"image_auroc": 0.5, "aupro": None, "per_defect": {"dot": {"n": 2, "aupro": None}}})
    assert flat == {"image_auroc": 0.5, "per_defect/dot/n": 2}


def test_a_key_is_looked_for_in_the_environment_and_in_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert not tracking._has_key()
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert tracking._has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
    assert not tracking._has_key()
    (tmp_path / ".netrc").write_text("machine {{{ torn")
    with pytest.raises(netrc.NetrcParseError):
        netrc.netrc()
    assert not tracking._has_key()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert tracking._has_key()


def test_each_job_of_a_sweep_is_its_own_offline_run_and_holds_no_secret(
    run_verb: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("DATABASE_PASSWORD", KEY[::-1])
    done = run_verb("train", "-m", *tiny, "tracking=wandb", "tracking.mode=offline", "seed=0,1")
    assert done.status == 0, done.err
    assert "anonymous" not in done.err and "eval mode" not in done.err and "treespec" not in done.err
    runs = sorted((tmp_path / "runs/default").iterdir())
    assert len(runs) == 2
    tracked = [list((run / "wandb").glob("offline-run-*")) for run in runs]
    assert [len(found) for found in tracked] == [1, 1] and tracked[0][0].name != tracked[1][0].name
    for run in runs:
        content = b"".join(p.read_bytes() for p in run.rglob("*") if p.is_file())
        assert KEY.encode() not in content and KEY[::-1].encode() not in content
        (log,) = run.glob("wandb/offline-run-*/*.wandb")
        written = log.read_bytes()
        for word in (b"train_loss", b"image_auroc", b"per_defect/dot/recall", run.name.encode()):
            assert word in written
        assert list(run.glob("wandb/offline-run-*/files/media/images/*.png"))
    assert not (tmp_path / "wandb").exists()
