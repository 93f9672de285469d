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


class _Search:
    """Goes through folders for images, and keeps what lies among them and is none, by the reason.

    Hidden files and folders, and what tools leave behind, are no data unless a pattern names them.
    """

    def __init__(self) -> None:
        self.passed: dict[str, set[Path]] = {"hidden": set(), "gone": set(), "no images": set()}

    def is_image(self, path: Path) -> bool:
        named = path.suffix.lower() in SUFFIXES
        if named and path.is_file():
            return True
        self.passed["gone" if named else "no images"].add(path)
        return False

    def is_hidden(self, path: Path) -> bool:
        if _is_hidden(path) and (path.is_dir() or path.suffix.lower() in SUFFIXES):
            self.passed["hidden"].add(path)
        return _is_hidden(path)

    def folders(self, folder: Path) -> Iterator[Path]:
        """A folder and those below it, each once, so that a link back ends there."""
        waiting, seen = [folder], set()
        while waiting:
            inner = waiting.pop()
            if (real := inner.resolve()) not in seen:
                seen.add(real)
                yield inner
                waiting += [e for e in reversed(_entries(inner)) if e.is_dir() and not self.is_hidden(e)]

    def images(self, folder: Path) -> Iterator[Path]:
        """All below a folder."""
        for inner in self.folders(folder):
            for entry in _entries(inner):
                if not entry.is_dir() and not self.is_hidden(entry) and self.is_image(entry):
                    yield entry

    def matches(self, folder: Path, parts: Sequence[str]) -> Iterator[Path]:
        """What a pattern means in a folder; `**` goes down."""
        if not parts:
            yield folder
        elif not folder.is_dir():
            return
        elif parts[0] == "**":
            for inner in self.folders(folder):
                yield from self.matches(inner, parts[1:])
        else:
            for entry in _entries(folder):
                named = entry.name == parts[0] or parts[0].startswith(".")
                if fnmatchcase(same_form(entry.name), same_form(parts[0])) and (named or not self.is_hidden(entry)):
                    yield from self.matches(entry, parts[1:])

    def say(self, where: str | Path) -> None:
        told = [f"{kind} ({len(paths)}, such as {min(paths)})" for kind, paths in self.passed.items() if paths]
        if told:
            level = logging.WARNING if self.passed["hidden"] or self.passed["gone"] else logging.INFO
            log.log(level, "%s: passed over are files that are %s", where, ", ".join(told))


def list_images(folder: Path, quiet: bool = False) -> list[Path]:
    """All images below `folder`, also through links, sorted; what is hidden or a tool's leftover is no data.

    quiet: whether what is passed over is not said.
    """
    search = _Search()
    images = _readable_names(search.images(folder))
    if not quiet:
        search.say(folder)
    return images


def list_folders(folder: Path) -> list[Path]:
    """The folders directly in `folder`, sorted, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not _is_hidden(p)) if folder.is_dir() else []


def expand(patterns: str | int | Path | Iterable[str | Path] | None, root: Path) -> list[Path]:
    """Images named by files, folders or glob patterns (`**` goes down), relative to `root`; sorted, each once.

    A folder, named or matched, stands for all images below it. Hidden files and folders, and what tools leave behind,
    are left out unless the pattern names them; what is passed over is said.
    Errors: UserError for a pattern that matches no image, and for a name that is not UTF-8.
    """
    if patterns is None:
        return []
    found: dict[Path, Path] = {}  # by the real file: through a link back the same one would come again
    search = _Search()
    for pattern in [patterns] if isinstance(patterns, (str, int, float, Path)) else patterns:
        path = root / Path(str(pattern)).expanduser()
        images: list[Path] = []
        for match in search.matches(*_literal_part(path)):
            if match.is_dir():
                images += search.images(match)
            elif match == path or search.is_image(match):
                images.append(match)
        if not images:
            raise UserError(f"No image found at {path}{_why_none(path, search)}.")
        for image in sorted(images, key=lambda p: (len(p.parts), p)):
            found.setdefault(image.resolve(), image)
    search.say(root if str(root) != "." else ", ".join(sorted({str(p.parent) for p in found.values()})[:3]))
    return _readable_names(found.values())


def locate(base: Path, name: str) -> Path | None:
    """The file `name` below `base`, also where its parts are spelled in another Unicode form."""
    for part in PurePath(name).parts:
        inner = base / part
        if base.is_dir() and not inner.exists():
            inner = next((p for p in base.iterdir() if same_form(p.name) == same_form(part)), inner)
        base = inner
    return base if base.is_file() else None


def same_form(name: str) -> str:
    """One spelling for names that look alike: a Mac writes an umlaut as two signs."""
    return unicodedata.normalize("NFC", name)


def common_tail(one: PurePath, other: PurePath) -> int:
    """How many folders and files from the end are called alike."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: same_form(pair[0]) == same_form(pair[1]), pairs))


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name in LEFTOVERS


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


def require_folder(path: str | Path, what: str, option: str = "data.root") -> Path:
    folder = Path(str(path)).expanduser()
    if not folder.is_dir():
        raise UserError(f"{what} does not exist: {folder.absolute()}. Set {option} to a folder that does.")
    return folder


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read: {error.strerror}.") from error


def _why_none(path: Path, search: _Search) -> str:
    base, rest = _literal_part(path)
    if rest and not set(rest[0]) & set("*?["):
        return f": {base / rest[0]} does not exist"
    if gone := search.passed["gone"]:
        return f" (links that lead nowhere: {len(gone)}, such as {min(gone)})"
    return f" (a file, a folder or a glob pattern; {', '.join(SUFFIXES)})"


def _literal_part(path: Path) -> tuple[Path, list[str]]:
    """As far down as the path exists as it is written, and the pattern that is left: brackets may be part of a name."""
    base, parts = Path(path.anchor), list(path.relative_to(path.anchor).parts)
    while parts and (base / parts[0]).exists():
        base /= parts.pop(0)
    return base, parts


def _readable_names(paths: Iterable[Path]) -> list[Path]:
    """Sorted. Errors: UserError for names that no table and no page could hold."""
    ordered = sorted(paths)
    if odd := [p for p in ordered if any("\ud800" <= sign <= "\udfff" for sign in str(p))]:
        name = os.fsencode(odd[0]).decode("utf-8", "backslashreplace")
        raise UserError(f"{len(odd)} image names are not UTF-8, among them {name}: rename them.")
    return ordered
