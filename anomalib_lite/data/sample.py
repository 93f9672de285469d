"""Data structures: a sample on disk, the splits of a data set, a batch of decoded images, a run's result for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # listing the files of a data set needs neither
    import numpy as np
    import torch
    from torch import Tensor

OK, NOK = 0, 1
UNNUMBERED = -1  # index of an image that is not a sample's original: augmented, or with synthetic defects
Origin = Literal["real", "generated", "template_generated", "template"]


@dataclass(frozen=True)
class Sample:
    """One image file and its annotations.

    Attributes:
        image: The image file.
        label: 0 OK, 1 NOK, None unknown.
        mask: File whose pixels > 0 are defective, or a folder of such files.
        template: The golden image that the image is compared with.
        defect: Name of the defect type.
        origin: A photograph, a generated image (with the look of the OK images or of the template), or the template.
        weight: Weight in the training loss.
        bits: Bit depth used in a 16-bit file; None reads it from the brightest pixel.
        category: The product it shows, if the data set has several, each with its own figures and threshold.
        saturation: For each file of the folder `mask`, in order, the share of the defect that is enough to find (sPRO
            of MVTec LOCO).
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
    """The disjoint parts of a data set.

    Attributes:
        train: OK images to learn from.
        val: OK images held out of training, for thresholds and model choices.
        test: OK and NOK images, used only to report results.
        drawn: Whether the OK test images are a random part of the user's OK images.
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
        """Sets the template of all samples; None removes their own templates."""
        return self.each(lambda sample: replace(sample, template=template))


@dataclass
class Batch:
    """A batch of decoded images.

    Attributes:
        image: (B, 3, H, W) float32 RGB in [0, 1].
        mask: (B, 1, H, W) bool, False where there is none.
        has_mask: (B,) bool, whether the mask is known; an OK image's is.
        label: (B,) int64, -1 for unknown.
        weight: (B,) float32, weight in the training loss.
        index: (B,) int64 into the image set, or UNNUMBERED.
        template: (B, 3, H, W) float32 RGB in [0, 1], or None.
        samples: The sample of each image.
        inside: (B, 1, H, W) bool, False at a letterbox's padding; None without a letterbox.
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
        """Moves all tensors to a device except `index`, which addresses data in main memory."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("index", "samples")}
        moved: dict[str, Any] = {name: t if t is None else t.to(device) for name, t in tensors.items()}
        return replace(self, **moved)


@dataclass(frozen=True)
class Outcome:
    """A run's result for one image.

    Attributes:
        sample: The image and its annotations.
        score: Anomaly score; larger is more anomalous.
        nok: The verdict, always from `Threshold.nok`.
        defects: The defects found (`defects.Defect`).
        image: uint8 (H, W, 3); kept only for images shown in a report, as are `map` and `mask`.
        map: Anomaly map, float32 (H, W).
        mask: bool (H, W); None where unknown.
        evidence: Share of each fusion member in the score.
    """

    sample: Sample
    score: float
    nok: bool
    defects: tuple[Any, ...] = ()
    image: np.ndarray | None = None
    map: np.ndarray | None = None
    mask: np.ndarray | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
