"""One image on disk and what is known of it; a batch of decoded ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # neither is needed to list the files of a data set
    import numpy as np
    import torch
    from torch import Tensor

OK, NOK = 0, 1
UNNUMBERED = -1  # index of an image that is no sample's own: augmented, or with drawn defects
Origin = Literal["real", "generated", "template_generated", "template"]


@dataclass(frozen=True)
class Sample:
    """label: 0 OK, 1 NOK, None unknown. mask: file whose pixels > 0 are defective; None where there is none.
    template: the golden image it is compared with. defect: name of the defect type. origin: a photograph, an image
    that a generator made (with the OK images' look or with the template's), or the template itself. weight: in the
    training loss. bits: those that a 16-bit file uses, None where the file itself says. category: which of several
    products it shows, each with figures and a threshold of its own; None where there is but one. saturation: for each
    file of the folder `mask`, in their order, the share of its defect that is enough to find (sPRO of MVTec LOCO).
    """

    image: Path
    label: int | None
    mask: Path | None = None
    template: Path | None = None
    defect: str | None = None
    origin: Origin = "real"
    weight: float = 1.0
    bits: int | None = None
    category: str | None = None
    saturation: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Splits:
    """train: OK images to learn from. val: OK images held out of training, for thresholds and for choosing.
    test: OK and NOK images, for reporting alone. drawn: whether its OK images were drawn from those given to learn
    from, so that others of these could be measured just as well.
    """

    train: list[Sample]
    val: list[Sample]
    test: list[Sample]
    drawn: bool = False

    def __iter__(self) -> Iterator[tuple[str, list[Sample]]]:
        yield from (("train", self.train), ("val", self.val), ("test", self.test))

    def each(self, change: Callable[[Sample], Sample]) -> Splits:
        train, val, test = ([change(sample) for sample in samples] for _, samples in self)
        return Splits(train, val, test, self.drawn)

    def with_template(self, template: Path | None) -> Splits:
        """One golden image for all samples; None: nothing gets to see the template that the data may have."""
        return self.each(lambda sample: replace(sample, template=template))


@dataclass
class Batch:
    """image (B, 3, H, W) float32 RGB in [0, 1]; mask (B, 1, H, W) bool, False where none is known; label (B,) int64
    with -1 for unknown; weight (B,) float32; index (B,) int64 into the samples or UNNUMBERED; has_mask (B,) bool;
    template (B, 3, H, W) or None; samples: where each image came from; inside (B, 1, H, W) bool: what a letterbox did
    not add, None where nothing was added.
    """

    image: Tensor
    mask: Tensor
    has_mask: Tensor
    label: Tensor
    weight: Tensor
    index: Tensor
    template: Tensor | None = None
    samples: tuple[Sample, ...] = ()
    inside: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device) -> Batch:
        """On a device, all but `index`, which points into what lies in memory."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("index", "samples")}
        moved: dict[str, Any] = {name: t if t is None else t.to(device) for name, t in own.items()}
        return replace(self, **moved)


@dataclass(frozen=True)
class Outcome:
    """What a run says of one image.

    Attributes:
        sample: The image and what is known of it.
        score: Larger is more anomalous.
        nok: The verdict, which `Threshold.nok` alone gives.
        defects: What the inspector found (`defects.Defect`).
        image: uint8 (H, W, 3); kept only for images that a page shows, as are `map` and `mask`.
        map: float32 (H, W).
        mask: bool (H, W); None where unknown.
        evidence: Share of each member of a fusion in the score.
    """

    sample: Sample
    score: float
    nok: bool
    defects: tuple[Any, ...] = ()
    image: np.ndarray | None = None
    map: np.ndarray | None = None
    mask: np.ndarray | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
