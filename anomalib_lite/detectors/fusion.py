"""Fusion: several kinds of evidence in common units, and networks that learn from drawn defects, made one map."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
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
from anomalib_lite.data.images import to_float, to_pixels
from anomalib_lite.detectors.buffers import PerView
from anomalib_lite.detectors.evidence import Evidence, share_of_place
from anomalib_lite.detectors.looks import Looker, Looks
from anomalib_lite.detectors.members import HOW, LEARNED, Maps, Members, Shown, fuse, judge
from anomalib_lite.detectors.model import Batches, Finish, Method
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)

FOLDS, NETWORKS = 4, 3
PLACED = 0.15  # share of the variance that the place must explain, else nothing is learned for each place
DRAWN = (160, 500)  # drawn defects, at least and at most; in between two for each image
GAIN = 0.002  # by how much the choice must be better without a member


class Fusion(Method):
    """The map is made of several members' maps, each in units of what OK images show that it has not learned from.

    Which members take part, and how their maps become one, is chosen on OK images with drawn defects: each member is
    judged on images, and the networks on kinds of defects, that they have not learned from.

    Args:
        backbone: Makes the network.
        members: Evidence by name.
        learned: Whether networks learn from drawn defects, as one more member.
        use: Names of the members that may take part; None: all.
        how: `max`, `lse` or `sum` of the members' maps, or `auto`: the choice; all members take part but with `auto`.
        channels: Of the backbone's layers that are kept.
        cache_mb: Memory for the looks that are learned from.
    """

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        members: Mapping[str, Evidence],
        learned: bool = True,
        use: Sequence[str] | None = None,
        how: str = "auto",
        channels: int = 160,
        cache_mb: float = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__()
        names = [*members, *([LEARNED] if learned else [])]
        if how not in ("auto", *HOW):
            raise UserError(f"detector.how must be auto, {', '.join(HOW)}, not '{how}'.")
        if wrong := [name for name in use or () if name not in names] or (use is not None and not use):
            raise UserError(f"detector.use={list(use or [])} must name some of {', '.join(names)}: {wrong}.")
        self.looker = Looker(backbone, channels, seed)
        self.use, self.how, self.cache_mb, self.seed = list(use or names), how, cache_mb, seed
        self.members = PerView(partial(self._members, members, learned))

    def _members(self, evidence: Mapping[str, Evidence], learned: bool) -> Members:
        made = Members(evidence, learned)
        made.equip(self.looker.channels, NETWORKS)
        return made

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        return F.softplus(self.members[view](self.looker(image)))

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        device = self.device
        self.members.reset(len(views))
        self.members.to(device)
        first = self.members[0]
        for members, view in zip(self.members, views, strict=True):
            begin = time.perf_counter()
            shown = self._show(batches, view)
            share = share_of_place([shown.ok["fine"], shown.ok["deep"]])
            maps = members.cpu().fit(shown, share >= PLACED, self.seed)
            if members is first:
                trials = choose(maps, shown, self.use, self.how)
                notes = {"share_of_place": round(share, 3), "seconds": round(time.perf_counter() - begin, 1)}
                self.notes = {"choice": trials, "fusion": notes}
            members.how.fill_(HOW.index(trials[0]["how"]))
            members.taken.copy_(torch.tensor([float(name in trials[0]["members"]) for name in members.names]))
            members.to(device)

    def _show(self, batches: Batches, view: View) -> Shown:
        """Looks of the OK images and of copies with drawn defects, as many as the memory holds."""
        images: Any = batches.dataset
        rng = np.random.default_rng(self.seed)
        count = int(np.clip(2 * len(images), *DRAWN))
        ok = self._gather(view.apply(batch.image) for batch in tqdm(batches, "OK images", delay=2, leave=False))
        families = list(FAMILIES.values())
        pictures, masks = [], []
        source = torch.arange(count) % len(images)
        family = torch.from_numpy(rng.permutation(count) % len(families))
        for one, kind in zip(source.tolist(), family.tolist(), strict=True):
            picture, other = (to_pixels(images[[k]].image)[0] for k in (one, int(rng.integers(len(images)))))
            drawn, mask = synthesize(picture, other, rng, families[kind])
            pictures.append(drawn)
            masks.append(torch.from_numpy(mask)[None, None])
        parts = (view.apply(to_float(np.stack(pictures[k : k + 16]))) for k in range(0, count, 16))
        drawn_looks = self._gather(tqdm(parts, "drawn defects", -(-count // 16), delay=2, leave=False))
        grid = ok["fine"].shape[-2:]
        mask = torch.cat([F.adaptive_avg_pool2d(view.undo(m.float()), grid) for m in masks])
        fold = torch.arange(len(images)) % min(FOLDS, len(images))
        return Shown(ok, drawn_looks, mask, family, source, fold)

    def _gather(self, parts: Any) -> Looks:
        gathered: dict[str, list[Tensor]] = {}
        for part in parts:
            for name, look in self.looker(part.to(self.device)).items():
                gathered.setdefault(name, []).append(look.half().cpu())
        return {name: torch.cat(looks) for name, looks in gathered.items()}


def choose(maps: Mapping[str, Maps], shown: Shown, use: Sequence[str], how: str) -> list[dict[str, Any]]:
    """What was tried, the best first: members, how, image_auroc and aupro on drawn defects, and whether it is taken.

    Each way of fusing starts from all members, and goes on without the one that it is best without, while that gains.
    """
    trials: list[dict[str, Any]] = []

    def tried(names: Sequence[str], way: str) -> float:
        ok, drawn = (fuse([getattr(maps[n], part) for n in names], way) for part in ("ok", "drawn"))
        trials.append({"members": list(names), "how": way, **judge(ok, drawn, shown.mask, shown.family)})
        return trials[-1]["image_auroc"] + trials[-1]["aupro"]

    if how != "auto":
        tried(use, how)
    else:
        for name in use:
            tried([name], "sum")
        for way in HOW if len(use) > 1 else ():
            names, best = list(use), tried(use, way)
            while len(names) > 2:
                without = {name: tried([n for n in names if n != name], way) for name in names}
                worst = max(without, key=without.__getitem__)
                if without[worst] < best + GAIN:
                    break
                best = without[worst]
                names.remove(worst)
    trials.sort(key=lambda t: (-(t["image_auroc"] + t["aupro"]), -len(t["members"])))
    for trial in trials:
        trial["taken"] = trial is trials[0]
    log.info("the OK images with drawn defects are told best by %s", trials[0])
    return trials
