"""Members of a fusion for one view of test-time augmentation: fitting, held-out maps and the rules that fuse maps."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm, trange

from anomalib_lite.detectors.evidence import BLOCK, Evidence, Gaussians
from anomalib_lite.detectors.feature_maps import FeatureMaps
from anomalib_lite.detectors.learned import Networks, sample_positions
from anomalib_lite.detectors.statistics import NamedModules
from anomalib_lite.runs.folder import release_memory

# maximum, log-sum-exp, weighted mean, weighted mean of the soft excess; all of calibrated maps
RULES = ("max", "lse", "sum", "soft")
LEARNED = "learned"
SPILL_REACH, SPILL_SHARE = 0.15, 0.3  # window radius as a share of the image, and factor; see `sharpened`
PIXEL_STEP = 31  # `evaluate` uses every 31st OK position


@dataclass(frozen=True)
class TrainingData:
    """Training data of a fusion for one view of test-time augmentation; feature maps are in half precision."""

    ok: FeatureMaps  # of OK images (N, C, h, w)
    drawn: FeatureMaps  # of copies with a drawn defect (M, C, h, w)
    mask: Tensor  # (M, 1, h, w), the defective share of each position of the finest grid
    family: Tensor  # (M,), the family of each drawn defect
    source: Tensor  # (M,), the index of the OK image that each defect is drawn into
    fold: Tensor  # (N,), the cross-validation fold of each OK image; its copies belong to the same fold


@dataclass
class HeldOutMaps:
    """A member's maps of images that it was not fitted to: (N, 1, h, w) of OK images, (M, 1, h, w) of drawn defects."""

    ok: Tensor
    drawn: Tensor


class Members(nn.Module):
    """The members of a fusion: evidence by name, and networks trained on the evidence's deviations.

    Each member's map is calibrated on held-out OK images, so that the maxima of their maps have mean 0 and standard
    deviation 1. `channels` of the feature maps, by name, are for the networks; None: no networks.
    """

    centre: Tensor
    spread: Tensor
    taken: Tensor
    how: Tensor

    def __init__(self, evidence: Mapping[str, Evidence], channels: Mapping[str, int] | None) -> None:
        super().__init__()
        self.evidence = NamedModules[Evidence]({name: deepcopy(e) for name, e in evidence.items()})
        self.names = [*evidence, *([] if channels is None else [LEARNED])]
        inputs = {n: channels[e.of] for n, e in evidence.items() if isinstance(e, Gaussians)} if channels else {}
        self.networks = Networks(inputs) if inputs else None
        for name, start in (("centre", 0.0), ("spread", 1.0), ("taken", 1.0)):
            self.register_buffer(name, torch.full((len(self.names),), start))
        self.register_buffer("how", torch.tensor(0))
        self.final: tuple[list[str], str] | None = None  # names and rule, see `freeze_selection`

    def uses_position(self, name: str) -> bool:
        """Whether a member has separate statistics for each position; the networks do, through their inputs."""
        return name == LEARNED or self.evidence[name].uses_position

    def select(self, members: Sequence[str], how: str) -> None:
        """Selects the members and the rule that `maps` and `fused` use."""
        self.how.fill_(RULES.index(how))
        self.taken.copy_(torch.tensor([float(name in members) for name in self.names]))

    def freeze_selection(self) -> None:
        """Freezes the selection as Python values, because an exported graph cannot branch on tensors."""
        self.final = self._selection()

    def _selection(self) -> tuple[list[str], str]:
        if self.final is not None:
            return self.final
        taken = [name for name, share in zip(self.names, self.taken.tolist(), strict=True) if share]
        return taken, RULES[int(self.how)]

    def fit(self, data: TrainingData, aligned: bool, seed: int) -> dict[str, HeldOutMaps]:
        """Fits all members and returns their maps of held-out images.

        Feature maps take most of the memory, so each is deleted from `data` after the last member that uses it.
        `aligned`: a position shows the same part of the product in all images.
        """
        maps, ok_deviations, drawn_deviations = {}, [], []
        last = {evidence.of: name for name, evidence in self.evidence.items()}
        for name, evidence in tqdm(self.evidence.items(), "members of the fusion", delay=2, leave=False):
            maps[name], deviations = _cross_fit(evidence, data, aligned)
            evidence.fit(data.ok[evidence.of], aligned)
            if last[evidence.of] == name:
                del data.ok[evidence.of], data.drawn[evidence.of]
            if self.networks is not None and isinstance(evidence, Gaussians):
                ok_deviations.append(deviations.ok)
                drawn_deviations.append(deviations.drawn)
            del deviations
            release_memory()
        if self.networks is not None:
            maps[LEARNED] = _train_networks(self.networks, ok_deviations, drawn_deviations, data, seed)
            ok_deviations.clear()
            drawn_deviations.clear()
            release_memory()
        for k, name in enumerate(self.names):
            pair = maps[name]
            maxima = pair.ok.flatten(1).amax(1)
            self.centre[k] = maxima.mean()
            self.spread[k] = maxima.std(correction=0).clamp_min(1e-3) if len(maxima) > 1 else 1.0
            pair.ok, pair.drawn = (
                sharpened(m.sub_(self.centre[k]).div_(self.spread[k])) for m in (pair.ok, pair.drawn)
            )
        return maps

    def fused(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Fuses members' maps into one (B, 1, h, w), in units of held-out OK maxima."""
        return fuse(maps, self._selection()[1])

    def shares(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns each member's share (B,) of the fused map at its maximum; the shares add up to 1."""
        rule = self._selection()[1]
        peak = fuse(maps, rule).flatten(1).argmax(1, keepdim=True)
        values = torch.cat([scores.flatten(1).gather(1, peak) for scores in maps.values()], 1)
        if rule in ("sum", "soft"):
            parts = soft_excess(values) * values.new_tensor(_weights(list(maps)))
            values = (parts / parts.sum(1, keepdim=True)).T
        else:
            values = values.softmax(1).T
        return dict(zip(maps, values, strict=True))

    def maps(self, features: FeatureMaps) -> dict[str, Tensor]:
        """Returns the calibrated map (B, 1, h, w) of each selected member."""
        grid, deviations, maps = features["fine"].shape[-2:], {}, {}
        selected, _ = self._selection()
        for name, evidence in self.evidence.items():
            if isinstance(evidence, Gaussians) and LEARNED in selected:
                deviations[name] = evidence.deviations(features[evidence.of])
            if name in selected:
                d = deviations.get(name)
                distance = evidence.distance(features[evidence.of]) if d is None else d.square().mean(1, keepdim=True)
                maps[name] = evidence.smoothed(distance, grid)
        if LEARNED in selected and self.networks is not None:
            maps[LEARNED] = self.networks(list(deviations.values()))
        rows = [self.names.index(name) for name in maps]
        centre, spread = (values[rows].view(1, -1, 1, 1) for values in (self.centre, self.spread))
        units = sharpened((torch.cat(list(maps.values()), 1) - centre) / spread)
        return dict(zip(maps, units.split(1, 1), strict=True))


def fuse(maps: Mapping[str, Tensor], rule: str) -> Tensor:
    """Fuses calibrated maps of one shape, given by member, into one.

    `max` ignores members that do not respond. `sum` finds and locates defects to which all members respond a little.
    `soft` sums only what exceeds normal values, so that members that do not respond cannot cancel others. In the sums
    the networks weigh as much as all other members together.
    """
    stacked = torch.cat(list(maps.values()), 1)
    if rule == "max":
        return stacked.amax(1, keepdim=True)
    if rule == "lse":
        return stacked.logsumexp(1, keepdim=True)
    stacked = soft_excess(stacked) if rule == "soft" else stacked
    return (stacked * stacked.new_tensor(_weights(list(maps))).view(-1, 1, 1)).sum(1, keepdim=True)


def sharpened(maps: Tensor) -> Tensor:
    """Lowers each position of maps (B, C, h, w) by a share of its distance to the maximum around it.

    Blur around a large defect then ranks below a small defect of another image. Maxima stay the same.
    """
    reach = round(SPILL_REACH * min(maps.shape[-2:]))
    highest = F.max_pool2d(maps, (2 * reach + 1, 1), 1, (reach, 0))
    highest = F.max_pool2d(highest, (1, 2 * reach + 1), 1, (0, reach))
    return maps - SPILL_SHARE * (highest - maps)


def soft_excess(maps: Tensor) -> Tensor:
    """A smooth ReLU: about 0 below the usual maximum of OK images, the map itself above it."""
    return F.softplus(2 * maps) / 2


def _weights(names: Sequence[str]) -> list[float]:
    """Returns the weight of each member in a sum."""
    others = len(names) - (LEARNED in names)
    total = (LEARNED in names) + (others > 0)
    return [1 / total if name == LEARNED else 1 / (total * others) for name in names]


def _cross_fit(evidence: Evidence, data: TrainingData, aligned: bool) -> tuple[HeldOutMaps, HeldOutMaps]:
    """Computes maps, and for Gaussians deviations, of OK and drawn images with copies fitted without their fold."""
    grid = data.mask.shape[-2:]
    ok, drawn = data.ok[evidence.of], data.drawn[evidence.of]
    maps = HeldOutMaps(torch.zeros(len(ok), 1, *grid), torch.zeros(len(drawn), 1, *grid))
    deviations = HeldOutMaps(torch.empty_like(ok), torch.empty_like(drawn))  # memory is only taken when filled
    for fold in data.fold.unique():
        model = deepcopy(evidence)
        model.fit(ok[data.fold != fold], aligned)
        release_memory()
        for name, features, rows in (("ok", ok, data.fold == fold), ("drawn", drawn, data.fold[data.source] == fold)):
            for batch in _batches(rows):
                if isinstance(model, Gaussians):
                    values = model.deviations(features[batch])
                    getattr(deviations, name)[batch] = values.half()
                    distance = values.square().mean(1, keepdim=True)
                else:
                    distance = model.distance(features[batch].float())
                getattr(maps, name)[batch] = model.smoothed(distance, grid)
    return maps, deviations


def _train_networks(
    networks: Networks, ok: list[Tensor], drawn: list[Tensor], data: TrainingData, seed: int
) -> HeldOutMaps:
    """Trains each network without one part of the images and of the defect families, and returns its maps of these."""
    maps = HeldOutMaps(torch.zeros(len(data.fold), 1, *data.mask.shape[-2:]), torch.zeros_like(data.mask))
    part, family = data.fold % networks.count, data.family % networks.count
    generator = torch.Generator().manual_seed(seed)
    for number in trange(networks.count, desc="networks of the fusion", delay=2, leave=False):
        samples = [*_sample_batches(ok, part != number, None, generator)]
        samples += _sample_batches(drawn, (part[data.source] != number) & (family != number), data.mask, generator)
        positions, labels = (torch.cat(x) for x in zip(*samples, strict=True))
        samples.clear()
        networks.learn(number, positions, labels, seed + number)
        del positions, labels
        release_memory()
        for deviations, held_out, target in ((ok, part == number, maps.ok), (drawn, family == number, maps.drawn)):
            for batch in _batches(held_out, BLOCK // 2):
                target[batch] = networks([d[batch] for d in deviations], number)
    return maps


def _sample_batches(
    deviations: Sequence[Tensor], selected: Tensor, mask: Tensor | None, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in _batches(selected):
        covered = torch.zeros(len(batch), 1, *deviations[0].shape[-2:]) if mask is None else mask[batch]
        yield sample_positions([d[batch] for d in deviations], covered, generator)


def _batches(selected: Tensor, size: int = BLOCK) -> tuple[Tensor, ...]:
    """Splits the indices of the selected images into batches."""
    indices = selected.nonzero()[:, 0]
    return indices.split(size) if len(indices) else ()


@dataclass(frozen=True)
class Verdict:
    """How well a map separates drawn defects from OK images."""

    image_auroc: float  # of the maps' maxima
    aupro: float  # per-region overlap up to a false-positive rate of 0.3, each defect one region
    per_defect: Tensor  # each visible defect's image AUROC, weighted 2/3, plus its overlap, weighted 1/3


def evaluate(ok: Tensor, drawn: Tensor, mask: Tensor) -> Verdict:
    """Evaluates held-out maps (N, 1, h, w) of OK images and (M, 1, h, w) of drawn defects.

    `mask` (M, 1, h, w) holds the defective share of each position; pixels outside a defect count as OK.
    """
    defective, good = (mask > 0.4).flatten(1), (mask == 0).flatten(1)
    visible = defective.any(1)
    ok_maxima, drawn_maxima = ok.flatten(1).amax(1).sort().values, drawn.flatten(1).amax(1)
    aurocs = share_below(ok_maxima, drawn_maxima[visible])
    normal = torch.cat([ok.flatten()[::PIXEL_STEP], drawn.flatten(1)[good][::PIXEL_STEP]]).sort().values
    rate = torch.ones_like(defective, dtype=torch.float32)
    rate[defective] = 1 - share_below(normal, drawn.flatten(1)[defective])
    overlaps = ((1 - rate[visible] / 0.3).clamp_min(0) * defective[visible]).sum(1) / defective[visible].sum(1)
    if not len(aurocs):  # no drawn defect is visible
        return Verdict(0.5, 0.5, torch.full((1,), 0.5))
    return Verdict(float(aurocs.mean()), float(overlaps.mean()), (2 * aurocs + overlaps) / 3)


def share_below(values: Tensor, queries: Tensor) -> Tensor:
    """Returns the share of sorted values (N,) that lies below each query; ties count half."""
    low, high = (torch.searchsorted(values, queries, right=right) for right in (False, True))
    return (low + high) / (2 * len(values))
