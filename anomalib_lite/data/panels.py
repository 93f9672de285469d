"""Reads the built-in data set: rendered photographs of a gold-foil product, with ten kinds of defects.

The first use renders it into the artifacts folder, in MVTec AD's layout; later uses read it from there.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from anomalib_lite.data.layouts import mvtec_ad
from anomalib_lite.data.sample import Splits
from anomalib_lite.rendering.product import write_dataset
from anomalib_lite.settings.data import PanelsConfig

RENDERED = "rendered"


def read(root: str | Path, template: str | Path | None = RENDERED, **given: Any) -> Splits:
    """Renders the data set below `root` unless it is there, and splits it. Raises UserError for options out of range.

    template: `rendered` for an image of the perfect product, another file, or None. given: fields of `PanelsConfig`,
    and options of `make_splits`.
    """
    rendered = {field.name: given.pop(field.name) for field in fields(PanelsConfig) if field.name in given}
    folder = write_dataset(root, PanelsConfig(**rendered))
    return mvtec_ad(folder, template=folder / "template.png" if template == RENDERED else template, **given)
