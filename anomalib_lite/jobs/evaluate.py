"""anomalib-lite evaluate: measure trained runs on labelled images."""

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
from anomalib_lite.data.sample import Splits
from anomalib_lite.data.splits import check_same_data, digests, fingerprint
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app, say, texts
from anomalib_lite.runs.artifacts import artifact_key, exclusive_lock
from anomalib_lite.runs.atomic import write_text
from anomalib_lite.runs.folder import RunFolder, environment, folder_name, refuse_run

log = logging.getLogger(__name__)

HELP = """Measures trained runs on the test images of their own or of other data sets.

The detector and its threshold are not changed. Writes metrics.json, predictions.csv, figures/ and report.html, and for
several runs or data sets also evaluations.csv, with one row each. By default the results lie in the run's folder, in
evaluation-own/ or evaluation-<data>-<hash>/; the hash stands for the data and the threshold options, so that the same
command replaces its own results only.

  anomalib-lite evaluate run=runs/default/...
  anomalib-lite evaluate run=runs/default/... data=mvtec_ad data.root=DIR data.category=bottle
  anomalib-lite evaluate run='[runs/a, runs/detectors/*-s0-*]'   several runs, or a folder of runs
  anomalib-lite evaluate run=runs/detectors 'sets={tiles: {data: mtd, root: DIR}, own: null}'   several data sets"""

# columns of the table; only MVTec LOCO has the last one
METRICS = ("image_auroc", "pixel_auroc", "aupro", "image_detection_rate", "image_false_alarm_rate", "auspro")
Measured = tuple[str, str, dict[str, Any]]  # run, data set, metrics


@app("evaluate", HELP)
def main(cfg: DictConfig) -> float | None:
    """Returns the image AUROC, averaged over runs and data sets."""
    runs, sets = _runs(cfg.run), _data_sets(cfg)
    several = len(runs) * len(sets) > 1
    done: list[Measured] = []
    failed: list[str] = []
    for run in runs:
        for name, data in sets.items():
            output = Path(cfg.output, f"{run.name}-{name}" if several else "") if cfg.output else None
            try:
                done.append((run.name, name, _evaluate(cfg, run, name, data, output)))
            except UserError as error:
                if not several:
                    raise
                failed.append(f"{run} on {name}: {error}")
    if several:
        _conclude(done, failed, Path(cfg.output) if cfg.output else common_folder(runs))
    values = [metrics["image_auroc"] for _, _, metrics in done if metrics["image_auroc"] is not None]
    return sum(values) / len(values) if values else None


def _evaluate(cfg: DictConfig, run_folder: Path, name: str, data: Any, output: Path | None) -> dict[str, Any]:
    """Measures one run on one data set; returns the metrics.

    data: its configuration, None for the run's own. output: None for a folder in that of the run.
    """
    if output is not None:
        refuse_run(output)
    from anomalib_lite.engine.predict import evaluate_run, open_run  # importing torch takes seconds
    from anomalib_lite.engine.results import in_words
    from anomalib_lite.engine.trainer import prepare_process

    trained = open_run(run_folder, texts(cfg.trust))
    prepare_process(trained.judge.seed, trained.judge.threads)
    if data is None and trained.exported:
        raise UserError(f"{run_folder} is an exported file, which names no images: add e.g. data=folder data.root=DIR.")
    config = dict(trained.about["settings"] if trained.exported else trained.run.config)
    if data is not None:
        config["data"] = OmegaConf.to_container(data, resolve=True)
    bits, wanted = trained.data.get("bits"), config["data"].get("bits")  # predict reads images with the run's
    if wanted not in (None, bits):
        raise UserError(f"data.bits={wanted} is not the bit depth of {run_folder}, {bits or 'null'}: leave it out.")
    splits: Splits = instantiate(config["data"]).with_bits(bits)
    splits = replace(splits, test=check_same_data(splits, trained.data, own=data is None))
    if not any(sample.category for sample in splits.test):
        named = texts(config["data"].get("category"))
        known = len(named) == 1 and named[0] in trained.threshold.categories
        trained = trained.for_category(cfg.category or (named[0] if known else None))
    elif cfg.category:
        raise UserError("The test images have categories, whose thresholds judge them: leave category= out.")
    trained = trained.with_threshold(cfg.threshold, cfg.false_alarm_rate)
    given = {sample.template for sample in splits.test}
    contents = digests(template for template in given if template).values()
    own = data is None or None in given or set(contents) <= set(trained.data.get("templates", ()))
    splits = trained.apply_mode(splits, own)  # other data may have templates of its own
    config |= {"tracking": {"kind": "none"}, "run": str(trained.run.path)}
    content = fingerprint(splits)
    # another folder for each command whose results may differ, so that none replaces those of another
    chosen = [cfg.category, cfg.threshold, cfg.false_alarm_rate, run_folder.name if trained.exported else None]
    chosen += [config["data"], content] if data is not None else []
    what = [artifact_key(chosen)[:6]] if any(value is not None for value in chosen) else []
    output = output or trained.path / folder_name(["evaluation", name, *what])
    with exclusive_lock(output, inside=True, wait=False):
        run = RunFolder(output)
        run.start(config, environment(trained.judge.seed, content))
        with run.guarded():
            result = evaluate_run(trained, splits.test, run, cfg.report)
    say(in_words(result.metrics))
    if cfg.threshold is not None or cfg.false_alarm_rate is not None:
        say(trained.threshold.in_words())
    say(run.path)
    return result.metrics


def _runs(run: Any) -> list[Path]:
    """Finds the runs of a folder, a list of folders, glob patterns, or a folder of runs."""
    patterns = texts(run)
    try:
        return find_runs(patterns)
    except UserError:
        if len(patterns) > 1 or any(character in patterns[0] for character in "*?["):
            raise
        return [Path(patterns[0]).expanduser()]  # opening it raises a precise error


def _data_sets(cfg: DictConfig) -> dict[str, DictConfig | None]:
    """Returns the data sets by name; None is the runs' own data."""
    if not cfg.sets:  # data=null removes the key
        category = (cfg.get("data") or {}).get("category")
        parts = [HydraConfig.get().runtime.choices.get("data") or "own", *(texts(category) if category else [])]
        return {"-".join(parts): cfg.get("data")}
    if cfg.get("data"):
        raise UserError("Set either data=... or sets={...}, not both.")
    sets: dict[str, DictConfig | None] = {}
    for name, entry in cfg.sets.items():
        sets[str(name)] = None
        if entry:
            settings = dict(entry)
            try:
                chosen = compose("evaluate", ["run=.", f"data={settings.pop('data')}"])
                for key, value in settings.items():
                    OmegaConf.update(chosen, f"data.{key}", value)
            except (HydraException, OmegaConfBaseException, KeyError) as error:
                raise UserError(
                    f"sets.{name} must be {{data: <an option of the group data>, <its settings>: ...}}: {error}"
                ) from error
            sets[str(name)] = chosen.data
    return sets


def _conclude(done: Sequence[Measured], failed: Sequence[str], folder: Path) -> None:
    """Writes and prints the table; raises UserError that lists the failed measurements."""
    import pandas as pd  # importing it takes half a second

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
