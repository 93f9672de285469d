"""The command-line application that all verbs share: Hydra, with error messages that say what to do."""

import contextlib
import difflib
import functools
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException, ValidationError

from anomalib_lite.errors import UserError, root_user_error
from anomalib_lite.jobs import multirun
from anomalib_lite.runs.overrides import expand_json, override
from anomalib_lite.settings import conf_dir
from anomalib_lite.settings.fields import check, explain

log = logging.getLogger(__name__)

T = TypeVar("T")
Job = Callable[[DictConfig], Any]
ToHydra = Callable[[list[str]], list[str]]
STOPPED = 128 + signal.SIGTERM  # exit status
# warnings of libraries that the user cannot act on
WARNINGS = (
    r"Found \d+ module\(s\) in eval mode at the start of training",  # a frozen teacher is in eval mode on purpose
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"The `srun` command is available on your system but is not used",  # a training runs on one machine
    r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema",  # conf/hydra/launcher/ extends schemas
)
# `~` at the start of a value or of a list's element, which shells do not expand in `key=~/folder`
TILDE = re.compile(r"""(?:^|(?<=[,\[\s'"]))~(?=/|$|[,\]\s'"])""")
HELP_PAGE = """\
{text}

== Groups: choose with group=option ==

{groups}

== Configuration: override with key=value ==

{options}

--cfg job prints the configuration, --cfg job --resolve with all references resolved; -m sweeps over comma-separated
values; --hydra-help lists Hydra's own flags."""
_started: list[str] = []  # overrides of the jobs that this process started


def app(verb: str, text: str, to_hydra: ToHydra = list) -> Callable[[Job], Callable[[], None]]:
    """Decorator that turns a verb's job into its `main()`, which reads conf/<verb>.yaml and runs once or (-m) sweeps.

    A UserError ends a single run with its message and status 2. In a sweep the other jobs continue; the failed ones
    are listed at the end, and the status is 1. text: for --help. to_hydra: converts the verb's own syntax to Hydra's.
    """

    def decorate(job: Job) -> Callable[[], None]:
        @functools.wraps(job)
        def guarded(cfg: DictConfig) -> Any:
            return _run_job(verb, job, cfg)

        run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)(guarded)

        def main() -> None:
            try:
                sys.argv[1:] = arguments = prepare_arguments(to_hydra(sys.argv[1:]))
                if unknown := get_args_parser().parse_known_args(arguments)[1]:
                    raise UserError(f"{unknown[0]} is not a flag: options are written key=value. --help lists both.")
                if get_args_parser().parse_args(arguments).help:
                    say(_help(verb, text, arguments))
                    return
                start = multirun.begin(verb, arguments)
            except UserError as error:
                _exit_with(error)
            _run(verb, run, start)

        main.to_hydra = to_hydra  # type: ignore[attr-defined]  # `api.command` uses it, and the job as `__wrapped__`
        return functools.update_wrapper(main, job, assigned=())

    return decorate


def _run(verb: str, run: Callable[[], None], start: str) -> None:
    """Runs Hydra, and exits with a status that tells how the jobs ended. start: of `multirun.begin`."""
    _started.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors instead of printing them
    try:
        run()
        failed = multirun.failure_summary(multirun.records_of(start))
    except (HydraException, OmegaConfBaseException) as error:
        if _started or multirun.records_of(start):
            raise
        _exit_with(_composition_error(verb, error, sys.argv[1:]))
    except (KeyboardInterrupt, SystemExit) as stop:
        records = multirun.records_of(start)
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            print("\ninterrupted: run the same command again to continue", file=sys.stderr)
            sys.exit(130)
        if stop.code == STOPPED:
            print("\nstopped: run the same command again to continue", file=sys.stderr)
        if failed := multirun.failure_summary(records):  # the launcher itself failed
            print(f"\n{failed}", file=sys.stderr)
        raise
    if failed:
        sys.exit(failed)


def say(text: Any) -> None:
    """Prints a result to stdout; logs go to stderr."""
    print(text, flush=True)


def texts(value: Any) -> list[str]:
    """Returns one value, or each of a list, as text, because names of files and folders may look like numbers."""
    return [str(one) for one in value] if isinstance(value, (list, tuple, ListConfig)) else [str(value)]


def named(key: str, arguments: Sequence[str]) -> list[str]:
    """Turns positional arguments into `key=WORD`; names of existing files count as positional even with a `=`."""
    overrides = get_args_parser().parse_known_args(arguments)[0].overrides  # Hydra reports unknown flags
    words = [argument for argument in overrides if "=" not in argument or Path(argument).is_file()]
    return [override(key, argument) if argument in words else argument for argument in arguments]


def silence_warnings() -> None:
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


silence_warnings()  # on import, because a launcher's processes compose the configuration before a job begins


def prepare_arguments(arguments: Sequence[str]) -> list[str]:
    """Expands JSON and `~`, which Hydra's grammar does not know. Raises UserError for invalid JSON."""
    home = os.path.expanduser("~")
    arguments = expand_json(arguments, _groups())
    return [re.sub(r"(?<==).*", lambda value: TILDE.sub(lambda _: home, value[0]), a, count=1) for a in arguments]


def expand_home(cfg: DictConfig | ListConfig) -> None:
    """Expands `~` in a configuration's values in place, which covers values from configuration files."""
    for key in range(len(cfg)) if isinstance(cfg, ListConfig) else list(cfg):
        node: Any = cfg._get_node(key)
        value = node._value()
        if isinstance(node, (DictConfig, ListConfig)):
            if not (node._is_none() or node._is_missing() or node._is_interpolation()):
                expand_home(node)
        elif isinstance(value, str) and (value == "~" or value.startswith("~/")):
            cfg[key] = os.path.expanduser(value)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Makes SIGTERM raise SystemExit in the block, so that the job is recorded as stopped."""

    def stop(*_: Any) -> NoReturn:
        sys.exit(STOPPED)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # a launcher's thread: only the main thread handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_job(verb: str, job: Job, cfg: DictConfig) -> Any:
    """Runs the job in this process or in a launcher's, and handles its errors."""
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    _started.append(" ".join(HydraConfig.get().overrides.task))
    os.chdir(HydraConfig.get().runtime.cwd)
    silence_warnings()
    try:
        if sweeping:
            multirun.record(verb, "running")
        check_config(cfg)
        with _stoppable():
            result = job(cfg)
    except Exception as error:
        user_error = root_user_error(error)
        if not sweeping:
            if user_error is None:
                raise
            _exit_with(user_error)
        if user_error is None:
            log.exception("a job of the sweep failed")
        multirun.record(verb, "failed", str(user_error or f"{type(error).__name__}: {error}"))
        return None
    if sweeping:
        multirun.record(verb, "done")
    return result


def check_config(cfg: DictConfig) -> None:
    """Raises UserError for missing and invalid values, and expands `~`."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"Not set: {', '.join(missing)}. Add {missing[0]}=...; --help shows an example.")
    check(cfg)
    expand_home(cfg)


def call(verb: str, job: Callable[[DictConfig], T], arguments: Sequence[str]) -> T:
    """Runs a verb's job in this process, for Python; raises UserError for arguments that the command line refuses."""
    arguments = prepare_arguments(arguments)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = composed(verb, arguments, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        check_config(cfg)
        return job(cfg)


def composed(verb: str, arguments: Sequence[str], **more: bool) -> DictConfig:
    """Composes a verb's configuration; raises UserError where Hydra cannot."""
    try:
        return compose(verb, list(arguments), **more)
    except (HydraException, OmegaConfBaseException) as error:
        raise _composition_error(verb, error, arguments) from error


def _help(verb: str, text: str, arguments: Sequence[str]) -> str:
    """Returns the --help page: the configuration with these arguments, and the meaning of each option."""
    parsed = get_args_parser().parse_args(arguments)
    path = [override("hydra.searchpath", [f"file://{Path(parsed.config_dir).absolute()}"])] if parsed.config_dir else []
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = composed(verb, [*parsed.overrides, *path])
    return HELP_PAGE.format(text=text, groups=_groups_of(verb), options=explain(cfg))


def _exit_with(error: UserError) -> NoReturn:
    print(f"\nerror: {error}", file=sys.stderr)
    sys.exit(error.status)


def _composition_error(verb: str, error: BaseException, arguments: Sequence[str]) -> UserError:
    """Explains why Hydra could not compose a configuration: a syntax error, an unknown key or an invalid value."""
    bare = [a for a in get_args_parser().parse_known_args(arguments)[0].overrides if "=" not in a and a[:1] != "~"]
    if bare:
        key = f"{bare[0]}=VALUE" if bare[0] in _groups() else f"KEY={bare[0]}"
        return UserError(f"{bare[0]} is not of the form key=value: write {key}. --help lists the keys.")
    arguments = [a for a in arguments if "=" in a]
    if invalid := [a for a in arguments if not _parses(a)]:
        key, _, value = invalid[0].partition("=")
        return UserError(
            f"{invalid[0]} cannot be parsed. Quote values with special characters twice: \"{key}='{value}'\""
        )
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ValidationError):
        reason = str(cause.msg or cause).splitlines()[0].rstrip(".")
        return UserError(f"{cause.full_key}: {reason}. --help lists the valid values.")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        choices = [a for a in arguments if a.split("=")[0] in _groups() and "," not in a]
        try:
            cfg = compose(verb, choices)
        except HydraException as group_error:
            if "No match in the defaults list" in str(group_error):
                wrong = [a for a in choices if f"'{a.split('=')[0]}'" in str(group_error)]
                return UserError(f"{verb} does not take {', '.join(wrong or choices)}. --help lists its options.")
            return UserError(str(error))  # lists the valid choices of the group
    return UserError("\n".join(_unknown_keys(cfg, arguments)) or str(error))


def _unknown_keys(cfg: DictConfig, arguments: Sequence[str]) -> Iterator[str]:
    """Yields a message for each unknown option, with similar or valid ones."""
    valid = sorted(set(_keys(cfg)))
    for argument in arguments:
        key = argument.split("=")[0].lstrip("+~")
        if key in valid or key.startswith("hydra"):
            continue
        if near := difflib.get_close_matches(key, valid, 3, 0.6):
            yield f"'{key}' is not an option. Did you mean: {', '.join(near)}?"
        else:
            siblings = sorted(k for k in valid if k.rpartition(".")[0] == key.rpartition(".")[0])
            yield f"'{key}' is not an option. Valid options here: {', '.join(siblings)}."


def _parses(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _groups() -> set[str]:
    return {str(path.relative_to(conf_dir())) for path in conf_dir().rglob("*") if path.is_dir()}


def _groups_of(verb: str) -> str:
    """Lists a verb's groups and their options for --help."""
    defaults = yaml.safe_load((conf_dir() / f"{verb}.yaml").read_text(encoding="utf-8")).get("defaults", [])
    names = [str(key) for entry in defaults if isinstance(entry, dict) for key in entry]
    names = [name for name in names if " " not in name and "@" not in name]
    options = {name: sorted(path.stem for path in (conf_dir() / name).glob("*.yaml")) for name in names}
    return "\n".join(f"{name}: {', '.join(stems)}" for name, stems in options.items() if stems) or "none"


def _keys(cfg: DictConfig, prefix: str = "") -> list[str]:
    keys = [p.name for p in conf_dir().iterdir() if p.is_dir()] if not prefix else []
    for key in cfg:
        name = prefix + str(key)
        keys.append(name)
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            keys += _keys(node, f"{name}.")
    return keys
