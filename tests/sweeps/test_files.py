"""The sweep files of experiments/sweeps, as W&B's agent and as `anomalib-lite sweep` start their trials."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from anomalib_lite.runs.overrides import flat
from anomalib_lite.sweeps.spec import read_sweep
from tests.commands import REPOSITORY, Command, one_thread

FILES = sorted((REPOSITORY / "experiments" / "sweeps").glob("*.yaml"))


@pytest.fixture
def agent_argv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What W&B's agent would start for a run that the server asks for: agent_argv(sweep file's command, parameters).

    Its own code makes the command line; the process alone is not started.
    """
    from wandb import wandb_agent

    process = Mock()
    monkeypatch.setattr(wandb_agent, "AgentProcess", process)
    for name in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "agent"))

    def argv(command: list[str], parameters: dict[str, Any]) -> list[str]:
        agent = wandb_agent.Agent(api=None, queue=None)
        agent._sweep_command = list(command)
        arguments = {key: {"value": value} for key, value in parameters.items()}
        agent._command_run({"type": "run", "run_id": "abc", "program": "anomalib-lite", "args": arguments})
        return process.call_args.kwargs["command"]

    return argv


def composed(argv: list[str], cwd: Path) -> dict[str, Any]:
    """Starts a command line as it is, but for `--cfg job`, which shows the configuration instead of training."""
    environment = one_thread(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    command = [*argv, "--cfg", "job", "--resolve"]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def sample(entries: dict[str, Any]) -> dict[str, Any]:
    """Parameters as the server sends them, nested ones as dictionaries; of several values the last."""
    return {
        key: sample(entry["parameters"]) if "parameters" in entry
        else entry["value"] if "value" in entry else entry.get("values", [entry.get("min")])[-1]
        for key, entry in entries.items()
    }  # fmt: skip


def test_there_are_files_for_each_method():
    assert {read_sweep(file).method for file in FILES} == {"grid", "random", "bayes"}
    assert any(read_sweep(file).pruner for file in FILES)
    assert any(len(read_sweep(file).objectives) > 1 for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_agents_command_line_composes(file: Path, agent_argv: Any, tmp_path: Path):
    spec = yaml.safe_load(file.read_text())
    parameters = sample(spec["parameters"])
    argv = agent_argv(spec["command"], parameters)
    assert argv[:3] == ["/usr/bin/env", "anomalib-lite", "train"]
    shown = flat(composed(argv, tmp_path), ".")
    numbers = {k: v for k, v in flat(parameters, ".").items() if isinstance(v, int | float)}
    assert {key: shown.get(key) for key in numbers} == numbers
    assert shown["tracking.kind"] == "wandb"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_local_trials_compose(file: Path, run_verb: Command):
    done = run_verb("sweep", str(file), "dry=true", "trials=2")
    assert done.status == 0 and done.out.count("anomalib-lite train ") == 2, done.err


def test_the_agent_hands_on_values_of_any_shape(agent_argv: Any, tmp_path: Path):
    command = ["${env}", "anomalib-lite", "train", "detector=stfpm", "${args_json}"]
    parameters = {
        "data": {"defects": ["stain", "print_missing"], "template": None},
        "detector.optimizer": {"lr": 1e-5, "weight_decay": 0.0},
        "detector.scheduler": None,
        "paths.artifacts": "a b=c, [d]/e's",
        "force": True,
        "backbone.weights": "none",
        "experiment_name": "1",
        "image_size": [64, 96],
    }
    shown, wanted = flat(composed(agent_argv(command, parameters), tmp_path), "."), flat(parameters, ".")
    assert {key: shown.get(key, "absent") for key in wanted} == wanted and shown["force"] is True
