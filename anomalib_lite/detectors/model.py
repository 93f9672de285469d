"""What every detector is: a method that makes anomaly maps, inside the one model that makes predictions of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn
from tqdm import tqdm

from anomalib_lite.augment.transforms import Augment
from anomalib_lite.augment.tta import TestTimeAugmentation, View
from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.statistics import TINY, Fitted
from anomalib_lite.detectors.tiling import TileSet, Tiling
from anomalib_lite.errors import UserError
from anomalib_lite.runs.checkpoints import stop_where_diverged
from anomalib_lite.scoring import GaussianBlur

LEVEL_IMAGES = 8  # that tell how the tiles' maps compare with the whole image's


class Batches(Protocol):
    """A loader that can be gone through several times, in the samples' order."""

    dataset: ImageSet

    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...


class Prediction(NamedTuple):
    """map: (B, 1, H, W) float32 >= 0, larger is more anomalous. score: (B,)."""

    map: Tensor
    score: Tensor


Finish = Callable[[Tensor, Sequence[int]], Prediction]  # a coarse map (B, 1, h, w) and the images' height and width


class Method(Fitted):
    """Base of all methods: one file each, no blur, score, views, augmentation or configuration file in it. What their
    options mean is told once, in `anomalib_lite/settings/detectors.py`, which `--help` shows.

    Buffers may start empty: a saved method brings their shapes.

    A method must define `anomaly_map`. One that trains sets `epochs` above 0 and defines `training_step`,
    `validation_loss`, `configure_optimizers` and `trained_state`.
    """

    epochs: int = 0  # 0: nothing is trained by gradient
    steps: int = 0  # at least so many, in whole epochs, in place of `epochs`
    after_training: tuple[str, ...] = ()  # names of settings that the training itself does not depend on
    # the attributes that `calibrate` fits, which each tile may have of its own; None: it wants all tiles at once
    fitted: tuple[str, ...] | None = ()
    needs_template: bool = False
    notes: Mapping[str, Any]  # what was chosen on the way, for status.json
    # where a method that fuses evidence puts the share (B,) of each in the highest place of its map, in the first view
    watched: dict[str, Tensor] | None

    def __init__(self) -> None:
        super().__init__()
        self.notes, self.watched = {}, None

    @property
    def device(self) -> torch.device:
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B, 1, h, w) >= 0, at any resolution.

        view: number of the view that the images are seen in; what was learned for each position differs between views.
        """
        raise NotImplementedError(f"{type(self).__name__} must define anomaly_map")

    def prepare(self, batches: Batches) -> None:
        """Before training: statistics of the OK images."""

    def training_step(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    def validation_loss(self, batch: Batch) -> Tensor:
        """The loss of a batch of held-out OK images."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    def epoch_end(self) -> None:
        """After each epoch of the training, for a method that keeps the best one by a figure of its own."""

    def configure_optimizers(self, total_steps: int) -> Any:
        """What Lightning takes from `configure_optimizers`."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    def trained_state(self) -> dict[str, Tensor]:
        """The part of the state dict that training changed."""
        return {}

    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        """After training: what the method's own maps of OK images look like, in each view.

        finish: what the model makes of a coarse map, for a method that chooses between settings of its own.
        """

    def reconsider(self, missed: Batches) -> None:
        """After calibration: whether NOK images that were passed would have a method that chooses choose otherwise."""

    def forget(self) -> None:
        """Drops what was kept of the images by their numbers."""


class Model(LightningModule):
    """A method with its views, smoothing and image score: the one path from images to maps and scores.

    Training, evaluation, prediction and export all go through `forward`: normalisation, test-time augmentation,
    smoothing and the image score lie inside.

    Args:
        method: Makes a coarse map of images.
        views: How a test image is looked at, and how the views' maps become one.
        blur: Smooths maps, coarse ones while it enlarges them.
        score: Maps (B, 1, H, W) to (B,).
        augment: Random changes of the training batches, or None.
        tiling: How images are cut into tiles that the method sees as images; None: it sees them whole.
        region: Where images are inspected, bool (1, 1, H, W); the map is 0 elsewhere. None: everywhere.
    """

    level: Tensor
    evidence: list[
        dict[str, float]
    ]  # which made the score of each image that was judged last; empty where there is one

    def __init__(
        self,
        method: Method,
        views: TestTimeAugmentation,
        blur: GaussianBlur,
        score: nn.Module,
        augment: Augment | None = None,
        tiling: Tiling | None = None,
        region: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.region: Tensor | None
        self.register_buffer("region", region)
        self.method, self.views, self.augment, self.tiling = method, views, augment, tiling
        self.blur, self.score = blur, score
        if tiling is not None:
            if method.fitted is None and len(tiling.slots) > 1:
                raise UserError(
                    f"{type(method).__name__} is calibrated on all tiles at once: take tiling=grid with "
                    "tiling.statistics=shared, or another detector."
                )
            own = {name: part for name in method.fitted or () if (part := getattr(method, name)) is not None}
            self.parts = nn.ModuleList(nn.ModuleDict(deepcopy(own)) for _ in tiling.slots[1:])
            self.register_buffer("level", torch.ones(2))  # usual maxima of OK maps: of tiles, of whole images

    def forward(self, image: Tensor, template: Tensor | None = None, inside: Tensor | None = None) -> Prediction:
        """inside: see Batch."""
        if self.tiling is None:
            return self.finish(self._coarse(self.method, image, template), image.shape[-2:], inside)
        tiles, whole = self._tiled(image, template)
        if whole is not None:
            tiles = torch.maximum(tiles, whole * (self.level[0] / self.level[1]))
        return self.finish(tiles, image.shape[-2:], inside)

    def _coarse(self, method: Method, image: Tensor, template: Tensor | None) -> Tensor:
        """The views' maps as one (B, 1, h, w)."""
        maps = []
        for number, view in enumerate(self.views.views):
            seen = None if template is None else view.apply(template)
            maps.append(view.undo(method.anomaly_map(view.apply(image), seen, number)))
        return self.views.reduce(maps)

    def _tiled(self, image: Tensor, template: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The tiles' maps as one (B, 1, H, W), and the whole image's, where it is looked at."""
        tiling = cast(Tiling, self.tiling)
        methods = {number: self._of_slot(slot) for slot, own in enumerate(tiling.slots) for number in own}
        maps = (
            self._coarse(methods[n], tiling.cut(image, n), None if template is None else tiling.cut(template, n))
            for n in range(len(tiling))
        )
        tiles = tiling.blend(islice(maps, len(tiling.tiles)))
        whole = next(maps, None)
        if whole is not None:
            whole = F.interpolate(whole.float(), size=tiles.shape[-2:], mode="bilinear", align_corners=False)
        return tiles, whole

    def _of_slot(self, slot: int) -> Method:
        """The method with the statistics of some of the tiles; all else is shared."""
        if slot == 0:
            return self.method
        own = copy(self.method)
        own._modules = {**self.method._modules, **self.parts[slot - 1]._modules}
        return own

    def finish(self, coarse: Tensor, size: Sequence[int], inside: Tensor | None = None) -> Prediction:
        """A coarse map (B, 1, h, w) -> the map at the image's size, smoothed, 0 outside, and its score."""
        if self.region is not None and self.region.shape[-2:] == tuple(size):  # of tiles there is no region
            inside = self.region if inside is None else inside & self.region
        if inside is None:
            smooth = self.blur.enlarged(coarse, size)
        else:
            fine = F.interpolate(coarse, size=tuple(size), mode="bilinear", align_corners=False)
            weight = inside.to(fine)
            smooth = weight * self.blur(fine * weight) / self.blur(weight).clamp_min(TINY)
        return Prediction(smooth, self.score(smooth))

    def check(self, size: Sequence[int]) -> None:
        """Errors: UserError where images of this height and width cannot be judged."""
        self.blur.check(size if self.tiling is None else self.tiling.size)

    @property
    def needs_template(self) -> bool:
        return self.method.needs_template

    def seen(self, images: ImageSet) -> ImageSet:
        """What the method learns from: the images, or their tiles."""
        return images if self.tiling is None else TileSet(images, self.tiling)

    def at_once(self, batch_size: int) -> int:
        """How many whole images are judged together, where so many pictures are learned from together."""
        return batch_size if self.tiling is None else max(1, batch_size // len(self.tiling))

    @torch.inference_mode()
    def predict_batch(self, batch: Batch) -> Prediction:
        self.eval()
        image = batch.image.to(self.device, memory_format=torch.channels_last)
        template, inside = (t if t is None else t.to(self.device) for t in (batch.template, batch.inside))
        shares: dict[str, Tensor] = {}
        self.method.watched = shares
        prediction = self(image, template, inside)
        if self.tiling is not None and shares:
            shares = self._shares_where_highest(image, template, prediction.map)
        self.method.watched = None
        known = {name: share.tolist() for name, share in shares.items()}
        self.evidence = [{name: round(share[k], 4) for name, share in known.items()} for k in range(len(image))]
        return prediction

    def _shares_where_highest(self, image: Tensor, template: Tensor | None, map: Tensor) -> dict[str, Tensor]:
        """The evidence of the tile that holds the highest place of each image's map, by a second look at it."""
        tiling, found = cast(Tiling, self.tiling), list[dict[str, Tensor]]()
        for k, place in enumerate(map.flatten(1).argmax(1).tolist()):
            number = tiling.number_at(*divmod(place, map.shape[-1]))
            slot = next(slot for slot, own in enumerate(tiling.slots) if number in own)
            self.method.watched = {}
            seen = None if template is None else tiling.cut(template[k : k + 1], number)
            self._coarse(self._of_slot(slot), tiling.cut(image[k : k + 1], number), seen)
            found.append(self.method.watched)
        return {name: torch.cat([shares[name] for shares in found]) for name in found[0]}

    def prepare(self, batches: Batches) -> None:
        self.method.prepare(batches)

    def calibrate(self, batches: Batches, batch_size: int = 16) -> None:
        """batch_size: of the tiles that share statistics, where not all do."""
        self.eval()
        if self.tiling is None or len(self.tiling.slots) == 1:
            self.method.calibrate(batches, self.views.views, self.finish)
            return
        self.method.forget()
        images, slots = cast(TileSet, batches.dataset).images, self.tiling.slots
        for slot, numbers in enumerate(tqdm(slots, "tiles", delay=2, leave=False)):
            own = self._of_slot(slot)
            tiles = cast(Batches, loader(TileSet(images, self.tiling, numbers), batch_size))
            own.calibrate(tiles, self.views.views, self.finish)
            self._check_memory(own, len(slots))
        if self.tiling.full:
            self._find_level(images)

    def _check_memory(self, own: Method, slots: int) -> None:
        states = (part.state_dict().values() for name in own.fitted or () if (part := getattr(own, name)) is not None)
        size = slots * sum(t.numel() * t.element_size() for state in states for t in state) / 2**20
        if self.tiling is not None and self.tiling.own and size > self.tiling.limit_mb:
            raise UserError(
                f"The statistics of each of {slots} tiles would take {size:.0f} MB, and tiling.limit_mb allows "
                f"{self.tiling.limit_mb:g}: take tiling.statistics=shared, or detector=patchcore with a small "
                "detector.bank, which has the smallest ones."
            )

    @torch.inference_mode()
    def _find_level(self, images: ImageSet) -> None:
        """How high the maps of tiles and of whole images rise on some OK images, so that the two compare."""
        step, maxima = -(-len(images) // LEVEL_IMAGES), []
        for index in range(0, len(images), step):
            batch = images[[index]]
            template = None if batch.template is None else batch.template.to(self.device)
            maps = self._tiled(batch.image.to(self.device), template)
            maxima.append([float(map.amax()) for map in maps if map is not None])
        self.level.copy_(torch.tensor(maxima).mean(0).clamp_min(TINY))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Training batches are augmented; a resumed training draws what an undisturbed one would have drawn."""
        if self.augment is None or not self.trainer.training:
            return batch
        return self.augment(batch, self.trainer.global_step, self.global_rank)

    def training_step(self, batch: Batch, step: int) -> Tensor:
        loss = self._logged("train_loss", self.method.training_step(batch), batch)
        kept = Path(self.trainer.default_root_dir) / f"diverged{self.global_rank or ''}.safetensors"
        remedy = "Lower the learning rate (detector.optimizer.lr), raise batch_size"
        stop_where_diverged(loss, batch.image, kept, f"epoch {self.current_epoch + 1}", remedy)
        return loss

    def on_train_epoch_end(self) -> None:
        self.method.epoch_end()

    def validation_step(self, batch: Batch, step: int) -> None:
        self._logged("val_loss", self.method.validation_loss(batch), batch)

    def configure_optimizers(self) -> Any:
        return self.method.configure_optimizers(int(self.trainer.estimated_stepping_batches))

    def _logged(self, name: str, loss: Tensor, batch: Batch) -> Tensor:
        self.log(name, loss, on_step=False, on_epoch=True, batch_size=len(batch), prog_bar=True, sync_dist=True)
        return loss


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """Losses (B,) of a batch, weighted (B,): a sample of weight 2 counts as two copies of it of weight 1.

    Where several processes hold parts of the batch, the mean of their results is that of the whole batch.
    """
    return (losses * weight).sum() / _mean_of_processes(weight.sum()).clamp_min(1e-12)


def _mean_of_processes(own: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()):
        return own
    total = own.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
