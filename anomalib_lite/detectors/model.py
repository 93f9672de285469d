"""The base class of all methods, and the model that turns a method's anomaly maps into predictions."""

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
from anomalib_lite.backbones import Backbone
from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.statistics import TINY, Fitted
from anomalib_lite.detectors.tiling import TileSet, Tiling
from anomalib_lite.errors import UserError
from anomalib_lite.runs.checkpoints import stop_where_diverged
from anomalib_lite.scoring import GaussianBlur

MakeBackbone = Callable[..., Backbone]
MakeOptimizer = Callable[..., torch.optim.Optimizer]
LEVEL_IMAGES = 8  # OK images that scale the tiles' maps to the whole image's


class Batches(Protocol):
    """A loader that can be iterated several times, always in the order of the samples."""

    dataset: ImageSet

    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...


class Prediction(NamedTuple):
    """Anomaly maps (B, 1, H, W), float32 >= 0, larger is more anomalous; and image scores (B,)."""

    map: Tensor
    score: Tensor


Finish = Callable[[Tensor, Sequence[int], Tensor | None], Prediction]  # see `Model.finish`


class Method(Fitted):
    """Base of all methods, one file each. A method leaves blur, image score, views and configuration to others.

    `anomalib_lite/settings/detectors.py` documents the options, which `--help` shows. Buffers may start empty: loading
    a saved method sets their shapes.

    A method must define `anomaly_map`. One that trains sets `epochs` or `steps` above 0 and defines `training_step`,
    `validation_loss`, `configure_optimizers` and `trained_state`.
    """

    epochs: int = 0  # 0: not trained by gradient descent
    steps: int = 0  # least number of training steps, in whole epochs, instead of `epochs`; 0: use `epochs`
    after_training: tuple[str, ...] = ()  # names of settings that do not affect the training
    fitted: tuple[str, ...] | None = ()  # what `calibrate` fits, which tiles may copy; None: it needs all tiles at once
    needs_template: bool = False
    notes: Mapping[str, Any]  # facts about the fitted method for status.json
    region: Tensor | None = None  # inspected pixels of the images that `calibrate` gets, as in `Model`; None: all
    watched: dict[str, Tensor] | None  # a fusion adds each member's share (B,) of the first view's maximum

    def __init__(self) -> None:
        super().__init__()
        self.notes, self.watched = {}, None

    @property
    def trains(self) -> bool:
        """Whether gradient descent trains it."""
        return bool(self.epochs or self.steps)

    @property
    def device(self) -> torch.device:
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        """Computes maps (B, 1, h, w) >= 0, at any resolution, of images (B, 3, H, W) in [0, 1].

        `view` is the index of the view that the images are in, as statistics of positions differ between views.
        """
        raise NotImplementedError(f"{type(self).__name__} must define anomaly_map")

    def prepare(self, batches: Batches) -> None:
        """Called before training: fits statistics of the OK images."""

    def training_step(self, batch: Batch) -> Tensor:
        """Returns the loss of a batch."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    def validation_loss(self, batch: Batch) -> Tensor:
        """Returns the loss of a batch of held-out OK images."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    def epoch_end(self) -> None:
        """Called after each training epoch, for methods that keep the best epoch by their own criterion."""

    def configure_optimizers(self, total_steps: int) -> Any:
        """Returns what Lightning expects of `configure_optimizers`."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    def trained_state(self) -> dict[str, Tensor]:
        """Returns the part of the state dict that training changed."""
        return {}

    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        """Called after training: fits, for each view, what depends on the trained method; see `Model.finish`."""

    def reconsider(self, missed: Batches) -> None:
        """Called after calibration: a method that chooses between variants may choose again by missed NOK images."""

    def forget(self) -> None:
        """Drops what was cached by image index."""

    def statistics(self) -> dict[str, nn.Module]:
        """Returns the parts named in `fitted`."""
        return {name: part for name in self.fitted or () if (part := getattr(self, name)) is not None}


class Model(LightningModule):
    """A method with its views, smoothing and image score: the only path from images to maps and scores.

    Training, evaluation, prediction and export all call `forward`, which includes normalisation, test-time
    augmentation, smoothing and the image score.

    Args:
        score: Maps (B, 1, H, W) to image scores (B,).
        augment: Of the training batches.
        tiling: Cuts images into tiles, which the method processes like images.
        region: Inspected region, bool (1, 1, H, W); the map is 0 elsewhere.
    """

    level: Tensor
    evidence: list[dict[str, float]]  # for each image of the last batch, each member's share of the score

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
                    f"{type(method).__name__} is calibrated on all tiles at once: use tiling=grid with "
                    "tiling.statistics=shared, or another detector."
                )
            self.parts = nn.ModuleList(nn.ModuleDict(deepcopy(method.statistics())) for _ in tiling.slots[1:])
            self.register_buffer("level", torch.ones(2))  # mean maxima of OK maps: of tiles, of whole images

    def forward(self, image: Tensor, template: Tensor | None = None, inside: Tensor | None = None) -> Prediction:
        """Computes maps and scores of images (B, 3, H, W) in [0, 1]; `inside`: see Batch."""
        if self.tiling is None:
            return self.finish(self._coarse(self.method, image, template), image.shape[-2:], inside)
        tiles, *whole = self._tiled(image, template)
        if whole:
            tiles = torch.maximum(tiles, whole[0] * (self.level[0] / self.level[1]))
        return self.finish(tiles, image.shape[-2:], inside)

    def _coarse(self, method: Method, image: Tensor, template: Tensor | None) -> Tensor:
        """Reduces the views' maps to one (B, 1, h, w)."""
        maps = []
        for number, view in enumerate(self.views.views):
            viewed = None if template is None else view.apply(template)
            maps.append(view.undo(method.anomaly_map(view.apply(image), viewed, number)))
        return self.views.reduce(maps)

    def _tiled(self, image: Tensor, template: Tensor | None) -> list[Tensor]:
        """Returns the tiles' maps as one (B, 1, H, W) and, with `tiling.full`, the map of the shrunk whole image."""
        tiling = cast(Tiling, self.tiling)
        methods = {number: self._of_slot(slot) for slot, numbers in enumerate(tiling.slots) for number in numbers}
        maps = (
            self._coarse(methods[n], tiling.cut(image, n), None if template is None else tiling.cut(template, n))
            for n in range(len(tiling))
        )
        tiles = tiling.blend(islice(maps, len(tiling.tiles)))
        size = tiles.shape[-2:]
        return [tiles, *(F.interpolate(m.float(), size=size, mode="bilinear", align_corners=False) for m in maps)]

    def _of_slot(self, slot: int) -> Method:
        """Returns the method with the statistics of one slot (tiles that share statistics); the rest is shared."""
        if slot == 0:
            return self.method
        method = copy(self.method)
        method._modules = {**self.method._modules, **self.parts[slot - 1]._modules}
        return method

    def finish(self, coarse: Tensor, size: Sequence[int], inside: Tensor | None = None) -> Prediction:
        """Enlarges a coarse map (B, 1, h, w) to the image's size, smooths it, sets it to 0 outside, and scores it."""
        if self.region is not None and self.region.shape[-2:] == tuple(size):  # not for tiles
            inside = self.region if inside is None else inside.to(self.region.device) & self.region
        if inside is None:
            smooth = self.blur.enlarged(coarse, size)
        else:
            fine = F.interpolate(coarse, size=tuple(size), mode="bilinear", align_corners=False)
            weight = inside.to(fine)
            smooth = weight * self.blur(fine * weight) / self.blur(weight).clamp_min(TINY)
        return Prediction(smooth, self.score(smooth))

    def check(self, size: Sequence[int]) -> None:
        """Raises UserError if images of this height and width are too small."""
        self.blur.check(size if self.tiling is None else self.tiling.size)

    @property
    def needs_template(self) -> bool:
        return self.method.needs_template

    def method_inputs(self, images: ImageSet) -> ImageSet:
        """Returns the images as the method gets them: whole, or as tiles."""
        return images if self.tiling is None else TileSet(images, self.tiling)

    def at_once(self, batch_size: int) -> int:
        """Returns the number of whole images per batch, given the number of images or tiles per batch."""
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
            shares = self._shares_at_peak(image, template, prediction.map)
        self.method.watched = None
        values = {name: share.tolist() for name, share in shares.items()}
        self.evidence = [{name: round(share[k], 4) for name, share in values.items()} for k in range(len(image))]
        return prediction

    def _shares_at_peak(self, image: Tensor, template: Tensor | None, maps: Tensor) -> dict[str, Tensor]:
        """Recomputes the tile that holds the maximum of each image's map, and returns its members' shares."""
        tiling, tiles = cast(Tiling, self.tiling), list[dict[str, Tensor]]()
        for k, peak in enumerate(maps.flatten(1).argmax(1).tolist()):
            number = tiling.number_at(*divmod(peak, maps.shape[-1]))
            slot = next(slot for slot, numbers in enumerate(tiling.slots) if number in numbers)
            self.method.watched = {}
            tile_template = None if template is None else tiling.cut(template[k : k + 1], number)
            self._coarse(self._of_slot(slot), tiling.cut(image[k : k + 1], number), tile_template)
            tiles.append(self.method.watched)
        return {name: torch.cat([shares[name] for shares in tiles]) for name in tiles[0]}

    def prepare(self, batches: Batches) -> None:
        self.method.prepare(batches)

    def calibrate(self, batches: Batches, batch_size: int = 16) -> None:
        """Calibrates the method on OK images, or tiles. `batch_size`: of tiles, where not all share statistics."""
        self.eval()
        self.method.region = self.region if self.tiling is None else None
        if self.tiling is None or len(self.tiling.slots) == 1:
            self.method.calibrate(batches, self.views.views, self.finish)
            return
        self.method.forget()
        images, slots = cast(TileSet, batches.dataset).images, self.tiling.slots
        for slot, numbers in enumerate(tqdm(slots, "tiles", delay=2, leave=False)):
            method = self._of_slot(slot)
            tiles = cast(Batches, loader(TileSet(images, self.tiling, numbers), batch_size))
            method.calibrate(tiles, self.views.views, self.finish)
            self._check_memory(method, self.tiling)
        if self.tiling.full:
            self._fit_level(images)

    def _check_memory(self, method: Method, tiling: Tiling) -> None:
        tensors, slots = nn.ModuleDict(method.statistics()).state_dict().values(), len(tiling.slots)
        size = slots * sum(t.numel() * t.element_size() for t in tensors) / 2**20
        if tiling.own and size > tiling.limit_mb:
            raise UserError(
                f"Separate statistics of each of {slots} tiles would take {size:.0f} MB, and tiling.limit_mb allows "
                f"{tiling.limit_mb:g}: use tiling.statistics=shared, or detector=patchcore with a small "
                "detector.bank, which needs the least memory."
            )

    @torch.inference_mode()
    def _fit_level(self, images: ImageSet) -> None:
        """Measures how high the maps of tiles and of whole images rise on OK images, to make them comparable."""
        step, maxima = -(-len(images) // LEVEL_IMAGES), []
        for index in range(0, len(images), step):
            batch = images[[index]]
            template = None if batch.template is None else batch.template.to(self.device)
            maps, counted = self._tiled(batch.image.to(self.device), template), batch.counted(self.region)
            maxima.append([float((m if counted is None else m * counted.to(m)).amax()) for m in maps])
        self.level.copy_(torch.tensor(maxima).mean(0).clamp_min(TINY))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments training batches; the seed depends on the step, so that a resumed training repeats it."""
        if self.augment is None or not self.trainer.training:
            return batch
        return self.augment(batch, self.trainer.global_step, self.global_rank)

    def training_step(self, batch: Batch, step: int) -> Tensor:
        loss = self._log_loss("train_loss", self.method.training_step(batch), batch)
        file = Path(self.trainer.default_root_dir) / f"diverged{self.global_rank or ''}.safetensors"
        remedy = "Lower the learning rate (detector.optimizer.lr), raise batch_size"
        stop_where_diverged(loss, batch.image, file, f"epoch {self.current_epoch + 1}", remedy)
        return loss

    def on_train_epoch_end(self) -> None:
        self.method.epoch_end()

    def validation_step(self, batch: Batch, step: int) -> None:
        self._log_loss("val_loss", self.method.validation_loss(batch), batch)

    def configure_optimizers(self) -> Any:
        return self.method.configure_optimizers(int(self.trainer.estimated_stepping_batches))

    def _log_loss(self, name: str, loss: Tensor, batch: Batch) -> Tensor:
        self.log(name, loss, on_step=False, on_epoch=True, batch_size=len(batch), prog_bar=True, sync_dist=True)
        return loss


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """Averages losses (B,) with weights (B,): a sample of weight 2 counts as two samples of weight 1.

    If several processes hold parts of the batch, the mean of their results is that of the whole batch.
    """
    total = weight.sum()
    if dist.is_available() and dist.is_initialized():
        total = total.detach().clone()
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return (losses * weight).sum() / total.clamp_min(1e-12)
