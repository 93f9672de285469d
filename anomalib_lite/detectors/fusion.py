"""Fusion: several kinds of evidence in common units, and networks that learn from drawn defects, made one map."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from anomalib_lite.augment.synthetic import FAMILIES, synthesize
from anomalib_lite.augment.tta import View
from anomalib_lite.backbones import Backbone
from anomalib_lite.data.images import ImageSet, at_once, to_float, to_pixels
from anomalib_lite.detectors.evidence import Evidence, place_counts
from anomalib_lite.detectors.levels import size_of
from anomalib_lite.detectors.looks import Looker, Looks
from anomalib_lite.detectors.members import HOW, LEARNED, Maps, Members, Shown, Verdict, fuse, judge, share_below
from anomalib_lite.detectors.model import Batches, Finish, Method
from anomalib_lite.detectors.statistics import PerView
from anomalib_lite.detectors.template import TemplateComparison
from anomalib_lite.errors import UserError
from anomalib_lite.runs.folder import give_back

log = logging.getLogger(__name__)
Pair = tuple[Tensor, Tensor | None]  # images (B, 3, H, W) and their templates

FOLDS, NETWORKS = 4, 3
PLAIN = View()
FEW, COPIES = 3, 4  # of fewer OK images than the first, so many shifted and relit copies are learned from
ENOUGH = 32  # OK images; of fewer, nothing is chosen
LISTED = 12  # trials that are told
BATCH = 16  # images that are looked at at once
PROBED = 24  # images that tell whether the place means anything
PRICE = 0.02  # by how much it may be worse on drawn defects, for telling NOK images better that were passed


class Fusion(Method):
    """The map is made of several members' maps, each in units of what OK images show that it has not learned from.

    Which members take part, and how their maps become one, is chosen on OK images with drawn defects: each member is
    judged on images, and the networks on kinds of defects, that they have not learned from.

    Args:
        backbone: Makes the network.
        members: Evidence by name.
        learned: Whether networks learn from drawn defects, as one more member.
        use: Names of the members that may take part; None: all.
        how: `max`, `lse`, `sum` or `soft`, see `members.fuse`, of all members; or `auto`: the choice.
        channels: Of the finest layer, and of the others together, that are kept.
        compare: Makes the comparison that members of the look `template` judge by; it wants mode=template.
        drawn: Defects that are drawn, at least and at most; two for each image in between.
        cache_mb: Memory for the looks that are learned from.
    """

    fitted = ("members",)

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        members: Mapping[str, Evidence],
        learned: bool = True,
        use: Sequence[str] | None = None,
        how: str = "auto",
        channels: int = 160,
        compare: Callable[..., TemplateComparison] | None = None,
        drawn: Sequence[int] = (160, 500),
        cache_mb: float = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__()
        names = [*members, *([LEARNED] if learned else [])]
        if how not in ("auto", *HOW):  # else anything would mean `sum`
            raise UserError(f"detector.how must be auto, {', '.join(HOW)}, not '{how}'.")
        if wrong := [name for name in use or () if name not in names] or (use is not None and not use):
            raise UserError(f"detector.use={list(use or [])} must name some of {', '.join(names)}: {wrong}.")
        self.looker = Looker(backbone, channels, seed, compare)
        self.needs_template = compare is not None
        self.use, self.how, self.drawn, self.cache_mb, self.seed = list(use or names), how, drawn, cache_mb, seed
        self.members = PerView(partial(self._members, members, learned))

    def _members(self, evidence: Mapping[str, Evidence], learned: bool) -> Members:
        made = Members(evidence, learned)
        made.equip(self.looker.channels, NETWORKS)
        return made

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        members, looks = self.members[view], self.looker(image, template)
        maps = members.maps(looks)
        if self.watched is not None and view == 0:
            self.watched |= members.shares(maps)
        return F.softplus(members.fused(maps))

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        images, device = batches.dataset, self.device
        self.members.reset(len(views))
        self.members.to(device)
        first = self.members[0]
        for members, view in zip(self.members, views, strict=True):
            begin = time.perf_counter()
            shown = self._show(images, view)
            give_back()
            if members is first:
                share, placed = self._place_counts(images, shown)
                give_back()
            maps = members.cpu().fit(shown, placed, self.seed)
            give_back()
            if members is first:
                use, chosen = self.use, self.how != "auto" or len(images) >= ENOUGH
                if placed and not chosen:  # what ignores the place knows least of an aligned product
                    use = [name for name in use if members.knows_place(name)] or use
                self.trials = choose(maps, shown, use, self.how if chosen else HOW[-1])
                self.notes = {"choice": _told(self.trials, share, placed, chosen, time.perf_counter() - begin)}
            members.take(self.trials[0].members, self.trials[0].how)
            members.to(device)

    @torch.no_grad()
    def reconsider(self, missed: Batches) -> None:
        """Takes the fusion that most OK images lie below the missed ones by, of those as good on drawn defects."""
        members, known, before = self.members[0], self.notes["choice"], self.trials[0]
        members.take(self.use, before.how)
        seen = [members.maps(self._look(b.image, b.template)) for b in missed]
        maps = {name: torch.cat([part[name].cpu() for part in seen]) for name in self.use}

        def found(trial: Trial) -> float:
            tops = fuse({name: maps[name] for name in trial.members}, trial.how).flatten(1).amax(1)
            return float(share_below(trial.tops, tops).mean())

        near = [trial for trial in self.trials if trial.worth >= before.worth - PRICE]
        best = max(near, key=lambda trial: (found(trial), trial.worth))
        best = best if found(best) > found(before) else before
        for own in self.members:
            own.take(best.members, best.how)
        kept = f"{before.name} stays: no fusion as good on drawn defects tells"
        said = kept if best is before else f"{best.name} was taken in place of {before.name}, since it tells"
        words = (
            f"{said} the {len(missed.dataset)} NOK images better that were passed. Below them lie {found(best):.1%} of "
            f"the OK images, {found(before):.1%} before; on drawn defects it is worth {best.worth:.4f}, before "
            f"{before.worth:.4f}."
        )
        log.warning("%s", words)
        listed = [row | {"taken": row["name"] == best.name} for row in known["candidates"]]
        self.notes = {"choice": {"candidates": listed, "words": f"{known['words']} {words}"}}

    def _place_counts(self, images: ImageSet, shown: Shown) -> tuple[float, bool]:
        """See `evidence.place_counts`; pictures that are not square can only be turned by half."""
        if len(images) < FEW:
            return place_counts([[shown.ok["fine"], shown.ok["deep"]]], self.seed)
        probed = torch.linspace(0, len(images) - 1, min(len(images), PROBED)).round().long().tolist()
        image, turned = images[probed].image, []
        size = -(-at_once(BATCH, images.size) // 2)  # all turns are kept beside what a pass takes
        for turn in range(0, 4, 1 if image.shape[-1] == image.shape[-2] else 2):
            looks = [self.looker.features(part.to(self.device)) for part in image.rot90(turn, (2, 3)).split(size)]
            turned.append([torch.cat([look[name].cpu() for look in looks]) for name in ("fine", "deep")])
        give_back()
        return place_counts(turned, self.seed)

    def _show(self, images: ImageSet, view: View) -> Shown:
        """Looks of the OK images and of copies with drawn defects, as many as the memory holds."""
        used, count = self._that_fit(images)
        rng = np.random.default_rng(self.seed)
        size = at_once(BATCH, images.size)
        parts = [part.tolist() for part in used.split(size)]
        shown = (images[part] for part in parts)
        seen = ((_varied(b.image, rng) if len(images) < FEW else b.image, b.template) for b in shown)
        ok = self._gather(seen, view, "OK images", len(parts))
        source = torch.arange(count) % len(used)
        family = torch.from_numpy(rng.permutation(count) % len(FAMILIES))
        masks: list[Tensor] = []
        blocks = list(zip(source.split(size), family.split(size), strict=True))
        pictures = (_drawn(images, used[one], kinds.tolist(), rng, masks) for one, kinds in blocks)
        drawn = self._gather(pictures, view, "drawn defects", len(blocks))
        grid = size_of(ok["fine"])
        mask = torch.cat([F.adaptive_avg_pool2d(view.undo(part.float()), grid) for part in masks])
        return Shown(ok, drawn, mask, family, source, torch.arange(len(used)) % min(FOLDS, len(used)))

    def _that_fit(self, images: ImageSet) -> tuple[Tensor, int]:
        """Numbers of the images that are learned from, evenly drawn, and how many defects are drawn."""
        first = images[[0]]
        looks = self._look(first.image, first.template).values()
        size = sum(look.numel() for look in looks) * 4 / 2**20  # in half precision, looks and deviations
        fit, wanted = max(2, int(self.cache_mb / size)), min(max(2 * len(images), self.drawn[0]), self.drawn[1])
        count = min(len(images), max(fit // 2, fit - wanted))
        few = torch.arange(COPIES) % len(images)
        numbers = few if len(images) < FEW else torch.linspace(0, len(images) - 1, count).round().long()
        return numbers, min(wanted, max(1, fit - count))

    def _look(self, image: Tensor, template: Tensor | None, view: View = PLAIN) -> Looks:
        seen = None if template is None or not self.needs_template else view.apply(template.to(self.device))
        return self.looker(view.apply(image.to(self.device)), seen)

    def _gather(self, pictures: Iterable[Pair], view: View, what: str, count: int) -> Looks:
        gathered: dict[str, list[Tensor]] = {}
        for image, template in tqdm(pictures, f"{what}, {view.label}", count, delay=2, leave=False):
            for name, look in self._look(image, template, view).items():
                gathered.setdefault(name, []).append(look.half().cpu())
        return {name: torch.cat(gathered.pop(name)) for name in list(gathered)}  # never all of them twice


def _varied(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Images (B, 3, H, W), each shifted by up to 2 % of its side and up to 5 % brighter or darker."""
    reach = max(1, min(image.shape[-2:]) // 50)
    padded, (height, width) = F.pad(image, (reach,) * 4, mode="replicate"), image.shape[-2:]
    shifts = rng.integers(0, 2 * reach + 1, (len(image), 2))
    moved = [one[:, y : y + height, x : x + width] for one, (y, x) in zip(padded, shifts, strict=True)]
    light = torch.from_numpy(rng.uniform(0.95, 1.05, (len(image), 1, 1, 1))).to(image)
    return (torch.stack(moved) * light).clamp(0, 1)


def _drawn(
    images: ImageSet, source: Tensor, kinds: Sequence[int], rng: np.random.Generator, masks: list[Tensor]
) -> Pair:
    """Copies (B, 3, H, W) of images with one drawn defect each; their masks (B, 1, H, W) are appended."""
    families, batch = list(FAMILIES.values()), images[source.tolist()]
    pixels = to_pixels(batch.image)
    others = to_pixels(images[rng.integers(len(images), size=len(source)).tolist()].image)
    pairs = [synthesize(p, o, rng, families[kind]) for p, o, kind in zip(pixels, others, kinds, strict=True)]
    masks.append(torch.from_numpy(np.stack([mask for _, mask in pairs]))[:, None])
    return to_float(np.stack([picture for picture, _ in pairs])), batch.template


@dataclass(frozen=True)
class Trial:
    """A fusion that was tried: of which members, and how."""

    members: list[str]
    how: str
    verdict: Verdict
    tops: Tensor  # of the OK images' maps, sorted (N,)

    @property
    def name(self) -> str:
        *others, last = self.members
        return f"{self.how} of {', '.join(others)} and {last}" if others else last

    @property
    def worth(self) -> float:
        return self.verdict.worth

    def clearly_better(self, other: Trial) -> bool:
        """By more than twice the standard error of the difference, over the drawn defects."""
        gain = self.verdict.each - other.verdict.each
        return float(gain.mean()) > 2 * float(gain.std(correction=0)) / len(gain) ** 0.5


def choose(maps: Mapping[str, Maps], shown: Shown, use: Sequence[str], how: str) -> list[Trial]:
    """What was tried, what is taken first.

    Each way of fusing starts from all members, and goes on without the one that it is best without, while that is no
    worse: of two equals the smaller one is faster, and has proved as good on defects that it was not chosen by. The
    networks stay: each is judged by kinds of defects that it has not learned, and together they have learned them all.
    The mean of what is unusual is taken unless another way, or one member alone, is clearly better: it averages the
    members' errors, where a maximum has the largest of them.
    """
    trials: list[Trial] = []

    def tried(names: Sequence[str], way: str) -> Trial:
        ok, drawn = (
            _fused([getattr(maps[n], part).split(BATCH) for n in names], names, way) for part in ("ok", "drawn")
        )
        tops = ok.flatten(1).amax(1).sort().values
        trials.append(Trial(list(names), way, judge(ok, drawn, shown.mask), tops))
        return trials[-1]

    ways = ("soft", "max", "lse") if how == "auto" and len(use) > 1 else (how if how in HOW else "sum",)
    best = []
    for way in ways:
        best.append(tried(use, way))
        while how == "auto" and len(best[-1].members) > 2:
            names = best[-1].members
            leaving = [name for name in names if name != LEARNED]
            without = max((tried([n for n in names if n != name], way) for name in leaving), key=_worth)
            if without.worth < best[-1].worth:
                break
            best[-1] = without
    if len(ways) > 1:
        best += [tried([name], "sum") for name in use]
    other = max(best, key=_worth)
    taken = other if other.clearly_better(best[0]) else best[0]
    log.info("chosen on OK images with drawn defects: %s", taken.name)
    return sorted(trials, key=lambda trial: (trial is not taken, -trial.worth))


def _fused(parts: Sequence[Sequence[Tensor]], names: Sequence[str], how: str) -> Tensor:
    """A few images at a time: what comes on the way is several times as large as all maps."""
    return torch.cat([fuse(dict(zip(names, few, strict=True)), how) for few in zip(*parts, strict=True)])


def _worth(trial: Trial) -> float:
    return trial.worth


def _told(trials: Sequence[Trial], share: float, placed: bool, chosen: bool, seconds: float) -> dict[str, Any]:
    """The choice for status.json: the best trials and each member alone, and in words what they were judged by."""
    own = "so products lie alike, and each place has statistics of its own"
    if not placed:
        own = "that is little, or as much as when they are turned at random, so nothing is learned for single places"
    judged = (
        f"{len(trials)} fusions of members were judged by defects drawn into OK images that nothing had learned from, "
        "and the networks by kinds of defects that they had not learned. What a fusion is worth is two thirds of its "
        "image AUROC and one third of its AUPRO on them. A fusion takes the largest of its members' maps (max), the "
        "logarithm of the sum of their exponentials (lse), or the weighted mean of what is more than usual (soft)."
    )
    if not chosen:
        judged = f"With fewer than {ENOUGH} OK images nothing is chosen: they are too few to tell which fusion is best."
    where = f"Where on the product a patch lies explains {share:.0%} of how the OK images' patches differ: {own}."
    words = f"{judged} {where} All that took {seconds:.0f} s."
    candidates = [
        {
            "name": trial.name,
            "image_auroc": round(trial.verdict.image_auroc, 4),
            "aupro": round(trial.verdict.aupro, 4),
            "worth": round(trial.worth, 4),
            "taken": trial is trials[0],
        }
        for place, trial in enumerate(trials)
        if place < LISTED or len(trial.members) == 1
    ]
    return {"candidates": candidates, "words": words}
