"""Fusion: several kinds of evidence and networks trained on drawn defects, calibrated and fused into one map."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from anomalib_lite.augment.synthetic import FAMILIES, synthesize
from anomalib_lite.augment.tta import View
from anomalib_lite.data.images import ImageSet, at_once, to_float, to_pixels
from anomalib_lite.detectors.evidence import Evidence, Gaussians, position_matters
from anomalib_lite.detectors.feature_maps import FeatureExtractor, FeatureMaps
from anomalib_lite.detectors.levels import size_of
from anomalib_lite.detectors.members import (
    LEARNED,
    RULES,
    HeldOutMaps,
    Members,
    TrainingData,
    Verdict,
    evaluate,
    fuse,
    share_below,
)
from anomalib_lite.detectors.model import Batches, Finish, MakeBackbone, Method
from anomalib_lite.detectors.statistics import PerView
from anomalib_lite.detectors.template import TemplateComparison
from anomalib_lite.errors import UserError
from anomalib_lite.runs.folder import release_memory

log = logging.getLogger(__name__)
Pair = tuple[Tensor, Tensor | None]  # images (B, 3, H, W) and their templates

FOLDS = 4
IDENTITY = View()
FEW, COPIES = 3, 4  # with fewer than FEW OK images, the fusion learns from COPIES shifted and relit copies
ENOUGH = 32  # OK images needed to choose members; with fewer, the fusion uses all without choosing
LISTED = 12  # candidates listed in status.json
BATCH = 16  # images per pass
PROBES = 24  # images that decide whether products are aligned
TOLERANCE = 0.02  # loss of worth on drawn defects that `reconsider` accepts for missed NOK images


class Fusion(Method):
    """Fuses the maps of several members, each calibrated on held-out OK images.

    Members and rule (see `members.fuse`) are chosen on OK images with drawn defects. Each member is evaluated on
    images, and the networks also on families of defects, that they were not fitted to. `compare` makes the comparison
    for members of the feature map `template`. Options: `settings.detectors.Fusion`.
    """

    fitted = ("members",)

    def __init__(
        self,
        backbone: MakeBackbone,
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
        if how not in ("auto", *RULES):
            raise UserError(f"detector.how must be one of auto, {', '.join(RULES)}, not '{how}'.")
        if not set(use or ()) <= set(names) or (use is not None and not use):
            raise UserError(f"detector.use={list(use or [])} must name some of {', '.join(names)}, and nothing else.")
        if learned and not any(isinstance(evidence, Gaussians) for evidence in members.values()):
            raise UserError(
                "detector.learned=true needs a Gaussian among detector.members, whose deviations it learns from."
            )
        self.looker = FeatureExtractor(backbone, channels, seed, compare)  # saved models have this name
        self.needs_template = compare is not None
        self.use, self.how, self.drawn, self.cache_mb, self.seed = list(use or names), how, drawn, cache_mb, seed
        self.members = PerView(partial(Members, members, self.looker.channels if learned else None))

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        members, features = self.members[view], self.looker(image, template)
        maps = members.maps(features)
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
            start = time.perf_counter()
            data = self._training_data(images, view)
            release_memory()
            if members is first:
                share, aligned = self._position_matters(images, data)
                release_memory()
            maps = members.cpu().fit(data, aligned, self.seed)
            release_memory()
            if members is first:
                use, choosing = self.use, self.how != "auto" or len(images) >= ENOUGH
                if aligned and not choosing:  # on aligned products, members without position statistics are weakest
                    use = [name for name in use if members.uses_position(name)] or use
                self.trials = choose(maps, data, use, self.how if choosing else RULES[-1])
                self.notes = {"choice": _summary(self.trials, share, aligned, choosing, time.perf_counter() - start)}
            members.select(self.trials[0].members, self.trials[0].how)
            members.to(device)

    @torch.no_grad()
    def reconsider(self, missed: Batches) -> None:
        """Re-selects the fusion by NOK images that the first choice missed.

        Among candidates that are at most TOLERANCE worse on drawn defects, takes the one under which the missed images
        exceed the largest share of OK images.
        """
        members, choice, before = self.members[0], self.notes["choice"], self.trials[0]
        members.select(self.use, before.how)
        batches = [members.maps(self._extract(b.image, b.template)) for b in missed]
        maps = {name: torch.cat([part[name].cpu() for part in batches]) for name in self.use}

        def share_exceeded(trial: Trial) -> float:
            tops = fuse({name: maps[name] for name in trial.members}, trial.how).flatten(1).amax(1)
            return float(share_below(trial.tops, tops).mean())

        candidates = [trial for trial in self.trials if trial.worth >= before.worth - TOLERANCE]
        best = max(candidates, key=lambda trial: (share_exceeded(trial), trial.worth))
        best = best if share_exceeded(best) > share_exceeded(before) else before
        for members in self.members:
            members.select(best.members, best.how)
        outcome = f"{best.name} replaces {before.name}, because it separates the missed NOK images better."
        if best is before:
            outcome = f"{before.name} stays: no fusion of similar worth separates the missed NOK images better."
        message = (
            f"{outcome} The {len(missed.dataset)} NOK images exceed {share_exceeded(best):.1%} of OK images (before "
            f"{share_exceeded(before):.1%}); worth on drawn defects: {best.worth:.4f} (before {before.worth:.4f})."
        )
        log.warning("%s", message)
        listed = [row | {"taken": row["name"] == best.name} for row in choice["candidates"]]
        self.notes = {"choice": {"candidates": listed, "words": f"{choice['words']} {message}"}}

    def _position_matters(self, images: ImageSet, data: TrainingData) -> tuple[float, bool]:
        """See `evidence.position_matters`. Images that are not square are only turned by 180 degrees."""
        if len(images) < FEW:
            return position_matters([[data.ok["fine"], data.ok["deep"]]], self.seed)
        probes = torch.linspace(0, len(images) - 1, min(len(images), PROBES)).round().long().tolist()
        image, turned = images[probes].image, []
        size = -(-at_once(BATCH, images.size) // 2)  # halved, because all turns are kept in memory
        for turn in range(0, 4, 1 if image.shape[-1] == image.shape[-2] else 2):
            features = [self.looker.features(part.to(self.device)) for part in image.rot90(turn, (2, 3)).split(size)]
            turned.append([torch.cat([maps[name].cpu() for maps in features]) for name in ("fine", "deep")])
        release_memory()
        return position_matters(turned, self.seed)

    def _training_data(self, images: ImageSet, view: View) -> TrainingData:
        """Computes the feature maps of the OK images and of copies with drawn defects, as many as fit in memory."""
        indices, count = self._fit_in_memory(images)
        rng = np.random.default_rng(self.seed)
        size = at_once(BATCH, images.size)
        parts = [part.tolist() for part in indices.split(size)]
        batches = (images[part] for part in parts)
        pairs = ((_varied(b.image, rng) if len(images) < FEW else b.image, b.template) for b in batches)
        ok = self._gather(pairs, view, "OK images", len(parts))
        source = torch.arange(count) % len(indices)
        family = torch.from_numpy(rng.permutation(count) % len(FAMILIES))
        masks: list[Tensor] = []
        blocks = list(zip(source.split(size), family.split(size), strict=True))
        drawn_pairs = (_drawn(images, indices[chunk], families.tolist(), rng, masks) for chunk, families in blocks)
        drawn = self._gather(drawn_pairs, view, "drawn defects", len(blocks))
        grid = size_of(ok["fine"])
        mask = torch.cat([F.adaptive_avg_pool2d(view.undo(mask.float()), grid) for mask in masks])
        return TrainingData(ok, drawn, mask, family, source, torch.arange(len(indices)) % min(FOLDS, len(indices)))

    def _fit_in_memory(self, images: ImageSet) -> tuple[Tensor, int]:
        """Returns the indices of the training images, evenly spaced, and the number of defects to draw."""
        first = images[[0]]
        maps = self._extract(first.image, first.template).values()
        size = sum(m.numel() for m in maps) * 4 / 2**20  # MB: feature maps and deviations, 2 bytes each
        capacity, defects = max(2, int(self.cache_mb / size)), min(max(2 * len(images), self.drawn[0]), self.drawn[1])
        count = min(len(images), max(capacity // 2, capacity - defects))
        repeated = torch.arange(COPIES) % len(images)
        indices = repeated if len(images) < FEW else torch.linspace(0, len(images) - 1, count).round().long()
        return indices, min(defects, max(1, capacity - count))

    def _extract(self, image: Tensor, template: Tensor | None, view: View = IDENTITY) -> FeatureMaps:
        viewed = None if template is None or not self.needs_template else view.apply(template.to(self.device))
        return self.looker(view.apply(image.to(self.device)), viewed)

    def _gather(self, pairs: Iterable[Pair], view: View, label: str, count: int) -> FeatureMaps:
        gathered: dict[str, list[Tensor]] = {}
        for image, template in tqdm(pairs, f"{label}, {view.label}", count, delay=2, leave=False):
            for name, features in self._extract(image, template, view).items():
                gathered.setdefault(name, []).append(features.half().cpu())
        return {name: torch.cat(gathered.pop(name)) for name in list(gathered)}  # frees each list


def _varied(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Shifts each image (B, 3, H, W) by up to 2 % of its side and changes its brightness by up to 5 %."""
    reach = max(1, min(image.shape[-2:]) // 50)
    padded, (height, width) = F.pad(image, (reach,) * 4, mode="replicate"), image.shape[-2:]
    shifts = rng.integers(0, 2 * reach + 1, (len(image), 2))
    shifted = [single[:, y : y + height, x : x + width] for single, (y, x) in zip(padded, shifts, strict=True)]
    brightness = torch.from_numpy(rng.uniform(0.95, 1.05, (len(image), 1, 1, 1))).to(image)
    return (torch.stack(shifted) * brightness).clamp(0, 1)


def _drawn(
    images: ImageSet, source: Tensor, kinds: Sequence[int], rng: np.random.Generator, masks: list[Tensor]
) -> Pair:
    """Draws one defect into a copy (B, 3, H, W) of each source image; appends the masks (B, 1, H, W) to `masks`."""
    families, batch = list(FAMILIES.values()), images[source.tolist()]
    pixels = to_pixels(batch.image)
    others = to_pixels(images[rng.integers(len(images), size=len(source)).tolist()].image)
    pairs = [synthesize(p, o, rng, families[kind]) for p, o, kind in zip(pixels, others, kinds, strict=True)]
    masks.append(torch.from_numpy(np.stack([mask for _, mask in pairs]))[:, None])
    return to_float(np.stack([defective for defective, _ in pairs])), batch.template


@dataclass(frozen=True)
class Trial:
    """A fusion that was evaluated: its members, its rule, and the sorted maxima (N,) of the OK images' fused maps."""

    members: list[str]
    how: str
    verdict: Verdict
    tops: Tensor

    @property
    def name(self) -> str:
        *others, last = self.members
        return f"{self.how} of {', '.join(others)} and {last}" if others else last

    @property
    def worth(self) -> float:
        return float(self.verdict.per_defect.mean())

    def clearly_better(self, other: Trial) -> bool:
        """Whether the gain over the drawn defects exceeds twice its standard error."""
        gain = self.verdict.per_defect - other.verdict.per_defect
        return float(gain.mean()) > 2 * float(gain.std(correction=0)) / len(gain) ** 0.5


def choose(maps: Mapping[str, HeldOutMaps], data: TrainingData, use: Sequence[str], how: str) -> list[Trial]:
    """Evaluates fusions of the members in `use` by their held-out maps and returns them, the selected one first.

    For each rule, starts from all members and removes the least useful one as long as the worth does not drop: of two
    equal fusions the smaller one is faster. The networks are never removed: each is evaluated on families of defects
    that it was not trained on, but together they were trained on all.

    Rule `soft` is selected unless another rule, or a single member, is clearly better: it averages the members' errors,
    while a maximum takes the largest of them. If `how` names a rule, fuses all members by it.
    """
    trials, worth = list[Trial](), attrgetter("worth")

    def fused(kind: str, names: Sequence[str], rule: str) -> Tensor:
        """Fuses a few images at a time, because intermediate results are several times as large as the maps."""
        parts = zip(*(getattr(maps[name], kind).split(BATCH) for name in names), strict=True)
        return torch.cat([fuse(dict(zip(names, few, strict=True)), rule) for few in parts])

    def evaluated(names: Sequence[str], rule: str) -> Trial:
        ok, drawn = (fused(kind, names, rule) for kind in ("ok", "drawn"))
        tops = ok.flatten(1).amax(1).sort().values
        trials.append(Trial(list(names), rule, evaluate(ok, drawn, data.mask), tops))
        return trials[-1]

    rules = ("soft", "max", "lse") if how == "auto" and len(use) > 1 else (how if how in RULES else "sum",)
    best = []
    for rule in rules:
        best.append(evaluated(use, rule))
        while how == "auto" and len(best[-1].members) > 2:
            names = best[-1].members
            removable = [name for name in names if name != LEARNED]
            without = max((evaluated([n for n in names if n != name], rule) for name in removable), key=worth)
            if without.worth < best[-1].worth:
                break
            best[-1] = without
    if len(rules) > 1:
        best += [evaluated([name], "sum") for name in use]
    winner = max(best, key=worth)
    selected = winner if winner.clearly_better(best[0]) else best[0]
    log.info("fusion selected on OK images with drawn defects: %s", selected.name)
    return sorted(trials, key=lambda trial: (trial is not selected, -trial.worth))


def _summary(trials: Sequence[Trial], share: float, aligned: bool, choosing: bool, seconds: float) -> dict[str, Any]:
    """Summarises the choice for status.json: the best trials, each member alone, and an explanation."""
    reason = "products are aligned, and each position gets its own statistics"
    if not aligned:
        reason = "this is low, or no more than under random rotations, so positions get no separate statistics"
    method = (
        f"{len(trials)} fusions were evaluated on defects drawn into held-out OK images; the networks also on families "
        "of defects that they were not trained on. A fusion's worth is two thirds its image AUROC plus one third its "
        "AUPRO on them. A fusion takes the maximum of its members' maps (max), their log-sum-exp (lse), or the "
        "weighted mean of their excess over normal values (soft)."
    )
    if not choosing:
        method = f"With fewer than {ENOUGH} OK images no fusion is chosen: too few images to tell which one is best."
    position = f"Position explains {share:.0%} of the variance of the OK images' patches: {reason}."
    candidates = []
    for trial in (t for k, t in enumerate(trials) if k < LISTED or len(t.members) == 1):
        values = {"image_auroc": trial.verdict.image_auroc, "aupro": trial.verdict.aupro, "worth": trial.worth}
        rounded = {name: round(value, 4) for name, value in values.items()}
        candidates.append({"name": trial.name, **rounded, "taken": trial is trials[0]})
    return {"candidates": candidates, "words": f"{method} {position} This took {seconds:.0f} s."}
