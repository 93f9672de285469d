"""The built-in data set: rendered photographs of a gold-foil product, with ten kinds of defects.

It is rendered on first use into the artifacts folder and read from there afterwards, in MVTec AD's layout.
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
    """Renders the set below `root` unless it is there, and splits it.

    template: `rendered` for the perfect product's picture, another file, or None. given: fields of `PanelsConfig`, and
    what every reader takes. Errors: UserError for settings out of range, naming the valid ones.
    """
    rendered = {field.name: given.pop(field.name) for field in fields(PanelsConfig) if field.name in given}
    folder = write_dataset(root, PanelsConfig(**rendered))
    return mvtec_ad(folder, template=folder / "template.png" if template == RENDERED else template, **given)
