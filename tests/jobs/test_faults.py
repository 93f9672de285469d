"""What happens around a command: clocks, data that cannot be written to, moves, another process at work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from anomalib_lite.runs.artifacts import exclusive_lock
from tests.commands import command_line, one_thread, only_run, ran, refused, scores, trained

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
def test_a_clock_that_goes_back_changes_nothing(here, tiny, tiny_set):
    if not (compiler := shutil.which("cc")):
        pytest.skip("no compiler for a clock of its own")
    (here / "clock.c").write_text(CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "clock.so", "clock.c", "-ldl"], check=True)
    (here / "back").mkdir()
    images, clock = f"images={tiny_set}/test", {"cwd": here / "back", "LD_PRELOAD": str(here / "clock.so")}
    done = command_line("train", *tiny, **clock)
    assert done.status == 0 and "Traceback" not in done.err, done.err
    done = command_line("predict", f"run={only_run(here / 'back')}", images, **clock)
    assert done.status == 0, done.err
    ran("predict", f"run={trained(*tiny)}", images)
    assert scores(only_run(here / "back") / "predictions.csv") == scores(only_run(here) / "predictions.csv")
    assert scores(here / "back/predictions/predictions.csv") == scores(here / "predictions/predictions.csv")


def test_data_need_not_be_writable_and_two_predictions_do_not_write_to_one_folder(here, tiny, tiny_set, sealed):
    shutil.copytree(tiny_set, here / "data" / tiny_set.name)
    with pytest.raises(OSError):
        (sealed(here / "data") / "probe").touch()
    run = trained(*tiny, "data.root=data")
    ran("evaluate", f"run={run}")
    words = ["predict", f"run={run}", "images=data/*/test", "output=out"]
    with exclusive_lock(here / "out", inside=True):
        assert "Another process is using out" in refused(*words)
    ran(*words)
    assert {path.name for path in (here / "out").iterdir()} == {"predictions.csv", "maps", "overlays"}


def test_a_moved_store_is_taken_as_it_is_by_runs_with_generated_images(here, tiny):
    words = ["train", *tiny, "generator=singan", "mode.generated=0.1"]
    ran(*words, "paths.artifacts=here")
    (here / "here").rename(here / "there")
    assert "already done" in ran(*words, "paths.artifacts=there").err
    other = ran(*words, "paths.artifacts=there", "seed=1").err
    assert "SinGAN trained by an earlier" in other and "images generated earlier" in other
    assert not (here / "here").exists()


@pytest.mark.slow
def test_a_killed_process_of_several_ends_the_training_in_words_and_the_next_command_goes_on(tiny, tmp_path):
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
