"""Data structures: a sample on disk, the splits of a data set, a batch of decoded images, a run's result for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
    """One image file and its annotations."""

    image: Path
    label: int | None  # OK, NOK, or None for unknown
    mask: Path | None = None  # file whose pixels > 0 are defective, or a folder of such files
    template: Path | None = None  # the golden image that the image is compared with
    defect: str | None = None  # name of the defect type
    origin: Origin = "real"  # generated: with the look of the OK images, or of the template
    weight: float = 1.0  # in the training loss
    bits: int | None = None  # bit depth used in a 16-bit file; None reads it from the brightest pixel
    category: str | None = None  # of a data set with several, each with its own figures and threshold
    saturation: tuple[float, ...] | None = None  # share of each file's defect that is enough to find (sPRO)


@dataclass(frozen=True)
class Splits:
    """The disjoint parts of a data set."""

    train: list[Sample]  # OK images to learn from
    val: list[Sample]  # OK images held out of training, for thresholds and model choices
    test: list[Sample]  # OK and NOK images, used only to report results
    drawn: bool = False  # whether the OK test images are a random part of the user's OK images

    def __iter__(self) -> Iterator[tuple[str, list[Sample]]]:
        yield from (("train", self.train), ("val", self.val), ("test", self.test))

    def each(self, change: Callable[[Sample], Sample]) -> Splits:
        train, val, test = ([change(sample) for sample in samples] for _, samples in self)
        return Splits(train, val, test, self.drawn)

    def with_bits(self, bits: int | None) -> Splits:
        return self.each(lambda sample: replace(sample, bits=bits))

    def with_template(self, template: Path | None) -> Splits:
        """Sets the template of all samples; None removes their own templates."""
        return self.each(lambda sample: replace(sample, template=template))


@dataclass
class Batch:
    """A batch of decoded images."""

    image: Tensor  # (B, 3, H, W) float32 RGB in [0, 1]
    mask: Tensor  # (B, 1, H, W) bool, False where there is none
    has_mask: Tensor  # (B,) bool, whether the mask is known; an OK image's is
    label: Tensor  # (B,) int64, -1 for unknown
    weight: Tensor  # (B,) float32, in the training loss
    index: Tensor  # (B,) int64 into the image set, or UNNUMBERED
    template: Tensor | None = None  # as `image`
    samples: tuple[Sample, ...] = ()
    inside: Tensor | None = None  # (B, 1, H, W) bool, False at a letterbox's padding; None without a letterbox

    def __len__(self) -> int:
        return len(self.index)

    def counted(self, region: Tensor | None) -> Tensor | None:
        """Returns the pixels to inspect, bool (B, 1, H, W): in the region (1, 1, H, W), not padding; None: all."""
        if region is None:
            return self.inside
        region = region.to(self.image.device).expand(len(self), -1, -1, -1)
        return region if self.inside is None else region & self.inside

    def to(self, device: torch.device) -> Batch:
        """Moves all tensors to a device except `index`, which addresses data in main memory."""
        tensors: dict[str, Any] = {k: t for k, t in vars(self).items() if hasattr(t, "device") and k != "index"}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class Outcome:
    """A run's result for one image; the arrays are kept only for images shown in a report."""

    sample: Sample
    score: float  # larger is more anomalous
    nok: bool  # the verdict, always from `Threshold.nok`
    defects: tuple[Any, ...] = ()  # each a `defects.Defect`
    image: np.ndarray | None = None  # uint8 (H, W, 3)
    map: np.ndarray | None = None  # anomaly map, float32 (H, W)
    mask: np.ndarray | None = None  # bool (H, W); None where unknown
    evidence: Mapping[str, float] = field(default_factory=dict)  # share of each fusion member in the score
