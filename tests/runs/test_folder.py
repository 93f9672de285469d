"""A run's name, and its status after success, failure and a kill."""

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import write_json, write_text
from anomalib_lite.runs.folder import RunFolder, environment, folder_name, open_finished, run_hash

DATA = "f" * 64


def config(**changes) -> dict:
    values = {
        "seed": 0, "image_size": 256, "force": False, "experiment_name": "default", "ram_limit_mb": 4000,
        "paths": {"runs": "runs", "artifacts": "artifacts"}, "tracking": {"kind": "csv"},
        "data": {"_target_": "read", "root": "here", "val_share": 0.2}, "detector": {"epochs": 5},
    }  # fmt: skip
    cfg = OmegaConf.create(values)
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    return OmegaConf.to_container(cfg, resolve=True)


SAME = [{"paths__runs": "/elsewhere"}, {"paths__artifacts": "/cache"}, {"force": True}, {"tracking__kind": "wandb"},
        {"ram_limit_mb": 1}, {"experiment_name": "other"}, {"data__root": "/moved"}, {"validate": False}]  # fmt: skip
OTHER = [{"seed": 1}, {"image_size": [256, 256]}, {"detector__epochs": 6}, {"data__val_share": 0.3},
         {"backbone": {"name": "resnet18"}}, {"validate": True}]  # fmt: skip


def test_what_may_change_the_result_changes_the_name_and_nothing_else_does():
    own = run_hash(config(), DATA)
    assert {run_hash(config(**change), DATA) for change in SAME} == {own}
    assert run_hash(dict(reversed(config().items())), DATA) == own
    others = {run_hash(config(**change), DATA) for change in OTHER} | {run_hash(config(), "e" * 64)}
    assert len(others) == len(OTHER) + 1 and own not in others


def test_nok_images_of_a_teacher_count_by_content(tmp_path: Path):
    def name(root: str, nok: Any) -> str:
        return run_hash(config(data__root=str(tmp_path / root), teacher={"nok": nok}), DATA)

    for folder, content in (("here", "one"), ("moved", "one"), ("other", "another")):
        write_text(tmp_path / folder / "bad/a.png", content)
    assert name("here", "bad") == name("moved", ["bad"]) == name("moved", str(tmp_path / "here/bad"))
    assert name("here", "bad/*.png") == name("moved", "bad/*.png") != name("here", None)
    assert all(name("other", nok) != name("here", nok) for nok in ("bad", "bad/*.png"))


def started(folder: Path, **changes) -> RunFolder:
    run = RunFolder(folder)
    run.start(config(**changes), {"cores": 2})
    return run


def status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


def test_a_run_that_ends_is_done_and_stays_so(tmp_path: Path):
    run = started(tmp_path / "run", seed="${image_size}")
    assert status(run.path)["state"] == "running" and not run.done
    with run.guarded(), run.stage("train"):
        logging.getLogger("a.module").warning("a word")
        assert run.seconds().keys() == {"train"}, "so that the page shows its own stage"
    assert run.done and RunFolder(run.path).done
    assert status(run.path)["timings"].keys() == {"train"} and status(run.path)["peak_memory_mb"] > 10
    assert OmegaConf.load(run.path / "config.yaml").seed == 256, "resolved"
    assert json.loads((run.path / "environment.json").read_text()) == {"cores": 2}
    assert "a.module WARNING a word" in (run.path / "run.log").read_text()


@pytest.mark.parametrize(
    ("error", "cause", "state", "kept"),
    [
        (ValueError("too small"), None, "failed", "ValueError: too small"),
        (UserError("no images"), None, "failed", "UserError: no images"),
        (RuntimeError("in a call"), UserError("no weights"), "failed", "UserError: no weights"),
        (KeyboardInterrupt(), None, "stopped", "KeyboardInterrupt: "),
    ],
)
def test_an_error_is_kept_in_the_status_until_the_next_start_and_goes_on(tmp_path: Path, error, cause, state, kept):
    run, handlers = started(tmp_path), logging.getLogger().handlers[:]
    with pytest.raises(type(error)), run.guarded():
        raise error from cause
    assert (status(tmp_path)["state"], status(tmp_path)["error"]) == (state, kept)
    assert ("traceback" in status(tmp_path)) == isinstance(error, ValueError), "where it is a mistake of the program"
    assert not RunFolder(tmp_path).done and logging.getLogger().handlers == handlers
    run.start(config(), {})
    assert not RunFolder(tmp_path).done, "a killed run"
    with run.guarded():
        pass
    assert status(tmp_path)["state"] == "done" and "error" not in status(tmp_path)


def test_a_folder_without_a_trained_model_is_refused_and_one_with_a_torn_file_too(tmp_path: Path):
    files = ("config.yaml", "model.safetensors", "threshold.json", "data.json")
    for name in files:
        with pytest.raises(UserError, match=f"holds no finished training \\({name} is missing\\)"):
            open_finished(tmp_path)
        (tmp_path / name).write_text('{"seed": 3}')
    assert open_finished(str(tmp_path)).config == {"seed": 3}
    with pytest.raises(UserError, match=r"nowhere does not exist\. Use the folder"):
        open_finished(tmp_path / "nowhere")
    for name in set(files) - {"model.safetensors"}:
        (tmp_path / name).write_text('{"se')
        with pytest.raises(UserError, match=f"{name} is damaged"):
            open_finished(tmp_path)
        (tmp_path / name).write_text('{"seed": 3}')


def test_the_environment_holds_what_is_needed_to_repeat_and_no_secret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 3)
    record = environment(7, DATA)
    text = json.dumps(record)
    assert record["seed"] == 7 and record["data_fingerprint"] == DATA
    assert all(record["packages"][name] for name in ("torch", "lightning", "timm", "hydra-core", "numpy"))
    assert record["cores"] == os.cpu_count() and record["threads"] >= 1 and record["cpu"]
    assert "0123456789abcdef" not in text and os.environ["PATH"] not in text


@pytest.mark.parametrize("name", ["status.json", "metrics.json"])
@pytest.mark.parametrize("left", [0, 11])
def test_a_torn_run_is_not_done(tmp_path: Path, name: str, left: int, caplog: pytest.LogCaptureFixture):
    run = started(tmp_path)
    with run.guarded():
        write_json(tmp_path / "metrics.json", {"image_auroc": 0.5})
    assert RunFolder(tmp_path).done and RunFolder(tmp_path).metrics == {"image_auroc": 0.5}
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:left])
    again = RunFolder(tmp_path)
    assert not again.done and again.damaged == [name] and "is damaged" in caplog.text


def test_predictions_come_back_as_they_were_written(tmp_path: Path):
    rows = [
        {"image": "a,b.png", "label": 1, "defect": "dot", "score": 0.1 + 0.2, "nok": True},
        {"image": "c.png", "label": None, "defect": None, "score": 1e-9, "nok": False},
    ]
    run = RunFolder(tmp_path)
    run.write_predictions(rows)
    assert run.predictions() == rows


def test_a_full_disk_is_told_in_words(tmp_path: Path):
    with pytest.raises(UserError, match="its disk is full"), started(tmp_path).guarded():
        raise RuntimeError("saving failed") from OSError(errno.ENOSPC, "No space left on device")
    assert status(tmp_path)["state"] == "failed" and "traceback" not in status(tmp_path)


def test_a_long_name_is_cut_and_stays_apart():
    names = [folder_name(["data", "x" * 300, "s0", run_hash(config(seed=seed), DATA)]) for seed in (0, 1)]
    assert all(len(name) <= 255 for name in names) and names[0] != names[1] and names[0].startswith("data-x")
