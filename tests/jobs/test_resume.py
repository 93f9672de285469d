"""A training that was cut off goes on, and ends where an undisturbed one ends, its random augmentation included."""

import signal
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from anomalib_lite.detectors.model import Model
from anomalib_lite.engine import fit as training
from anomalib_lite.runs.folder import RunFolder
from tests.commands import Command, killed_at_a_checkpoint, only_run, trained
from tests.conftest import Seal

FILES = ("metrics.json", "predictions.csv", "threshold.json", "model.safetensors")


@pytest.fixture(scope="module")
def words(tiny: list[str]) -> list[str]:
    """Of a training of three epochs that draws at random."""
    return ["train", *tiny, "detector.epochs=3", "augment=flips_color"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Path:
    place = tmp_path_factory.mktemp("undisturbed")
    return trained(*words[1:], f"paths.runs={place}", f"paths.artifacts={place}")


def epochs(run: Path) -> list[str]:
    return [row["epoch"] for row in RunFolder(run).history()]


@pytest.fixture
def epochs_trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epoch of every step that this process trains."""
    seen: list[int] = []
    step = Model.training_step

    def counted(self: Model, *arguments):
        seen.append(self.current_epoch)
        return step(self, *arguments)

    monkeypatch.setattr(Model, "training_step", counted)
    return seen


def same(run: Path, other: Path) -> bool:
    return all((run / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def test_a_killed_training_goes_on_from_its_last_epoch(
    run_verb: Command, words: list[str], tmp_path: Path, undisturbed: Path, epochs_trained: list[int]
):
    killed_at_a_checkpoint(*words)
    run = only_run(tmp_path)
    assert RunFolder(run).status["state"] == "running" and epochs(run) == ["1"] and not (run / "metrics.json").exists()
    assert not list((tmp_path / "artifacts").glob("trained-*"))

    done = run_verb(*words)
    assert done.status == 0 and "resuming the training from" in done.err
    assert epochs_trained == [1, 1, 2, 2], "counted from 0; two batches each"
    assert only_run(tmp_path) == run and RunFolder(run).status["state"] == "done" and not (run / "checkpoints").exists()
    assert epochs(run) == ["1", "2", "3"]
    assert (run / "history.csv").read_bytes() == (undisturbed / "history.csv").read_bytes()
    assert same(run, undisturbed)


@pytest.mark.parametrize("place", ["save_file", "write_json"])
def test_a_training_cut_off_at_its_end_is_not_lost(
    run_verb: Command, words: list[str], tmp_path: Path, undisturbed: Path, epochs_trained: list[int], place: str
):
    """All epochs are there, but what they gave is not kept yet: the second start trains no further epoch."""

    def cut(*_):
        raise OSError("No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, place, cut)
        broken = run_verb(*words)
    run = only_run(tmp_path)
    assert broken.status == 2 and "its disk is full" in broken.err and "Traceback" not in broken.err
    assert RunFolder(run).status["state"] == "failed" and "No space left" in (run / "status.json").read_text()
    assert len(epochs_trained) == 6
    done = run_verb(*words)
    assert done.status == 0 and "resuming the training from" in done.err and len(epochs_trained) == 6
    assert epochs(run) == ["1", "2", "3"] and same(run, undisturbed)


def test_the_best_epoch_is_remembered_over_an_interruption(
    run_verb: Command, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first epoch is the best; the training breaks off as soon as it can be resumed from it."""

    def worse_each_epoch(self: Model, *_):
        self.log("val_loss", float(self.current_epoch), on_step=False, on_epoch=True, batch_size=1)

    def cut(self: Trainer, path, *arguments, **named):
        save(self, path, *arguments, **named)
        if str(path).endswith("last.ckpt"):
            raise OSError("No space left on device")

    monkeypatch.setattr(Model, "validation_step", worse_each_epoch)
    command, save, load = [*words, "keep=best"], Trainer.save_checkpoint, torch.load
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_checkpoint", cut)
        assert run_verb(*command).status == 2
    kept: list[int] = []

    def loaded(path, *arguments, **named):
        found = load(path, *arguments, **named)
        if str(path).endswith("best.ckpt"):
            kept.append(found["epoch"])
        return found

    monkeypatch.setattr(torch, "load", loaded)
    done = run_verb(*command)
    assert done.status == 0 and "resuming the training from" in done.err and set(kept) == {0}


def test_an_interrupted_training_says_that_it_can_go_on(
    run_verb: Command, words: list[str], tmp_path: Path, undisturbed: Path
):
    """Ctrl-C in the second epoch. It also ends a sweep: no further job is begun."""
    handler, step = signal.getsignal(signal.SIGINT), Model.training_step

    def interrupted(self: Model, *arguments):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "training_step", interrupted)
        done = run_verb("train", "-m", *words[1:], "seed=0,1")
    signal.signal(signal.SIGINT, handler)  # Lightning lets no second Ctrl-C through
    assert done.status == 130 and "run the same command again" in done.err and "Traceback" not in done.err
    run = only_run(tmp_path)
    status = RunFolder(run).status
    assert status["state"] == "stopped" and status["error"].startswith("KeyboardInterrupt")
    assert "traceback" not in status
    done = run_verb(*words)
    assert "resuming the training from" in done.err and same(run, undisturbed)


@pytest.mark.parametrize("share", [0, 0.6])
def test_a_torn_checkpoint_is_said_and_the_training_starts_anew(
    run_verb: Command, words: list[str], tmp_path: Path, undisturbed: Path, epochs_trained: list[int], share: float
):
    def cut(*_):
        raise OSError("No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "save_file", cut)
        run_verb(*words)
    last = only_run(tmp_path) / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[: int(share * last.stat().st_size)])
    done = run_verb(*words)
    assert done.status == 0 and "is damaged" in done.err and "resuming" not in done.err
    assert len(epochs_trained) == 12 and same(only_run(tmp_path), undisturbed)


def test_a_place_that_cannot_be_written_to_is_told_of(
    run_verb: Command, words: list[str], undisturbed: Path, tiny_set: Path, tmp_path: Path, sealed: Seal
):
    (tmp_path / "sealed").mkdir()
    read_only = sealed(tmp_path / "sealed")
    train, images = [*words, f"paths.runs={read_only}", f"paths.artifacts={read_only}"], f"images={tiny_set}/test"
    for command in (
        train,
        [*train, "paths.runs=runs"],
        ["evaluate", f"run={undisturbed}", f"output={read_only}/out"],
        ["predict", f"run={undisturbed}", images, f"output={read_only}/out"],
        ["segment", images, f"template={tiny_set}/test/good/000.png", f"output={read_only}/out"],
    ):
        done = run_verb(*command)
        assert done.status == 2 and str(read_only) in done.err and "Traceback" not in done.err, done.err
