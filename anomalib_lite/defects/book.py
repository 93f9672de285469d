"""All that is found over many images: added one by one, written at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_lite.data.decode import resize_image
from anomalib_lite.defects.confusion import Confusion, confusion, matching
from anomalib_lite.defects.defect import Inspection
from anomalib_lite.defects.inspect import Inspector
from anomalib_lite.defects.output import summary, table_rows, write_defects

PICTURED = 120


@dataclass(frozen=True)
class Page:
    """One image: its name, what the data set calls its defect, what was found, and the type that is compared with the
    name. picture: uint8 RGB (H, W, 3) at the resolution of inspection, None of images that are not shown.
    """

    image: str
    name: str | None
    inspection: Inspection
    kind: str | None
    picture: np.ndarray | None


class DefectBook:
    """Inspects images and keeps what was found; pictures and masks of the images with the worst defects alone, so that
    memory does not grow with their number.
    """

    def __init__(self, inspector: Inspector, threshold: float, pictured: int = PICTURED) -> None:
        self.inspector, self.threshold, self.pictured = inspector, threshold, pictured
        self.pages: list[Page] = []
        self._shown: list[int] = []

    def add(
        self,
        image: str,
        picture: np.ndarray,
        values: np.ndarray,
        name: str | None = None,
        mask: np.ndarray | None = None,
    ) -> Inspection:
        """picture: uint8 RGB (H, W, 3), values: the anomaly map (h, w). name: the data set's for the defect. mask: the
        true one, bool (H, W).
        """
        found = self.inspector.inspect(values, picture, self.threshold)
        match = matching(found, mask)
        small = resize_image(picture, *self.inspector.reference.shape) if found.defects else None
        self.pages.append(Page(image, name, found, match.kind if match else None, small))
        if found.defects:
            self._shown.append(len(self.pages) - 1)
            if len(self._shown) > self.pictured:
                self._forget(min(self._shown, key=lambda i: self.pages[i].inspection.defects[0].severity))
        return found

    @property
    def table(self) -> Confusion | None:
        """Types found beside the data set's names; None where it has none that stand for a type."""
        settings = self.inspector.settings
        if not any(page.name in settings.names for page in self.pages):
            return None
        names, kinds = [page.name for page in self.pages], [page.kind for page in self.pages]
        return confusion(names, kinds, settings.names, [rule.name for rule in settings.types])

    def write(self, folder: Path) -> None:
        """defects.json and defects.csv."""
        write_defects(folder, self.inspector, self._images(), self._inspections(), self.table)

    def metrics(self) -> Mapping[str, Any]:
        """Numbers for metrics.json."""
        table = self.table
        types = [rule.name for rule in self.inspector.settings.types]
        accuracy = {} if table is None else {"type_accuracy": table.accuracy}
        return {**summary(self._inspections(), types), **accuracy}

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Columns and data of a `wandb.Table`."""
        return table_rows(self._images(), self._inspections())

    def _images(self) -> list[str]:
        return [page.image for page in self.pages]

    def _inspections(self) -> list[Inspection]:
        return [page.inspection for page in self.pages]

    def _forget(self, number: int) -> None:
        self._shown.remove(number)
        page = self.pages[number]
        bare = tuple(replace(defect, mask=np.zeros((0, 0), bool)) for defect in page.inspection.defects)
        self.pages[number] = replace(page, picture=None, inspection=replace(page.inspection, defects=bare))
