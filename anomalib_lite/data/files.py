"""Finds image files, and names the outputs made from them."""

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

# OpenCV decodes all of these formats (tested); it goes by the content of a file, not by its suffix
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".avif", ".pbm", ".pgm",
    ".ppm", ".pnm", ".ras", ".sr",
)  # fmt: skip
SYSTEM_FOLDERS = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
LONGEST = 180  # bytes of a name: leaves room for a suffix and a temporary file's extra letters within the usual 255


class _Search:
    """Searches folders for images, and records the skipped files by the reason; what is hidden must be named."""

    def __init__(self) -> None:
        self.skipped: dict[str, set[Path]] = {"hidden": set(), "broken links": set(), "not images": set()}

    def is_image(self, path: Path) -> bool:
        has_suffix = path.suffix.lower() in SUFFIXES
        if has_suffix and path.is_file():
            return True
        self.skipped["broken links" if has_suffix else "not images"].add(path)
        return False

    def is_hidden(self, path: Path) -> bool:
        if _is_hidden(path) and (path.is_dir() or path.suffix.lower() in SUFFIXES):
            self.skipped["hidden"].add(path)
        return _is_hidden(path)

    def folders(self, folder: Path) -> Iterator[Path]:
        """Yields a folder and all folders below it, each once, so that a cycle of links ends."""
        pending, visited = [folder], set()
        while pending:
            inner = pending.pop()
            if (real := inner.resolve()) not in visited:
                visited.add(real)
                yield inner
                pending += [e for e in reversed(_entries(inner)) if e.is_dir() and not self.is_hidden(e)]

    def images(self, folder: Path) -> Iterator[Path]:
        """Yields all images below a folder."""
        for entry in (entry for inner in self.folders(folder) for entry in _entries(inner)):
            if not entry.is_dir() and not self.is_hidden(entry) and self.is_image(entry):
                yield entry

    def matches(self, folder: Path, parts: Sequence[str]) -> Iterator[Path]:
        """Yields the files and folders in `folder` that match a pattern, given by its parts; `**` matches any depth."""
        if not parts:
            yield folder
        elif not folder.is_dir():
            return
        elif parts[0] == "**":
            for inner in self.folders(folder):
                yield from self.matches(inner, parts[1:])
        else:
            for entry in _entries(folder):
                explicit = entry.name == parts[0] or parts[0].startswith(".")
                if fnmatchcase(same_form(entry.name), same_form(parts[0])) and (explicit or not self.is_hidden(entry)):
                    yield from self.matches(entry, parts[1:])

    def log_skipped(self, where: str | Path) -> None:
        counts = {kind: f"{len(paths)} {kind} (such as {min(paths)})" for kind, paths in self.skipped.items() if paths}
        if counts:
            level = logging.INFO if [*counts] == ["not images"] else logging.WARNING
            log.log(level, "%s: files skipped: %s", where, ", ".join(counts.values()))


def list_images(folder: Path, quiet: bool = False) -> list[Path]:
    """Lists all images below `folder`, also through links, sorted; logs what is skipped unless `quiet`."""
    search = _Search()
    images = _readable_names(search.images(folder))
    if not quiet:
        search.log_skipped(folder)
    return images


def list_folders(folder: Path) -> list[Path]:
    """Lists the folders directly in `folder`, sorted, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not _is_hidden(p)) if folder.is_dir() else []


def expand(patterns: str | int | Path | Iterable[str | Path] | None, root: Path) -> list[Path]:
    """Expands files, folders and glob patterns relative to `root` into a sorted list of distinct images.

    `**` matches any depth, and a folder, named or matched, stands for all images below it. Hidden files and
    `SYSTEM_FOLDERS` are skipped unless the pattern names them; skipped files are logged. Raises UserError if a pattern
    matches no image, or a name is not UTF-8.
    """
    if patterns is None:
        return []
    by_real_path: dict[Path, Path] = {}  # links may lead to the same file again
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
            by_real_path.setdefault(image.resolve(), image)
    parents = sorted({str(image.parent) for image in by_real_path.values()})
    search.log_skipped(root if str(root) != "." else ", ".join(parents[:3]))
    return _readable_names(by_real_path.values())


def locate(base: Path, name: str) -> Path | None:
    """Finds the file `name` below `base`, even if the disk spells it in another Unicode form; None if absent."""
    for part in PurePath(name).parts:
        inner = base / part
        if base.is_dir() and not inner.exists():
            inner = next((p for p in base.iterdir() if same_form(p.name) == same_form(part)), inner)
        base = inner
    return base if base.is_file() else None


def same_form(name: str) -> str:
    """Normalises a name's Unicode form, since macOS writes an umlaut as two characters."""
    return unicodedata.normalize("NFC", name)


def common_tail(one: PurePath, other: PurePath) -> int:
    """Counts the parts that two paths share at their ends."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: same_form(pair[0]) == same_form(pair[1]), pairs))


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name in SYSTEM_FOLDERS


def short_name(path: str | Path) -> str:
    """Returns `folder/file`, the name of an image in reports."""
    return "/".join(Path(path).parts[-2:])


def output_names(paths: Sequence[Path]) -> list[str]:
    """Returns a unique name without suffix for each file: the first of its `possible_names` that no other file has.

    They are relative to the files' common folder.
    """
    base = os.path.commonpath([p.absolute().parent for p in paths])
    possible = [possible_names(Path(os.path.relpath(p.absolute(), base))) for p in paths]
    names = [first for first, *_ in possible]
    for k in range(1, len(possible[0])):
        count = Counter(names)
        names = [name if count[name] == 1 else others[k] for name, others in zip(names, possible, strict=True)]
    return names


def possible_names(path: Path, identity: str = "") -> tuple[str, str, str]:
    """Returns names without suffix for a relative path: without it, with `_png` for it, and with a hash of the path.

    The last differs for each path, or for each `identity`. A very long name is cut and gets a hash, too.
    """
    plain = path.with_suffix("").as_posix()
    marked = plain + path.suffix.replace(".", "_")

    def shortened(name: str) -> str:
        if len(name.encode()) <= LONGEST:
            return name
        return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{_digest(name)}"

    names = (plain, marked, f"{marked}-{_digest(identity or path.as_posix())}")
    first, second, third = ("/".join(map(shortened, name.split("/"))) for name in names)
    return first, second, third


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=4).hexdigest()


def require_folder(path: str | Path, what: str, option: str = "data.root") -> Path:
    folder = Path(str(path)).expanduser()
    if not folder.is_dir():
        raise UserError(f"{what} does not exist: {folder.absolute()}. Set {option} to a folder that exists.")
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
    if broken := search.skipped["broken links"]:
        return f" (broken links: {len(broken)}, such as {min(broken)})"
    return f": give a file, a folder or a glob pattern (formats: {', '.join(SUFFIXES)})"


def _literal_part(path: Path) -> tuple[Path, list[str]]:
    """Splits a path into the leading part that exists as written, brackets included, and the remaining pattern."""
    base, parts = Path(path.anchor), list(path.relative_to(path.anchor).parts)
    while parts and (base / parts[0]).exists():
        base /= parts.pop(0)
    return base, parts


def _readable_names(paths: Iterable[Path]) -> list[Path]:
    """Sorts paths. Raises UserError for names that are not UTF-8, which tables and pages cannot hold."""
    ordered = sorted(paths)
    if invalid := [p for p in ordered if any("\ud800" <= char <= "\udfff" for char in str(p))]:
        name = os.fsencode(invalid[0]).decode("utf-8", "backslashreplace")
        raise UserError(f"{len(invalid)} image names are not UTF-8, among them {name}: rename them.")
    return ordered
