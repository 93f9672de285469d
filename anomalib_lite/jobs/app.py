"""What all verbs share: a Hydra app whose errors speak to the user."""

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
Words = Callable[[list[str]], list[str]]
STOPPED = 128 + signal.SIGTERM  # exit status
# what libraries say that tells the user nothing and that nobody can act upon
WARNINGS = (
    r"Found \d+ module\(s\) in eval mode at the start of training",  # a frozen teacher is in eval mode on purpose
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"The `srun` command is available on your system but is not used",  # each training is of one machine
    r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema",  # conf/hydra/launcher: deltas on purpose
)
# `~` at the beginning of a value, or of one in a list or in a sweep: shells leave it in `key=~/folder` as it is
TILDE = re.compile(r"""(?:^|(?<=[,\[\s'"]))~(?=/|$|[,\]\s'"])""")
HELP_PAGE = """\
{text}

== Groups: choose with group=option ==

{groups}

== Configuration: override with key=value ==

{options}

Add --cfg job to see the configuration, --cfg job --resolve with all references filled in, -m to sweep over
comma-separated values, --hydra-help for Hydra's own flags."""
_started: list[str] = []  # jobs of this process, as their overrides


def app(verb: str, help: str, words: Words = list) -> Callable[[Job], Callable[[], None]]:
    """Makes `main()` of a verb out of its job: reads conf/<verb>.yaml, runs once or (-m) as a sweep.

    A UserError ends a single run with its message and status 2. In a sweep the other jobs go on; the failed ones are
    listed at the end, and the status is 1.

    words: makes Hydra's arguments of those that the verb takes beside them.
    """

    def decorate(job: Job) -> Callable[[], None]:
        @functools.wraps(job)
        def guarded(cfg: DictConfig) -> Any:
            return _guard(verb, job, cfg)

        run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)(guarded)

        def main() -> None:
            try:
                sys.argv[1:] = arguments = prepared(words(sys.argv[1:]))
                if unknown := get_args_parser().parse_known_args(arguments)[1]:
                    raise UserError(f"{unknown[0]} is no flag: options are written key=value. --help lists both.")
                if get_args_parser().parse_args(arguments).help:
                    say(_help(verb, help, arguments))
                    return
                start = multirun.begin(verb, arguments)
            except UserError as error:
                _refuse(error)
            _run(verb, run, start)

        main.words = words  # type: ignore[attr-defined]  # and `__wrapped__` is the job, for Python
        return functools.update_wrapper(main, job, assigned=())

    return decorate


def _run(verb: str, run: Callable[[], None], start: str) -> None:
    """Runs Hydra, and ends the process as its jobs ended. start: of `multirun.begin`."""
    _started.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, and are not printed by Hydra in its own words
    try:
        run()
        failed = multirun.told(multirun.records_of(start))
    except (HydraException, OmegaConfBaseException) as error:
        if _started or multirun.records_of(start):
            raise
        _refuse(_in_words(verb, error, sys.argv[1:]))
    except (KeyboardInterrupt, SystemExit) as stop:
        records = multirun.records_of(start)
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            print("\ninterrupted: the same command goes on from what is finished", file=sys.stderr)
            sys.exit(130)
        if stop.code == STOPPED:
            print("\nstopped: the same command goes on from what is finished", file=sys.stderr)
        if failed := multirun.told(records):  # the launcher itself broke down
            print(f"\n{failed}", file=sys.stderr)
        raise
    if failed:
        sys.exit(failed)


def say(text: Any) -> None:
    """A result, to stdout: what the command was asked for. Everything else goes to stderr."""
    print(text, flush=True)


def texts(value: Any) -> list[str]:
    """One value or a list of them, as text: names of files and folders may look like numbers."""
    return [str(one) for one in value] if isinstance(value, (list, tuple, ListConfig)) else [str(value)]


def named(key: str, arguments: Sequence[str]) -> list[str]:
    """A word that is neither an override nor a flag becomes `key=WORD`; a file's name may look like an override."""
    given = get_args_parser().parse_known_args(arguments)[0].overrides  # what is unknown Hydra refuses
    words = [argument for argument in given if "=" not in argument or Path(argument).is_file()]
    return [override(key, argument) if argument in words else argument for argument in arguments]


def silence() -> None:
    """The warnings that are named above, alone."""
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


silence()  # in a launcher's processes, too, where Hydra composes before a job begins


def prepared(arguments: Sequence[str]) -> list[str]:
    """For Hydra, whose grammar knows neither JSON nor an unquoted `~`. Errors: UserError for what is no JSON."""
    home = os.path.expanduser("~")
    arguments = expand_json(arguments, _groups())
    return [re.sub(r"(?<==).*", lambda value: TILDE.sub(lambda _: home, value[0]), a, count=1) for a in arguments]


def expand_values(cfg: DictConfig | ListConfig) -> None:
    """Of a configuration, in place: those that come from files."""
    for key in range(len(cfg)) if isinstance(cfg, ListConfig) else list(cfg):
        node: Any = cfg._get_node(key)
        value = node._value()
        if isinstance(node, (DictConfig, ListConfig)):
            if not (node._is_none() or node._is_missing() or node._is_interpolation()):
                expand_values(node)
        elif isinstance(value, str) and (value == "~" or value.startswith("~/")):
            cfg[key] = os.path.expanduser(value)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what is under way is recorded as stopped."""

    def stop(*_: Any) -> NoReturn:
        sys.exit(STOPPED)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: a launcher's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _guard(verb: str, job: Job, cfg: DictConfig) -> Any:
    """The job, in this process or in one of a launcher's."""
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    _started.append(" ".join(HydraConfig.get().overrides.task))
    os.chdir(HydraConfig.get().runtime.cwd)
    silence()
    try:
        if sweeping:
            multirun.record(verb, "running")
        settle(cfg)
        with _stoppable():
            result = job(cfg)
    except Exception as error:
        spoken = root_user_error(error)
        if not sweeping:
            if spoken is None:
                raise
            _refuse(spoken)
        if spoken is None:
            log.exception("a job of the sweep failed")
        multirun.record(verb, "failed", str(spoken or f"{type(error).__name__}: {error}"))
        return None
    if sweeping:
        multirun.record(verb, "done")
    return result


def settle(cfg: DictConfig) -> None:
    """Nothing missing, nothing out of range, and no `~` left. Errors: UserError."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"Not set: {', '.join(missing)}. Add {missing[0]}=...; --help shows an example.")
    check(cfg)
    expand_values(cfg)


def call(verb: str, job: Callable[[DictConfig], T], arguments: Sequence[str]) -> T:
    """A verb's job in this process, for Python.

    Errors: UserError for what the command line would refuse, and whatever the job raises.
    """
    arguments = prepared(arguments)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = composed(verb, arguments, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        settle(cfg)
        return job(cfg)


def composed(verb: str, arguments: Sequence[str], **more: bool) -> DictConfig:
    """Errors: UserError for what cannot be composed."""
    try:
        return compose(verb, list(arguments), **more)
    except (HydraException, OmegaConfBaseException) as error:
        raise _in_words(verb, error, arguments) from error


def _help(verb: str, text: str, arguments: Sequence[str]) -> str:
    """Shows what the configuration is with these arguments, each option with its meaning."""
    given = get_args_parser().parse_args(arguments)
    own = [override("hydra.searchpath", [f"file://{Path(given.config_dir).absolute()}"])] if given.config_dir else []
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = composed(verb, [*given.overrides, *own])
    return HELP_PAGE.format(text=text, groups=_groups_of(verb), options=explain(cfg))


def _refuse(error: UserError) -> NoReturn:
    print(f"\nerror: {error}", file=sys.stderr)
    sys.exit(error.status)


def _in_words(verb: str, error: BaseException, arguments: Sequence[str]) -> UserError:
    """What Hydra could not compose: how to write a value, which keys look alike, what a value has to be."""
    alone = [a for a in get_args_parser().parse_known_args(arguments)[0].overrides if "=" not in a and a[:1] != "~"]
    if alone:
        key = f"{alone[0]}=VALUE" if alone[0] in _groups() else f"KEY={alone[0]}"
        return UserError(f"{alone[0]} stands alone: write {key}. --help lists the keys.")
    arguments = [a for a in arguments if "=" in a]
    if unread := [a for a in arguments if not _readable(a)]:
        key, _, value = unread[0].partition("=")
        return UserError(
            f"{unread[0]} cannot be read. Quote a value with special characters twice: \"{key}='{value}'\""
        )
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ValidationError):
        said = str(cause.msg or cause).splitlines()[0].rstrip(".")
        return UserError(f"{cause.full_key}: {said}. --help says what it may be.")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        choices = [a for a in arguments if a.split("=")[0] in _groups() and "," not in a]
        try:
            cfg = compose(verb, choices)
        except HydraException as refused:
            if "No match in the defaults list" in str(refused):
                wrong = [a for a in choices if f"'{a.split('=')[0]}'" in str(refused)]
                return UserError(f"{verb} does not take {', '.join(wrong or choices)}. --help lists what it takes.")
            return UserError(str(error))  # of a group it lists the valid choices
    return UserError("\n".join(_unknown_keys(cfg, arguments)) or str(error))


def _unknown_keys(cfg: DictConfig, arguments: Sequence[str]) -> Iterator[str]:
    """What to write instead of each option that is none."""
    valid = sorted(set(_keys(cfg)))
    for argument in arguments:
        key = argument.split("=")[0].lstrip("+~")
        if key in valid or key.startswith("hydra"):
            continue
        if near := difflib.get_close_matches(key, valid, 3, 0.6):
            yield f"'{key}' is no option. Did you mean: {', '.join(near)}?"
        else:
            siblings = sorted(k for k in valid if k.rpartition(".")[0] == key.rpartition(".")[0])
            yield f"'{key}' is no option. Valid here: {', '.join(siblings)}."


def _readable(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _groups() -> set[str]:
    return {str(path.relative_to(conf_dir())) for path in conf_dir().rglob("*") if path.is_dir()}


def _groups_of(verb: str) -> str:
    """The groups that a verb takes, each with its options, as --help shows them."""
    defaults = yaml.safe_load((conf_dir() / f"{verb}.yaml").read_text(encoding="utf-8")).get("defaults", [])
    names = [str(key) for entry in defaults if isinstance(entry, dict) for key in entry]
    names = [name for name in names if " " not in name and "@" not in name]
    options = {name: sorted(path.stem for path in (conf_dir() / name).glob("*.yaml")) for name in names}
    return "\n".join(f"{name}: {', '.join(found)}" for name, found in options.items() if found) or "none"


def _keys(cfg: DictConfig, prefix: str = "") -> list[str]:
    found = [p.name for p in conf_dir().iterdir() if p.is_dir()] if not prefix else []
    for key in cfg:
        name = prefix + str(key)
        found.append(name)
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            found += _keys(node, f"{name}.")
    return found
