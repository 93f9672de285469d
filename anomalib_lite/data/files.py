"""Finding image files, and naming what is made of them."""

import hashlib
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path, PurePath

from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)

# each decoded by OpenCV (tested); what a file holds is told by its content, whatever it is called
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".avif", ".pbm", ".pgm",
    ".ppm", ".pnm", ".ras", ".sr",
)  # fmt: skip
LEFTOVERS = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
LONGEST = 180  # bytes of a name, so that a suffix and a temporary file's letters fit into the 255 of a file system


class PassedOver:
    """What lies among images and is none of them, said in one line."""

    def __init__(self) -> None:
        self.hidden: list[Path] = []
        self.broken: list[Path] = []
        self.others: Counter[str] = Counter()

    def file(self, path: Path) -> bool:
        """Whether a file is an image; what is none is taken down."""
        if path.suffix.lower() not in SUFFIXES:
            self.others[path.suffix.lower() or path.name] += 1
        elif not path.is_file():
            self.broken.append(path)
        else:
            return True
        return False

    def say(self, where: str | Path) -> None:
        parts = [
            f"{kind} ({_some(paths)})" for kind, paths in (("hidden", self.hidden), ("gone", self.broken)) if paths
        ]
        if self.others:
            parts.append(f"{self.others.total()} that are no images ({', '.join(sorted(self.others)[:5])})")
        if parts:
            level = logging.WARNING if self.hidden or self.broken else logging.INFO
            log.log(level, "%s: passed over are files that are %s", where, "; ".join(parts))


def list_images(folder: Path, quiet: bool = False) -> list[Path]:
    """All images below `folder`, also through links, sorted; what is hidden or a tool's leftover is no data.

    quiet: whether what is passed over is not said.
    """
    passed = PassedOver()
    images = _readable_names(sorted(_images_below(folder, passed)))
    if not quiet:
        passed.say(folder)
    return images


def list_folders(folder: Path) -> list[Path]:
    """The folders directly in `folder`, sorted, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name)) if folder.is_dir() else []


def expand(patterns: str | int | Path | Iterable[str | Path] | None, root: Path) -> list[Path]:
    """Images named by files, folders or glob patterns (`**` goes down), relative to `root`; sorted, each once.

    A folder, named or matched, stands for all images below it. Hidden files and folders, and what tools leave behind,
    are left out unless the pattern names them; what is passed over is said.
    Errors: UserError for a pattern that matches no image, and for a name that is not UTF-8.
    """
    if patterns is None:
        return []
    found: dict[Path, Path] = {}  # by the real file: through a link back the same one would come again
    passed = PassedOver()
    for pattern in [patterns] if isinstance(patterns, (str, int, float, Path)) else patterns:
        path = root / Path(str(pattern)).expanduser()
        images: list[Path] = []
        for match in _matches(*_literal_part(path), passed):
            if match.is_dir():
                images += _images_below(match, passed)
            elif match == path or passed.file(match):
                images.append(match)
        if not images:
            known = ", ".join(SUFFIXES)
            raise UserError(f"No image found at {path} (a file, a folder or a glob pattern; {known}).")
        for image in sorted(images, key=lambda p: (len(p.parts), p)):
            found.setdefault(image.resolve(), image)
    passed.say(root if str(root) != "." else ", ".join(sorted({str(p.parent) for p in found.values()})[:3]))
    return _readable_names(sorted(found.values()))


def locate(base: Path, name: str) -> Path | None:
    """The file `name` below `base`: as it is, or spelled with backslashes or in another Unicode form."""
    path = base / name
    if name and not path.is_file() and "\\" in name:
        path = base / name.replace("\\", "/")
    if path.is_file():
        return path
    for part in path.relative_to(base).parts if path.is_relative_to(base) else ():
        if not base.is_dir():
            return None
        base = next((p for p in base.iterdir() if same_form(p.name) == same_form(part)), base / part)
    return base if name and base.is_file() else None


def same_form(name: str) -> str:
    """One spelling for names that look alike: a Mac writes an umlaut as two signs."""
    return unicodedata.normalize("NFC", name)


def common_tail(one: PurePath, other: PurePath) -> int:
    """How many folders and files from the end are called alike."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: same_form(pair[0]) == same_form(pair[1]), pairs))


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in LEFTOVERS


def short_name(path: str | Path) -> str:
    """Folder and file, as reports call an image."""
    return "/".join(Path(path).parts[-2:])


def output_names(paths: Sequence[Path]) -> list[str]:
    """A name without suffix for each file: its path below the files' common folder, so that equal names stay apart;
    files that differ in their suffix alone keep it as part of the name, and a very long name is cut.
    """
    base = os.path.commonpath([p.absolute().parent for p in paths])
    names = [Path(os.path.relpath(p.absolute(), base)) for p in paths]
    plain = [n.with_suffix("").as_posix() for n in names]
    count = Counter(plain)
    full = [p if count[p] == 1 else p + n.suffix.replace(".", "_") for p, n in zip(plain, names, strict=True)]

    def shortened(name: str) -> str:
        if len(name.encode()) <= LONGEST:
            return name
        mark = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{mark}"

    return ["/".join(map(shortened, name.split("/"))) for name in full]


def require_folder(path: str | Path, what: str) -> Path:
    folder = Path(str(path)).expanduser()
    if not folder.is_dir():
        raise UserError(f"{what} does not exist: {folder.absolute()}. Set data.root to the folder that holds it.")
    return folder


def _images_below(folder: Path, passed: PassedOver) -> Iterator[Path]:
    for inner in _folders(folder, passed):
        for entry in _entries(inner):
            if not entry.is_dir() and not _hide(entry, passed) and passed.file(entry):
                yield entry


def _folders(folder: Path, passed: PassedOver) -> Iterator[Path]:
    """A folder and those below it, each once, so that a link back ends there."""
    waiting, seen = [folder], set()
    while waiting:
        inner = waiting.pop()
        if (real := inner.resolve()) not in seen:
            seen.add(real)
            yield inner
            waiting += [e for e in reversed(_entries(inner)) if e.is_dir() and not _hide(e, passed)]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read: {error.strerror}.") from error


def _hide(path: Path, passed: PassedOver) -> bool:
    if not is_hidden(path.name):
        return False
    if path not in passed.hidden and (path.is_dir() or path.suffix.lower() in SUFFIXES):
        passed.hidden.append(path)
    return True


def _literal_part(path: Path) -> tuple[Path, list[str]]:
    """As far down as the path exists as it is written, and the pattern that is left: brackets may be part of a name."""
    base, parts = Path(path.anchor), list(path.relative_to(path.anchor).parts)
    while parts and (base / parts[0]).exists():
        base /= parts.pop(0)
    return base, parts


def _matches(folder: Path, parts: Sequence[str], passed: PassedOver) -> Iterator[Path]:
    if not parts:
        yield folder
    elif not folder.is_dir():
        return
    elif parts[0] == "**":
        for inner in _folders(folder, passed):
            yield from _matches(inner, parts[1:], passed)
    else:
        for entry in _entries(folder):
            named = entry.name == parts[0] or parts[0].startswith(".")
            if fnmatchcase(same_form(entry.name), same_form(parts[0])) and (named or not _hide(entry, passed)):
                yield from _matches(entry, parts[1:], passed)


def _readable_names(paths: list[Path]) -> list[Path]:
    """Errors: UserError for names that no table and no page could hold."""
    odd = [p for p in paths if any("\ud800" <= sign <= "\udfff" for sign in str(p))]
    if odd:
        name = os.fsencode(odd[0]).decode("utf-8", "backslashreplace")
        raise UserError(f"{len(odd)} image names are not UTF-8, among them {name}: rename them.")
    return paths


def _some(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
