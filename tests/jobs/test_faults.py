"""What happens around a command: clocks, data that cannot be written to, moves, another process at work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomalib_lite.runs.artifacts import exclusive_lock
from tests.commands import Command, command_line, one_thread, only_run, scores, trained
from tests.conftest import Seal

# the clock of the day goes back by a minute at each reading, the monotonic one is left alone
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <sys/time.h>
static long readings;
int clock_gettime(clockid_t id, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(id, t);
  if (id == CLOCK_REALTIME) t->tv_sec -= 60 * ++readings;
  return done;
}
int gettimeofday(struct timeval *t, void *zone) {
  struct timespec s;
  int done = clock_gettime(CLOCK_REALTIME, &s);
  t->tv_sec = s.tv_sec, t->tv_usec = s.tv_nsec / 1000;
  return done;
}
time_t time(time_t *t) {
  struct timespec s;
  clock_gettime(CLOCK_REALTIME, &s);
  if (t) *t = s.tv_sec;
  return s.tv_sec;
}
"""


@pytest.mark.slow
def test_a_clock_that_goes_back_changes_nothing(run_verb: Command, tiny: list[str], tiny_set: Path, tmp_path: Path):
    if not (compiler := shutil.which("cc")):
        pytest.skip("no compiler for a clock of its own")
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)
    (tmp_path / "back").mkdir()
    done = command_line("train", *tiny, cwd=tmp_path / "back", LD_PRELOAD=str(library))
    assert done.status == 0 and "Traceback" not in done.err, done.err
    run, images = only_run(tmp_path / "back"), f"images={tiny_set}/test"
    done = command_line("predict", f"run={run}", images, cwd=tmp_path / "back", LD_PRELOAD=str(library))
    assert done.status == 0, done.err
    assert run_verb("train", *tiny).status == 0 and run_verb("predict", f"run={only_run(tmp_path)}", images).status == 0
    assert scores(run / "predictions.csv") == scores(only_run(tmp_path) / "predictions.csv")
    assert scores(tmp_path / "back/predictions/predictions.csv") == scores(tmp_path / "predictions/predictions.csv")


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
    assert other.status == 0 and "SinGAN trained by an earlier" in other.err and "images generated earlier" in other.err
    assert not (tmp_path / "here").exists()


def test_two_predictions_do_not_write_to_one_folder(run_verb: Command, tiny: list[str], tiny_set: Path, tmp_path: Path):
    words = ["predict", f"run={trained(*tiny)}", f"images={tiny_set}/test", "output=out"]
    with exclusive_lock(tmp_path / "out", inside=True):
        done = run_verb(*words)
    assert done.status == 2 and "Another process is using out" in done.err
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
    assert running.returncode == 2 and "\nerror: A training process was killed" in said, said
    again = command_line(*words[3:], cwd=tmp_path)
    assert again.status == 0 and "resuming the training" in again.err, again.err
