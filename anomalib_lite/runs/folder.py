"""The folder of one run: named by what defines the run, with a status that survives a kill; one reader, one writer."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import json
import logging
import math
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from anomalib_lite.errors import UserError, root_user_error
from anomalib_lite.runs.artifacts import artifact_key, named_content
from anomalib_lite.runs.atomic import disk_full, remove_parts, write_csv, write_json, write_text

log = logging.getLogger(__name__)

# what does not change the result: where things lie, how they are tracked, and how a run is called
UNDEFINING = ("paths", "tracking", "force", "experiment_name", "ram_limit_mb", "trust")
LONGEST = 200  # bytes of a folder's name
RECORD = "ANOMALIB_LITE_RECORD"  # variable: a file that gets the run folder's name
WHERE = ("root", "manifest", "template", "artifacts")  # of the data: what lies there is in its fingerprint
GENERATED = "generated"  # folder in a run's folder: the report of its generated images
COLUMNS = ("image", "label", "defect", "score", "nok")  # of predictions.csv
MODEL, THRESHOLD, DATA, TEMPLATE, CHECKPOINTS = (
    "model.safetensors", "threshold.json", "data.json", "template.png", "checkpoints",
)  # fmt: skip


def run_hash(config: Mapping[str, Any], data_fingerprint: str) -> str:
    """Ten hex digits over the resolved configuration, less what does not change the result, and the data."""
    defining = {key: value for key, value in config.items() if key not in UNDEFINING}
    for switch in ("validate", "start_from", "missed", "contamination", "roi", "ignore"):
        if not defining.get(switch):  # off, it changes nothing
            defining.pop(switch, None)
    if "validate" in defining:
        defining["validate"] = "unlearned"  # the kinds of defects: a run that others judged is another run
    defining["data"] = _placeless(defining.get("data", {}))
    if (defining.get("teacher") or {}).get("nok"):
        nok = named_content(defining["teacher"]["nok"], config.get("data", {}).get("root"))
        defining["teacher"] = defining["teacher"] | {"nok": nok}
    if defining.get("missed"):
        defining["missed"] = named_content(defining["missed"])
    return artifact_key(defining, data_fingerprint)[:10]


def _placeless(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data's settings without where it lies; of several joined sets each one's."""
    parts = {"parts": [_placeless(part) for part in data["parts"]]} if "parts" in data else {}
    return {k: v for k, v in data.items() if k not in WHERE} | parts


def folder_name(parts: Iterable[Any]) -> str:
    """Of what defines a run, joined; file systems take 255 bytes of a name."""
    name = "-".join(str(part).replace("/", "_") for part in parts)
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[: LONGEST // 2].decode(errors='ignore')}...{name[-LONGEST // 3 :]}"


def announce(folder: Path) -> None:
    """Tells whoever started this process which run it is, where a file for that is named."""
    if file := os.environ.get(RECORD):
        write_text(file, str(folder.absolute()))


class RunFolder:
    """Reads and writes one run's folder.

    What is missing or torn (as a full disk or a power cut leaves it) reads as empty, is named in `torn`, and never
    makes a run count as done. `status["state"]` is running, done, failed or stopped.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.torn: list[str] = []
        self.status: dict[str, Any] = self._json("status.json")

    @property
    def done(self) -> bool:
        return self.status.get("state") == "done" and bool(self.metrics or not (self.path / "metrics.json").exists())

    @cached_property
    def config(self) -> dict[str, Any]:
        """Read once: it takes a tenth of a second."""
        try:
            value = OmegaConf.to_container(OmegaConf.load(self.path / "config.yaml"))
        except FileNotFoundError:
            return {}
        except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError):  # OSError: OmegaConf's, for no mapping
            value = None
        return value if isinstance(value, dict) and value else self._is_torn("config.yaml")  # type: ignore[return-value]

    @property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json")

    @property
    def metrics(self) -> dict[str, Any]:
        return self._json("metrics.json")

    @property
    def data(self) -> dict[str, Any]:
        """What the run keeps of its data, see `data.fingerprint.describe`."""
        return self._json(DATA)

    @property
    def threshold(self) -> dict[str, Any]:
        """The values of a `scoring.Threshold`; of an evaluation, those that its metrics name."""
        return self._json(THRESHOLD) or self.metrics.get("threshold") or {}

    def predictions(self) -> list[dict[str, Any]]:
        """Rows of predictions.csv, typed: image, label (0, 1, None), defect (None), score, nok."""
        return self._rows("predictions.csv", _typed)

    def history(self) -> list[dict[str, str]]:
        """Rows of history.csv as they stand: the losses of each epoch."""
        return self._rows("history.csv", lambda row: {k: v or "" for k, v in row.items() if k})

    def write_predictions(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """predictions.csv: image, label (0 OK, 1 NOK, empty unknown), defect, score, nok (0 or 1); of several products
        also the category.
        """
        rows = list(rows)
        columns = list(COLUMNS) + ["category"] * any(row.get("category") is not None for row in rows)
        # the csv module leaves out None, and writes a float as repr does
        cells = ([row.get(name) for name in columns] for row in ({**row, "nok": int(row["nok"])} for row in rows))
        write_csv(self.path / "predictions.csv", [columns, *cells])

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        write_json(self.path / "metrics.json", metrics)

    def start(self, config: Mapping[str, Any], environment: Mapping[str, Any], command: Sequence[str] = ()) -> None:
        """Begins the run anew or once more, and removes what would contradict it: torn files and old results. config is
        resolved; command is what starts this run alone.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        remove_parts(self.path, idle=-math.inf)  # whoever starts a run holds its lock
        for old in ("metrics.json", "predictions.csv"):
            (self.path / old).unlink(missing_ok=True)
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(_placed(config))))
        vars(self).pop("config", None)
        write_json(self.path / "environment.json", environment)
        starts = self.status.get("starts", 0) + 1
        command = list(command) or sys.argv
        self.status = {"state": "running", "command": command, "starts": starts, "started": _now(), "timings": {}}
        self._write()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage into `timings` (seconds)."""
        begin = time.perf_counter()
        yield
        give_back()
        self.status["timings"][name] = round(time.perf_counter() - begin, 3)
        self._write()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Ends the run as done, as stopped (Ctrl-C, SIGTERM) or as failed with the error's text.

        Errors: UserError for a full disk, whatever wrote to it.
        """
        handler = logging.FileHandler(self.path / "run.log", encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk is told of once
        logging.getLogger().addHandler(handler)
        try:
            yield
            self._end({"state": "done"})
        except BaseException as error:
            full = disk_full(error, self.path)
            with contextlib.suppress(OSError, UserError):
                self._end(_in_words(full or error))
            if full is not None and full is not error:
                raise full from error
            raise
        finally:
            logging.getLogger().removeHandler(handler)
            with contextlib.suppress(OSError):
                handler.close()

    def _end(self, outcome: Mapping[str, str]) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.status |= {**outcome, "finished": _now(), "peak_memory_mb": round(peak)}
        self._write()

    def _write(self) -> None:
        write_json(self.path / "status.json", self.status)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError:
            value = None
        return value if isinstance(value, dict) else self._is_torn(name)

    def _rows(self, name: str, read: Callable[[dict[str, str]], dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            with (self.path / name).open(newline="", encoding="utf-8") as stream:
                return [read(row) for row in csv.DictReader(stream)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (ValueError, TypeError, KeyError, csv.Error):
            self._is_torn(name)
            return []

    def _is_torn(self, name: str) -> dict[str, Any]:
        if name not in self.torn:
            log.warning("%s is torn, as a full disk or a power cut leaves it: read as empty", self.path / name)
            self.torn.append(name)
        return {}


def open_finished(path: str | Path) -> RunFolder:
    """A run that has a trained model.

    Errors: UserError where there is none, or where a file that it needs is torn.
    """
    run = RunFolder(Path(path).expanduser())
    for name in ("config.yaml", MODEL, THRESHOLD, DATA):
        if not (run.path / name).is_file():
            why = f"holds no finished training ({name} is missing)" if run.path.exists() else "does not exist"
            raise UserError(
                f"{run.path.absolute()} {why}. Name the folder that `anomalib-lite train` printed, e.g. "
                "run=runs/default/..."
            )
    if not (run.config and run._json(THRESHOLD) and run.data):
        raise UserError(f"{run.path.absolute()} cannot be used: {run.torn[0]} is torn. Train it again with force=true.")
    return run


def give_back() -> None:
    """glibc keeps what is freed, under the settings of `cli.py` all of it: the peaks of stages would add up."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # musl has none
        libc.malloc_trim(0)


def _placed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with whole paths of the data, so that it is found from another folder, too."""
    data = dict(config.get("data") or {})
    for key in WHERE:
        if data.get(key) is not None and (path := Path(str(data[key])).expanduser()).exists():
            data[key] = str(path.absolute())
    if "parts" in data:
        data["parts"] = [_placed({"data": part})["data"] for part in data["parts"]]
    return {**config, "data": data} if data else dict(config)


def _in_words(error: BaseException) -> dict[str, str]:
    """An error as the status keeps it."""
    # Lightning answers Ctrl-C with an exit
    cause = root_user_error(error) or (
        error.__context__ if isinstance(error, SystemExit) and error.__context__ else error
    )
    stopped = isinstance(cause, (KeyboardInterrupt, SystemExit))
    told = {"state": "stopped" if stopped else "failed", "error": f"{type(cause).__name__}: {cause}"}
    if not stopped and not isinstance(cause, UserError):
        told["traceback"] = traceback.format_exc()
    return told


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    return {
        "image": row["image"],
        "label": int(row["label"]) if row["label"] else None,
        "defect": row["defect"] or None,
        "score": float(row["score"]),
        "nok": row["nok"] == "1",
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
