"""The built-in data set: rendered photographs of a gold-foil product, with ten kinds of defects.

It is rendered on first use into the artifacts folder and read from there afterwards, in MVTec AD's layout.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from anomalib_lite.data.layouts import mvtec_ad
from anomalib_lite.data.sample import Splits
from anomalib_lite.data.splits import Drawing
from anomalib_lite.rendering.flaws import DEFECTS
from anomalib_lite.rendering.product import PanelsConfig, write_dataset

RENDERED = "rendered"


def read(
    root: str | Path,
    size: int = 256,
    seed: int = 0,
    n_train: int = 200,
    n_test_good: int = 60,
    n_per_defect: int = 12,
    severity: Sequence[float] = (0.1, 0.9),
    jitter: float = 1.0,
    defects: Sequence[str] | None = None,
    **drawing: Unpack[Drawing],
) -> Splits:
    """Renders the set below `root` unless it is there, and splits it.

    n_train: OK images, of which `val_share` is held out. severity: range in [0, 1] that each defect's is
    drawn from. jitter: scale of the products' shift, turn and perspective. defects: names, or None for all.
    template: `rendered` for the perfect product's picture, another file, or None.
    Errors: UserError for settings out of range, naming the valid ones.
    """
    names = tuple(DEFECTS if defects is None else defects)
    low, high = severity
    config = PanelsConfig(size, seed, n_train, n_test_good, n_per_defect, (low, high), jitter, names)
    folder = write_dataset(root, config)
    if drawing.setdefault("template", RENDERED) == RENDERED:
        drawing["template"] = folder / "template.png"
    return mvtec_ad(folder, **drawing)
