"""The members of a fusion as one view of the product needs them: fitted, judged by folds, and made one map."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.detectors.evidence import BLOCK, Evidence, Gaussians
from anomalib_lite.detectors.learned import Networks, drawn_places
from anomalib_lite.detectors.looks import Looks
from anomalib_lite.detectors.statistics import NamedModules
from anomalib_lite.runs.folder import give_back

# the calibrated maximum, the logarithm of the sum of exponentials, the weighted mean, that of what is unusual
HOW = ("max", "lse", "sum", "soft")
LEARNED = "learned"
SPILL, LOWERED = 0.15, 0.3  # reach, as a share of the image, and share, see `sharpened`
STEP = 31  # of the OK places, one in so many judges a map


@dataclass(frozen=True)
class Shown:
    """What a fusion learns from, as one view sees it; (N, C, h, w) by look, in half precision.

    ok: of OK images. drawn: of copies with a drawn defect. mask: (M, 1, h, w), the share of each place of the finest
    grid that is defective. family: of the drawn defects (M,). source: numbers (M,) of the images they are drawn into.
    fold: numbers (N,) of the parts by which OK images are held out; copies of an image are in its part.
    """

    ok: Looks
    drawn: Looks
    mask: Tensor
    family: Tensor
    source: Tensor
    fold: Tensor


@dataclass
class Maps:
    """A member's maps of images that it has not learned from, (N, 1, h, w) and (M, 1, h, w)."""

    ok: Tensor
    drawn: Tensor


class Members(nn.Module):
    """Evidence by name, perhaps networks that learn from its deviations, and how their maps become one.

    Each map counts in units of what OK images show that it has not learned from: the mean of their maxima is 0, their
    standard deviation 1.
    """

    centre: Tensor
    spread: Tensor
    taken: Tensor
    how: Tensor

    def __init__(self, evidence: Mapping[str, Evidence], learned: bool) -> None:
        super().__init__()
        self.evidence = NamedModules[Evidence]({name: deepcopy(own) for name, own in evidence.items()})
        self.names = [*evidence, *([LEARNED] if learned else [])]
        self.sources = [name for name, own in evidence.items() if isinstance(own, Gaussians)] if learned else []
        self.networks: Networks | None = None
        for name, start in (("centre", 0.0), ("spread", 1.0), ("taken", 1.0)):
            self.register_buffer(name, torch.full((len(self.names),), start))
        self.register_buffer("how", torch.tensor(0))
        self.settled: tuple[list[str], str] | None = None

    def knows_place(self, name: str) -> bool:
        """Of a member; networks learn from those that do."""
        return name == LEARNED or self.evidence[name].knows_place

    def equip(self, channels: Mapping[str, int], count: int) -> None:
        """Makes the networks. channels: by look."""
        if self.sources:
            self.networks = Networks({name: channels[self.evidence[name].of] for name in self.sources}, count)

    def take(self, members: Sequence[str], how: str) -> None:
        self.how.fill_(HOW.index(how))
        self.taken.copy_(torch.tensor([float(name in members) for name in self.names]))

    def settle(self) -> None:
        """Reads for good who takes part and how: a graph that is exported cannot ask its tensors."""
        self.settled = self._chosen()

    def _chosen(self) -> tuple[list[str], str]:
        taken = [name for name, share in zip(self.names, self.taken.tolist(), strict=True) if share]
        return taken, HOW[int(self.how)]

    def fit(self, shown: Shown, placed: bool, seed: int) -> dict[str, Maps]:
        """Fits all members, and returns their maps of images that they have not learned from.

        Each of the looks is dropped behind the last member that judges by it: they are most of what a training holds.
        """
        maps, ok_deviations, drawn_deviations = {}, [], []
        last = {own.of: name for name, own in self.evidence.items()}
        for name, own in self.evidence.items():
            maps[name], deviations = _held_out(own, shown, placed)
            own.fit(shown.ok[own.of], placed)
            if last[own.of] == name:
                del shown.ok[own.of], shown.drawn[own.of]
            if name in self.sources:
                ok_deviations.append(deviations.ok)
                drawn_deviations.append(deviations.drawn)
            del deviations
            give_back()
        if self.networks is not None:
            maps[LEARNED] = _learn(self.networks, ok_deviations, drawn_deviations, shown, seed)
            ok_deviations.clear()
            drawn_deviations.clear()
            give_back()
        for place, name in enumerate(self.names):
            maxima = maps[name].ok.flatten(1).amax(1)
            self.centre[place] = maxima.mean()
            self.spread[place] = maxima.std(correction=0).clamp_min(1e-3) if len(maxima) > 1 else 1.0
            pair = maps[name]
            pair.ok, pair.drawn = (
                sharpened(m.sub_(self.centre[place]).div_(self.spread[place])) for m in (pair.ok, pair.drawn)
            )
        return maps

    def fused(self, maps: Mapping[str, Tensor]) -> Tensor:
        """One map (B, 1, h, w) in units of held-out OK maxima."""
        return fuse(maps, (self.settled or self._chosen())[1])

    def shares(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each member's share (B,) in the highest place of the map; they add up to 1."""
        how = HOW[int(self.how)]
        place = fuse(maps, how).flatten(1).argmax(1, keepdim=True)
        there = torch.cat([own.flatten(1).gather(1, place) for own in maps.values()], 1)
        if how in ("sum", "soft"):
            parts = unusual(there) * torch.tensor(_weights(list(maps)))
            there = (parts / parts.sum(1, keepdim=True)).T
        else:
            there = there.softmax(1).T
        return dict(zip(maps, there, strict=True))

    def maps(self, looks: Looks) -> dict[str, Tensor]:
        """Each member's map (B, 1, h, w) that takes part, in units of held-out OK maxima."""
        grid, deviations, maps = looks["fine"].shape[-2:], {}, {}
        taken, _ = self.settled or self._chosen()
        for name, own in self.evidence.items():
            if isinstance(own, Gaussians) and LEARNED in taken:
                deviations[name] = own.deviations(looks[own.of])
            if name in taken:
                known = deviations.get(name)
                distance = own.distance(looks[own.of]) if known is None else known.square().mean(1, keepdim=True)
                maps[name] = own.smoothed(distance, grid)
        if LEARNED in taken and self.networks is not None:
            maps[LEARNED] = self.networks(list(deviations.values()))
        places = {name: place for place, name in enumerate(self.names)}
        chosen = [places[name] for name in maps]
        centre, spread = (part[chosen].view(1, -1, 1, 1) for part in (self.centre, self.spread))
        units = sharpened((torch.cat(list(maps.values()), 1) - centre) / spread)
        return dict(zip(maps, units.split(1, 1), strict=True))


def fuse(maps: Mapping[str, Tensor], how: str) -> Tensor:
    """Maps of one shape by member, in units of held-out OK maxima, made one.

    max forgives a member that knows nothing, sum finds what all know a little of and where exactly it is; soft is the
    sum of what exceeds the usual, so that no member that knows nothing holds others down. What is learned counts as
    much in sums as all other members together.
    """
    beside = torch.cat(list(maps.values()), 1)
    if how == "max":
        return beside.amax(1, keepdim=True)
    if how == "lse":
        return beside.logsumexp(1, keepdim=True)
    beside = unusual(beside) if how == "soft" else beside
    return (beside * beside.new_tensor(_weights(list(maps))).view(-1, 1, 1)).sum(1, keepdim=True)


def sharpened(map: Tensor) -> Tensor:
    """Maps (B, C, h, w), each place lowered by a share of what it lies below the highest place around it.

    What spills over from a large defect then ranks below a small defect of another image. The maximum stays.
    """
    reach = round(SPILL * min(map.shape[-2:]))
    highest = F.max_pool2d(map, (2 * reach + 1, 1), 1, (reach, 0))
    highest = F.max_pool2d(highest, (1, 2 * reach + 1), 1, (0, reach))
    return map - LOWERED * (highest - map)


def unusual(map: Tensor) -> Tensor:
    """Near 0 where a map is below what OK images show at most, and the map itself above that."""
    return F.softplus(2 * map) / 2


def _weights(names: Sequence[str]) -> list[float]:
    """In a sum, of each member."""
    others = len(names) - (LEARNED in names)
    total = (LEARNED in names) + (others > 0)
    if LEARNED not in names:
        return [1 / others] * others
    return [1 / total if name == LEARNED else 1 / (total * others) for name in names]


def _held_out(own: Evidence, shown: Shown, placed: bool) -> tuple[Maps, Maps]:
    """The maps, and for Gaussians the deviations, of OK and drawn images by twins that know neither."""
    grid = shown.mask.shape[-2:]
    ok, drawn = shown.ok[own.of], shown.drawn[own.of]
    maps = Maps(torch.zeros(len(ok), 1, *grid), torch.zeros(len(drawn), 1, *grid))
    deviations = Maps(torch.empty(0), torch.empty(0))
    if isinstance(own, Gaussians):
        deviations = Maps(torch.empty_like(ok), torch.empty_like(drawn))  # which take memory as they are filled
    for fold in shown.fold.unique():
        twin = deepcopy(own)
        twin.fit(ok[shown.fold != fold], placed)
        give_back()
        for name, looks, held in (("ok", ok, shown.fold == fold), ("drawn", drawn, shown.fold[shown.source] == fold)):
            for block in _blocks(held):
                if isinstance(twin, Gaussians):
                    found = twin.deviations(looks[block])
                    getattr(deviations, name)[block] = found.half()
                    distance = found.square().mean(1, keepdim=True)
                else:
                    distance = twin.distance(looks[block].float())
                getattr(maps, name)[block] = twin.smoothed(distance, grid)
    return maps, deviations


def _learn(networks: Networks, ok: list[Tensor], drawn: list[Tensor], shown: Shown, seed: int) -> Maps:
    """Trains each network on two thirds of the images and kinds; it judges the others."""
    found = Maps(torch.zeros(len(shown.fold), 1, *shown.mask.shape[-2:]), torch.zeros_like(shown.mask))
    part, kind = shown.fold % networks.count, shown.family % networks.count
    generator = torch.Generator().manual_seed(seed)
    for number in range(networks.count):
        rows = [*_places(ok, part != number, None, generator)]
        rows += _places(drawn, (part[shown.source] != number) & (kind != number), shown.mask, generator)
        places, labels = (torch.cat(x) for x in zip(*rows, strict=True))
        rows.clear()
        networks.learn(number, places, labels, seed + number)
        del places, labels
        give_back()
        for own, chosen, into in ((ok, part == number, found.ok), (drawn, kind == number, found.drawn)):
            for block in _blocks(chosen, BLOCK // 2):
                into[block] = networks([d[block] for d in own], number)
    return found


def _places(
    deviations: Sequence[Tensor], chosen: Tensor, mask: Tensor | None, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    for block in _blocks(chosen):
        covered = torch.zeros(len(block), 1, *deviations[0].shape[-2:]) if mask is None else mask[block]
        yield drawn_places([d[block] for d in deviations], covered, generator)


def _blocks(chosen: Tensor, size: int = BLOCK) -> tuple[Tensor, ...]:
    numbers = chosen.nonzero()[:, 0]
    return numbers.split(size) if len(numbers) else ()


@dataclass(frozen=True)
class Verdict:
    """How well a map tells drawn defects from OK images.

    Attributes:
        image_auroc: Of the maxima.
        aupro: Per-region overlap up to a false-positive rate of 0.3, each defect one region.
        each: What each defect adds to the two, of which the first counts twice: found counts more than found exactly.
    """

    image_auroc: float
    aupro: float
    each: Tensor

    @property
    def worth(self) -> float:
        return float(self.each.mean())


def judge(ok: Tensor, drawn: Tensor, mask: Tensor) -> Verdict:
    """Maps (N, 1, h, w) of OK images and of drawn defects, both held out; what lies beside a defect is OK.

    mask: the share of each place that is defective.
    """
    bad, good = (mask > 0.4).flatten(1), (mask == 0).flatten(1)
    seen = bad.any(1)
    top, tops = ok.flatten(1).amax(1).sort().values, drawn.flatten(1).amax(1)
    areas = share_below(top, tops[seen])
    usual = torch.cat([ok.flatten()[::STEP], drawn.flatten(1)[good][::STEP]]).sort().values
    above = torch.ones_like(bad, dtype=torch.float32)
    above[bad] = 1 - share_below(usual, drawn.flatten(1)[bad])
    overlaps = ((1 - above[seen] / 0.3).clamp_min(0) * bad[seen]).sum(1) / bad[seen].sum(1)
    if not len(areas):  # nothing was drawn that shows
        return Verdict(0.5, 0.5, torch.full((1,), 0.5))
    return Verdict(float(areas.mean()), float(overlaps.mean()), (2 * areas + overlaps) / 3)


def share_below(known: Tensor, asked: Tensor) -> Tensor:
    """Of sorted values (N,), the share that lies below each of those asked for; ties count half."""
    low, high = (torch.searchsorted(known, asked, right=right) for right in (False, True))
    return (low + high) / (2 * len(known))
