"""What happens around a command: data that cannot be written to, moves, another process at work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomalib_lite.runs.artifacts import alone
from tests.commands import Command, command_line, one_thread, trained
from tests.conftest import Seal


def test_data_need_not_be_writable(run_verb: Command, tiny: list[str], tiny_set: Path, tmp_path: Path, sealed: Seal):
    shutil.copytree(tiny_set, tmp_path / "data" / tiny_set.name)
    with pytest.raises(OSError):
        (sealed(tmp_path / "data") / "probe").touch()
    run = trained(*tiny, "data.root=data")
    for command in (["evaluate", f"run={run}"], ["predict", f"run={run}", "images=data/*/test"]):
        assert (done := run_verb(*command)).status == 0, done.err


def test_a_moved_store_is_taken_as_it_is_by_runs_with_generated_images(
    run_verb: Command, tiny: list[str], tmp_path: Path
):
    words = ["train", *tiny, "generator=singan", "mode.generated=0.1"]
    assert run_verb(*words, "paths.artifacts=here").status == 0
    (tmp_path / "here").rename(tmp_path / "there")
    again = run_verb(*words, "paths.artifacts=there")
    assert again.status == 0 and "already done" in again.err
    other = run_verb(*words, "paths.artifacts=there", "seed=1")
    assert other.status == 0 and "SinGAN was trained before" in other.err and "generated before" in other.err
    assert not (tmp_path / "here").exists()


def test_two_predictions_do_not_write_to_one_folder(run_verb: Command, tiny: list[str], tiny_set: Path, tmp_path: Path):
    words = ["predict", f"run={trained(*tiny)}", f"images={tiny_set}/test", "output=out"]
    with alone(tmp_path / "out", inside=True):
        done = run_verb(*words)
    assert done.status == 2 and "Another process is at work in out" in done.err
    assert run_verb(*words).status == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.csv", "maps", "overlays"}


@pytest.mark.slow
def test_a_killed_process_of_several_ends_the_training_in_words_and_the_next_command_goes_on(
    tiny: list[str], tmp_path: Path
):
    shared = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.sync_batchnorm=false"]
    words = [sys.executable, "-m", "anomalib_lite.cli", "train", *tiny, "detector.epochs=60", *shared]
    with subprocess.Popen(words, cwd=tmp_path, env=one_thread(), stderr=subprocess.PIPE, text=True) as running:
        while not any(tmp_path.glob("runs/*/*/checkpoints/last.ckpt")):
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.1)
        listed = subprocess.run(["pgrep", "-f", "-P", str(running.pid), "spawn_main"], capture_output=True, text=True)
        os.kill(int(listed.stdout.split()[-1]), signal.SIGKILL)
        said = running.communicate()[1]
    # the other process may have complained, too
    assert running.returncode == 2 and "\nerror: A process of the training was ended" in said, said
    again = command_line(*words[3:], cwd=tmp_path)
    assert again.status == 0 and "resuming the training" in again.err, again.err
