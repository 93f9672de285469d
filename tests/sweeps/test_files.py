"""The sweep files of experiments/sweeps, as W&B's agent and as `anomalib-lite sweep` start their trials."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from anomalib_lite.jobs.sweep import training
from anomalib_lite.runs.overrides import overrides
from anomalib_lite.settings import conf_dir
from anomalib_lite.sweeps.spec import read_sweep
from anomalib_lite.sweeps.study import Study
from tests.commands import REPOSITORY, Command, one_thread

FILES = sorted((REPOSITORY / "experiments" / "sweeps").glob("*.yaml"))
GROUPS = {str(path.relative_to(conf_dir())) for path in conf_dir().rglob("*") if path.is_dir()}


@pytest.fixture
def agent_argv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What W&B's agent would start for a run that the server asks for: agent_argv(sweep file's command, parameters).

    Its own code makes the command line; the process alone is not started.
    """
    from wandb import wandb_agent

    started: list[list[str]] = []

    class NotStarted:
        def __init__(self, command: list[str], **_: Any) -> None:
            started.append(command)

    monkeypatch.setattr(wandb_agent, "AgentProcess", NotStarted)
    for name in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "agent"))

    def argv(command: list[str], parameters: dict[str, Any]) -> list[str]:
        agent = wandb_agent.Agent(api=None, queue=None)
        agent._sweep_command = list(command)
        arguments = {key: {"value": value} for key, value in parameters.items()}
        agent._command_run({"type": "run", "run_id": "abc", "program": "anomalib-lite", "args": arguments})
        return started[-1]

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
    chosen = {}
    for key, entry in entries.items():
        if "parameters" in entry:
            chosen[key] = sample(entry["parameters"])
        else:
            chosen[key] = entry["value"] if "value" in entry else entry.get("values", [entry.get("min")])[-1]
    return chosen


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict) and "_target_" not in value
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


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
    shown = OmegaConf.create(composed(argv, tmp_path))
    for key, value in flat(parameters).items():
        if key not in GROUPS:
            found = OmegaConf.select(shown, key)
            if isinstance(value, dict):
                assert OmegaConf.to_container(found) == value
            else:
                assert found == value and type(found) in (type(value), type(OmegaConf.create([])))
    assert shown.tracking.kind == "wandb"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_local_command_line_composes(file: Path, run_verb: Command, tmp_path: Path):
    sweep = read_sweep(file)
    study = Study(sweep, tmp_path / "study", seed=0)
    trial = study.ask()
    assert trial is not None
    values = study.values(trial)
    argv = training([*sweep.fixed, *overrides(values)])
    done = run_verb(*argv[argv.index("train") :], "--cfg", "job", "--resolve")
    assert done.status == 0, done.err
    shown = OmegaConf.create(yaml.safe_load(done.out))
    numbers = {k: v for k, v in values.items() if k not in GROUPS and isinstance(v, (int, float))}
    assert {key: OmegaConf.select(shown, key) for key in numbers} == numbers


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
    shown = composed(agent_argv(command, parameters), tmp_path)
    assert shown["data"]["defects"] == ["stain", "print_missing"] and shown["data"]["template"] is None
    assert (shown["detector"]["optimizer"]["lr"], shown["detector"]["optimizer"]["weight_decay"]) == (1e-5, 0.0)
    assert shown["detector"]["scheduler"] is None and shown["paths"]["artifacts"] == "a b=c, [d]/e's"
    assert shown["force"] is True and shown["backbone"]["weights"] == "none" and shown["experiment_name"] == "1"
    assert shown["image_size"] == [64, 96]


def test_why_the_commands_do_not_use_args_no_hyphens(agent_argv: Any):
    """It writes Python's repr: None becomes a string, and a dictionary or a `=` cannot be read at all."""
    argv = agent_argv(["anomalib-lite", "${args_no_hyphens}"], {"a": None, "b": {"c": 1}, "d": "e=f", "g": "1"})
    assert argv == ["anomalib-lite", "a=None", "b={'c': 1}", "d=e=f", "g=1"]
