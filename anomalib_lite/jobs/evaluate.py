"""The verb evaluate."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from anomalib_lite.comparison.runs import common_folder, find_runs
from anomalib_lite.data.fingerprint import check_same_data, fingerprint
from anomalib_lite.data.sample import Splits
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app, say, texts
from anomalib_lite.runs.atomic import write_text
from anomalib_lite.runs.environment import environment
from anomalib_lite.runs.folder import RunFolder

log = logging.getLogger(__name__)

HELP = """Measures trained runs on the test images of their own data set, or of others.

The detector and its threshold stay as the training left them. Writes metrics.json, predictions.csv, figures/ and
report.html; of several runs or data sets also evaluations.csv, one row each.

  anomalib-lite evaluate run=runs/default/...
  anomalib-lite evaluate run=runs/default/... data=mvtec_ad data.root=DIR data.category=bottle
  anomalib-lite evaluate run='[runs/a, runs/detectors/*-s0-*]'   several runs, or a folder of them
  anomalib-lite evaluate run=runs/detectors 'sets={tiles: {data: mtd, root: DIR}, own: null}'   several sets"""

# columns of the table; the last is LOCO's alone
METRICS = ("image_auroc", "pixel_auroc", "aupro", "image_detection_rate", "image_false_alarm_rate", "auspro")
Measured = tuple[str, str, dict[str, Any]]  # run, data set, its metrics


@app("evaluate", HELP)
def main(cfg: DictConfig) -> float | None:
    """Returns the image AUROC, of several their mean."""
    runs, sets = _runs(cfg.run), _data_sets(cfg)
    several = len(runs) * len(sets) > 1
    done: list[Measured] = []
    failed: list[str] = []
    for run in runs:
        for name, data in sets.items():
            folder = run.parent if run.is_file() else run  # what `export` wrote
            output = Path(cfg.output) if cfg.output else folder / f"evaluation-{name}"
            if several and cfg.output:
                output /= f"{run.name}-{name}"
            try:
                done.append((run.name, name, _evaluate(cfg, run, data, output)))
            except UserError as error:
                if not several:
                    raise
                failed.append(f"{run} on {name}: {error}")
    if several:
        _conclude(done, failed, Path(cfg.output) if cfg.output else common_folder(runs))
    values = [metrics["image_auroc"] for _, _, metrics in done if metrics["image_auroc"] is not None]
    return sum(values) / len(values) if values else None


def _evaluate(cfg: DictConfig, run_folder: Path, data: DictConfig | None, output: Path) -> dict[str, Any]:
    """data: None for the run's own."""
    from anomalib_lite.engine.predict import evaluate_run, open_run  # torch takes seconds
    from anomalib_lite.engine.results import in_words
    from anomalib_lite.engine.trainer import prepare_process

    trained = open_run(run_folder, texts(cfg.trust))
    prepare_process(trained.judge.seed, trained.judge.threads)
    if data is None and trained.exported:
        raise UserError(f"{run_folder} does not know where its images lie: name them, e.g. data=folder data.root=DIR.")
    config = dict(trained.about["settings"]) if trained.exported else trained.run.config
    if data is not None:
        config["data"] = OmegaConf.to_container(data, resolve=True)
    splits: Splits = instantiate(config["data"])
    splits = replace(splits, test=check_same_data(splits, trained.known, own=data is None))
    if not any(sample.category for sample in splits.test):
        shown = str(config["data"].get("category"))
        trained = trained.of(cfg.category or (shown if shown in trained.threshold.categories else None))
    trained = trained.at(cfg.threshold, cfg.false_alarm_rate)
    # other data may bring templates
    splits = trained.shown(splits, own=data is None or any(s.template is None for s in splits.test))
    config |= {"tracking": {"kind": "none"}, "run": str(trained.run.path)}
    run = RunFolder(output)
    run.start(config, environment(trained.judge.seed, fingerprint(splits)))
    with run.guarded():
        result = evaluate_run(trained, splits.test, run, cfg.report)
    say(in_words(result.metrics))
    if cfg.threshold is not None or cfg.false_alarm_rate is not None:
        say(trained.threshold.in_words())
    say(run.path)
    return result.metrics


def _runs(asked: Any) -> list[Path]:
    """One folder, a list of them, globs, or a folder of runs."""
    patterns = texts(asked)
    try:
        return find_runs(patterns)
    except UserError:
        if len(patterns) > 1 or any(sign in patterns[0] for sign in "*?["):
            raise
        return [Path(patterns[0]).expanduser()]  # what is wrong with it is said on opening it


def _data_sets(cfg: DictConfig) -> dict[str, DictConfig | None]:
    """By name; None is the runs' own data."""
    if not cfg.sets:  # data=null leaves no such key
        return {HydraConfig.get().runtime.choices.get("data") or "own": cfg.get("data")}
    if cfg.get("data"):
        raise UserError("Name the data sets either by data=... or by sets={...}, not by both.")
    sets: dict[str, DictConfig | None] = {}
    for name, asked in cfg.sets.items():
        sets[str(name)] = None
        if asked:
            settings = dict(asked)
            try:
                chosen = compose("evaluate", ["run=.", f"data={settings.pop('data')}"])
                for key, value in settings.items():
                    OmegaConf.update(chosen, f"data.{key}", value)
            except (HydraException, OmegaConfBaseException, KeyError) as error:
                raise UserError(
                    f"sets.{name} is not {{data: <a choice of the group data>, <its options>: ...}}: {error}"
                ) from error
            sets[str(name)] = chosen.data
    return sets


def _conclude(done: Sequence[Measured], failed: Sequence[str], folder: Path) -> None:
    """The table; errors: UserError that lists what could not be measured."""
    import pandas as pd  # half a second

    if done:
        rows = [
            {"run": run, "data": name} | {key: metrics[key] for key in METRICS if key in metrics}
            for run, name, metrics in done
        ]
        table = pd.DataFrame(rows)
        write_text(folder / "evaluations.csv", table.to_csv(index=False, float_format="%.6f"))
        say(table.to_string(index=False, float_format="%.4f", na_rep="-"))
        say(folder / "evaluations.csv")
    if failed:
        listed = "\n".join(f"  {line}" for line in failed)
        raise UserError(f"{len(failed)} of {len(done) + len(failed)} could not be measured:\n{listed}")
