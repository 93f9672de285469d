"""A training that was cut off goes on, and ends where an undisturbed one ends, its random augmentation included."""

import signal
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from anomalib_lite.detectors.model import Model
from anomalib_lite.engine import fit as training
from anomalib_lite.runs.folder import RunFolder
from tests.commands import in_process, killed_at_a_checkpoint, only_run, ran, refused, trained

FILES = ("metrics.json", "predictions.csv", "threshold.json", "model.safetensors")


@pytest.fixture(scope="module")
def words(tiny) -> list[str]:
    """Of a training of three epochs that draws at random."""
    return ["train", *tiny, "detector.epochs=3", "augment=flips_color"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, words) -> Path:
    place = tmp_path_factory.mktemp("undisturbed")
    return trained(*words[1:], f"paths.runs={place}", f"paths.artifacts={place}")


def epochs(run: Path) -> list[str]:
    return [row["epoch"] for row in RunFolder(run).history()]


@pytest.fixture
def epochs_trained(monkeypatch) -> list[int]:
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


def full(*_):
    raise OSError("No space left on device")


def test_a_killed_training_goes_on_from_its_last_epoch(here, words, undisturbed, epochs_trained):
    killed_at_a_checkpoint(*words)
    run = only_run(here)
    assert RunFolder(run).status["state"] == "running" and epochs(run) == ["1"] and not (run / "metrics.json").exists()
    assert not list((here / "artifacts").glob("trained-*"))

    checkpoint = run / "checkpoints/last.ckpt"
    state = torch.load(checkpoint, weights_only=True)
    state["callbacks"]["History"]["seconds"] += 1000  # of the process that was killed
    torch.save(state, checkpoint)

    assert "resuming the training from" in ran(*words).err
    assert epochs_trained == [1, 1, 2, 2], "counted from 0; two batches each"
    assert only_run(here) == run and RunFolder(run).status["state"] == "done" and not (run / "checkpoints").exists()
    assert RunFolder(run).status["train_seconds"] > 1000
    assert epochs(run) == ["1", "2", "3"]
    assert (run / "history.csv").read_bytes() == (undisturbed / "history.csv").read_bytes()
    assert same(run, undisturbed)


@pytest.mark.parametrize(
    ("place", "share"), [("write_json", 1), ("save_file", 1), ("save_file", 0), ("save_file", 0.6)]
)
def test_a_training_cut_off_at_its_end_is_not_lost(here, words, undisturbed, epochs_trained, monkeypatch, place, share):
    """All epochs are there, but what they gave is not kept yet: the second start trains no further epoch.

    Unless the checkpoint is torn, of which only a `share` is there: this is said, and the training starts anew.
    """
    with monkeypatch.context() as patch:
        patch.setattr(training, place, full)
        assert "its disk is full" in refused(*words)
    run = only_run(here)
    assert RunFolder(run).status["state"] == "failed" and "No space left" in (run / "status.json").read_text()
    assert len(epochs_trained) == 6
    last = run / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[: int(share * last.stat().st_size)])
    said = ran(*words).err
    assert ("resuming the training from" in said) == (share == 1) != ("is damaged" in said)
    assert len(epochs_trained) == (6 if share == 1 else 12)
    assert epochs(run) == ["1", "2", "3"] and same(run, undisturbed)


def test_the_best_epoch_is_remembered_over_an_interruption(here, words, monkeypatch):
    """The first epoch is the best; the training breaks off as soon as it can be resumed from it."""

    def worse_each_epoch(self: Model, *_):
        self.log("val_loss", float(self.current_epoch), on_step=False, on_epoch=True, batch_size=1)

    def cut(self: Trainer, path, *arguments, **named):
        save(self, path, *arguments, **named)
        if str(path).endswith("last.ckpt"):
            full()

    monkeypatch.setattr(Model, "validation_step", worse_each_epoch)
    command, save, load = [*words, "keep=best"], Trainer.save_checkpoint, torch.load
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_checkpoint", cut)
        refused(*command)
    kept: list[int] = []

    def loaded(path, *arguments, **named):
        found = load(path, *arguments, **named)
        if str(path).endswith("best.ckpt"):
            kept.append(found["epoch"])
        return found

    monkeypatch.setattr(torch, "load", loaded)
    assert "resuming the training from" in ran(*command).err and set(kept) == {0}


def test_an_interrupted_training_says_that_it_can_go_on(here, words, undisturbed, monkeypatch):
    """Ctrl-C in the second epoch. It also ends a sweep: no further job is begun."""
    handler, step = signal.getsignal(signal.SIGINT), Model.training_step

    def interrupted(self: Model, *arguments):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "training_step", interrupted)
        done = in_process("train", "-m", *words[1:], "seed=0,1")
    signal.signal(signal.SIGINT, handler)  # Lightning lets no second Ctrl-C through
    assert done.status == 130 and "run the same command again" in done.err and "Traceback" not in done.err
    run = only_run(here)
    status = RunFolder(run).status
    assert status["state"] == "stopped" and status["error"].startswith("KeyboardInterrupt")
    assert "traceback" not in status
    assert "resuming the training from" in ran(*words).err and same(run, undisturbed)


def test_a_place_that_cannot_be_written_to_is_told_of(here, words, undisturbed, tiny_set, sealed):
    (here / "sealed").mkdir()
    read_only, images = sealed(here / "sealed"), f"images={tiny_set}/test"
    train = [*words, f"paths.runs={read_only}", f"paths.artifacts={read_only}"]
    for command in (
        train,
        [*train, "paths.runs=runs"],
        ["evaluate", f"run={undisturbed}", f"output={read_only}/out"],
        ["predict", f"run={undisturbed}", images, f"output={read_only}/out"],
        ["segment", images, f"template={tiny_set}/test/good/000.png", f"output={read_only}/out"],
    ):
        assert str(read_only) in refused(*command)
