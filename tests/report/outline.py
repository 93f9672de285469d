"""A page as a test sees it: well-formed, its attributes and its text."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "input", "br", "path", "image", "use"}


class Outline(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in the order in which they opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def values(self, tag: str, name: str) -> list[str | None]:
        return [value for owner, key, value in self.attributes if (owner, key) == (tag, name)]


def read(path: Path) -> tuple[str, Outline]:
    html = path.read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(html)
    outline.close()
    assert not outline.open
    return html, outline


def words(outline: Outline) -> str:
    return " ".join(" ".join(outline.text).split())
