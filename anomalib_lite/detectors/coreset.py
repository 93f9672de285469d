"""Patches to remember: gathered within a stated memory, a few that cover all, and how far features are from them."""

import logging
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from anomalib_lite.augment.tta import View
from anomalib_lite.data.images import ImageSet, at_once
from anomalib_lite.detectors.levels import size_of
from anomalib_lite.detectors.model import Batches
from anomalib_lite.detectors.statistics import Fitted

BATCH = 16  # images that are looked at at once, fewer of large ones
QUERIES, ROWS = 1024, 4096  # rows of a block: its distances take 16 MB
POOL = 4096  # candidates that are searched between two passes over all
BLOCK = 2048  # candidates that are thinned among each other
CLOSE = 100  # neighbours that are looked at in thinning

log = logging.getLogger(__name__)
Look = tuple[View, float]  # of images that are first turned by so many degrees, counterclockwise


def turned(views: Sequence[View], turns: int) -> list[Look]:
    """The views, each turned by all multiples of the `turns`-th part of a circle."""
    return [(view, 360 * k / turns) for view in views for k in range(turns)]


def looked_at(image: Tensor, look: Look) -> Tensor:
    """Images (B, 3, H, W), turned about their middle and mirrored at their edges, in a view."""
    view, angle = look
    if angle:
        from kornia.geometry import rotate  # seconds

        angles = torch.tensor(angle, device=image.device)
        image = rotate(image, angles, padding_mode="reflection", align_corners=True)
    return view.apply(image)


def gather_images(
    images: ImageSet, features: Callable[[Tensor], Tensor], view: View, bank: int | float, limit_mb: float
) -> Tensor:
    """Features (places, images, C) of whole images, evenly chosen: as many as asked for that fit, at least one.

    features: images (B, 3, H, W) -> (B, C, h, w). bank: patches, or as a float, the share of all.
    """
    first = features(images[[0]].image)[0]
    wanted = round(bank * len(images)) if isinstance(bank, float) else bank // first[0].numel()
    count = max(1, min(wanted, len(images), int(limit_mb * 2**20 / (4 * first.numel()))))
    chosen = torch.linspace(0, len(images) - 1, count).round().long().split(at_once(BATCH, images.size))
    parts = tqdm(chosen, f"patches, image {view.label}", delay=2, leave=False)
    found = [features(view.apply(images[part.tolist()].image)).flatten(2).permute(2, 0, 1) for part in parts]
    return torch.cat(found, 1)


def gather_candidates(
    batches: Batches,
    features: Callable[[Tensor], Tensor],
    looks: Sequence[Look],
    limit_mb: float,
    generator: torch.Generator,
) -> Tensor:
    """Feature rows (N, C) of all images in all looks: every position's, or as many of each image, drawn, as fit.

    features: images (B, 3, H, W) -> (B, C, h, w). At least one row of each image and view is kept, whatever the limit.
    """
    shown = len(batches.dataset) * len(looks)
    rows, filled, quota = torch.empty(0), 0, 0
    for look in looks:
        for batch in tqdm(batches, f"patches, image {look[0].label}", len(batches), delay=2, leave=False):
            found = features(looked_at(batch.image, look)).flatten(2).transpose(1, 2)  # (B, positions, C)
            _, positions, channels = found.shape
            if not quota:
                quota = max(1, min(positions, int(limit_mb * 2**20 / (4 * channels * shown))))
                rows = torch.empty(shown * quota, channels)
            if quota < positions:
                drawn = torch.rand(found.shape[:2], generator=generator).topk(quota, sorted=False).indices
                found = found.gather(1, drawn[:, :, None].expand(-1, -1, channels))
            part = found.reshape(-1, channels)
            rows[filled : filled + len(part)] = part
            filled += len(part)
    log.debug("%d of %d patches an image", quota, positions)
    return rows[:filled]


def random_projection(rows: Tensor, dimensions: int, generator: torch.Generator) -> Tensor:
    """Rows (N, C) -> (N, dimensions), distances kept up to a few per cent; as they are where that is no fewer.

    Johnson and Lindenstrauss, 1984: a Gaussian matrix, scaled by 1 / sqrt(dimensions).
    """
    if dimensions >= rows.shape[1]:
        return rows
    matrix = torch.randn(rows.shape[1], dimensions, generator=generator) / dimensions**0.5
    return rows @ matrix.to(rows)


def greedy_centres(rows: Tensor, count: int, first: int = 0) -> Tensor:
    """Indices (count,) of rows (N, D), each the farthest from those before it (Gonzalez, 1985), the first given.

    Gives the order of the plain algorithm, which goes through all rows after each choice, up to rounding. Distances to
    the chosen only shrink; so while the farthest of a pool of far rows is as far as any row outside of it was, it is
    the farthest of all, and the rows outside wait for one matrix product over all that was chosen meanwhile. Where two
    rows coincide, fewer than `count` may differ: none is chosen twice.
    """
    count = min(count, len(rows))
    squares = rows.square().sum(1)
    nearest = rows.new_full((len(rows),), torch.inf)
    chosen, waiting = [first], [first]
    with tqdm(total=count, desc="coreset", initial=1, delay=2, leave=False) as bar:
        while len(chosen) < count:
            _approach(nearest, rows, squares, torch.tensor(waiting, device=rows.device))
            nearest[waiting] = -1
            waiting = _farthest_in_turn(rows, nearest, count - len(chosen))
            chosen += waiting
            bar.update(len(waiting))
    return torch.tensor(chosen[:count], device=rows.device)


def _farthest_in_turn(rows: Tensor, nearest: Tensor, limit: int) -> list[int]:
    """The next choices, for as long as those outside the pool cannot be farther."""
    size = min(POOL + 1, len(rows))
    distances, pool = nearest.topk(size)
    bound = distances[-1] if size == POOL + 1 else distances.new_tensor(-2.0)
    distances, inside = distances.clone(), rows[pool]
    chosen: list[int] = []
    while len(chosen) < limit:
        farthest = int(distances.argmax())
        if distances[farthest] < bound:
            break
        chosen.append(int(pool[farthest]))
        torch.minimum(distances, (inside - inside[farthest]).square().sum(1), out=distances)
        distances[farthest] = -1
    return chosen


def _approach(nearest: Tensor, rows: Tensor, squares: Tensor, centres: Tensor, block: int = 16384) -> None:
    """Lowers `nearest`, the squared distances (N,) to the chosen, by those to new centres; in place."""
    points, lengths = rows[centres], squares[centres]
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        distances = torch.addmm(lengths, rows[part], points.T, alpha=-2).amin(1) + squares[part]
        torch.minimum(nearest[part], distances.clamp_min_(0), out=nearest[part])


def thinned(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices (count,) of rows (N, C), drawn so that crowded parts keep as much as sparse ones.

    SuperADD (Roming et al., 2026): a row is kept with the probability 1 / (1 + its neighbours within a distance), which
    grows until few enough are kept; what is then missing is drawn from the others. Done in random blocks, as there.
    """
    order = torch.randperm(len(rows), generator=generator)
    if count >= len(rows):
        return order
    order = order[: count * CLOSE // 4]  # of more, the nearest looked at cannot tell what to leave out
    kept = []
    for block in tqdm(order.split(BLOCK), "thinning", delay=2, leave=False):
        near = torch.cdist(rows[block], rows[block]).topk(min(CLOSE, len(block)), largest=False).values
        drawn, limit = torch.rand(len(block), generator=generator).to(near), near.double().mean() / 10
        while True:
            keep = drawn * ((near < limit).sum(1) + 1) < 1
            if keep.sum() <= count * len(block) / len(order) or limit >= near.max():
                break
            limit = limit * 1.1
        kept.append(block[keep.cpu()])
    chosen = torch.cat(kept)
    others = torch.ones(len(rows), dtype=torch.bool).index_fill(0, chosen, False)
    rest = order[others[order]]
    return torch.cat([chosen, rest])[:count]


def nearest(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance to the nearest row of the bank (M, C), and its index: both (Q,) for queries (Q, C).

    Which row is nearest is found from |q|^2 - 2 q b + |b|^2, whose rounding can only confuse rows that are as near; the
    distance is then taken from the difference itself, so that it is exact where it is small, too.
    """
    lengths = bank.square().sum(1)
    index = torch.cat([_nearest_index(part, bank, lengths) for part in _blocks(queries, QUERIES)])
    return torch.linalg.vector_norm(queries - bank[index], dim=1), index


def nearest_several(queries: Tensor, bank: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As `nearest`, for the `count` nearest rows, nearest first: both (Q, count), fewer where the bank holds fewer."""
    count, lengths = min(count, len(bank)), bank.square().sum(1)
    indices = []
    for part in _blocks(queries, min(QUERIES, max(1, QUERIES * ROWS * 4 // len(bank)))):
        scores = torch.addmm(lengths, part, bank.T, alpha=-2)
        indices.append(scores.topk(count, largest=False).indices)
    index = torch.cat(indices)
    distances = torch.linalg.vector_norm(queries[:, None] - bank[index], dim=2)
    distances, order = distances.sort(dim=1)
    return distances, index.gather(1, order)


def _blocks(rows: Tensor, size: int) -> Sequence[Tensor]:
    """Parts of at most `size` rows; all in one in a graph that is exported, whose number of rows is open."""
    return (rows,) if torch.compiler.is_exporting() else rows.split(size)


def _nearest_index(queries: Tensor, bank: Tensor, lengths: Tensor) -> Tensor:
    smallest, index = (
        queries.new_full(queries.shape[:1], torch.inf),
        queries.new_zeros(queries.shape[:1], dtype=torch.long),
    )
    for start in range(0, len(bank), ROWS):
        part = slice(start, start + ROWS)
        scores, found = torch.addmm(lengths[part], queries, bank[part].T, alpha=-2).min(1)
        nearer = scores < smallest
        smallest, index = torch.where(nearer, scores, smallest), torch.where(nearer, found + start, index)
    return index


def nearest_near(features: Tensor, bank: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """As `nearest`, among what is remembered of places up to `radius` rows and columns away.

    Each place of the bank is compared at once with the places of all images around it, so that a large bank is read
    once.

    Args:
        features: (B, C, h, w).
        bank: (h * w, K, C).

    Returns the distances (B * h * w,), and indices in the flattened bank.
    """
    images, channels, height, width = features.shape
    side, kept = 2 * radius + 1, bank.shape[1]
    block = height * width if torch.compiler.is_exporting() else max(1, QUERIES * ROWS // (images * side**2 * kept))
    wide = F.pad(features.permute(0, 2, 3, 1), (0, 0, *(radius,) * 4))
    asked = wide.unfold(1, side, 1).unfold(2, side, 1).permute(1, 2, 0, 4, 5, 3).reshape(height * width, -1, channels)
    lowest, index = [], []
    for rows, known in zip(asked.split(block), bank.split(block), strict=True):
        scores = torch.baddbmm(known.square().sum(2)[:, None], rows, known.mT, alpha=-2)
        least = scores.view(len(rows), images, side**2, kept).min(3)
        lowest.append(least.values)
        index.append(least.indices)
    numbers = torch.cat(index) + kept * torch.arange(height * width, device=bank.device)[:, None, None]
    # what a place of the bank says of the place (y, x) beside it belongs there; outside of the image lies nothing
    aligned = []
    for value, filling in ((torch.cat(lowest), torch.inf), (numbers, 0)):
        grid = value.permute(1, 2, 0).reshape(images, side, side, height, width)
        wide = F.pad(grid, (radius,) * 4, value=filling)
        ends = [(2 * radius - y, 2 * radius - x) for y in range(side) for x in range(side)]
        parts = [wide[:, 2 * radius - y, 2 * radius - x, y : y + height, x : x + width] for y, x in ends]
        aligned.append(torch.stack(parts))
    scores, numbers = aligned
    found = numbers.gather(0, scores.argmin(0, keepdim=True))
    rows = features.flatten(2).transpose(1, 2).flatten(0, 1)
    found = found.flatten()
    return torch.linalg.vector_norm(rows - bank.flatten(0, 1)[found], dim=1), found


class Bank(Fitted):
    """Features (B, C, h, w) -> the distance of each place from the nearest remembered patch, (B, 1, h, w).

    cosine: compares directions by 1 - cosine; else Euclidean distances. radius: compares a place with patches from up
    to so many places beside it alone (RAD: Zhang, Li, Henderson, Aragon-Camarasa, Long, "Is Training Necessary for
    Anomaly Detection?", 2026); None: from anywhere.

    Attributes:
        patches: (M, C), or with a radius (h * w, images, C).
        around: (M, b), the numbers of each patch's nearest, itself first, for PatchCore's weight; else empty.
        spread: (M,) or (h * w, images), each patch's mean distance from its own neighbours, which is taken off its
            distance from others (LDKNN, in Lyu, Mo, Wong, "REB: Reducing Biases in Representation for Industrial
            Anomaly Detection", 2024); else empty.
    """

    patches: Tensor
    around: Tensor
    spread: Tensor

    def __init__(self, cosine: bool = False, radius: int | None = None) -> None:
        super().__init__()
        self.cosine, self.radius = cosine, radius
        self.register_buffer("patches", torch.empty(0))
        self.register_buffer("around", torch.empty(0, dtype=torch.long))
        self.register_buffer("spread", torch.empty(0))

    def remember(self, patches: Tensor, candidates: Tensor, density: int = 0, reweight: int = 0) -> None:
        """patches: chosen from the candidates (N, C), or all of them where places count. Directions are normalised."""
        self.patches = patches
        if reweight:
            self.around = nearest_several(patches, patches, reweight)[1]
        if density and self.radius is None:
            self.spread = self._unit(nearest_several(patches, candidates.to(patches), density + 1)[0])[:, 1:].mean(1)
        elif density:  # a place's own patches are each other's neighbours
            own = torch.cat([torch.cdist(part, part) for part in patches.split(64)]).sort(2).values
            self.spread = self._unit(own)[:, :, 1 : density + 1].mean(2)

    def forward(self, features: Tensor) -> Tensor:
        features = F.normalize(features, dim=1) if self.cosine else features
        rows = features.flatten(2).transpose(1, 2).flatten(0, 1)
        if self.radius is None:
            distance, index = nearest(rows, self.patches)
        else:
            distance, index = nearest_near(features, self.patches, self.radius)
        map = self._unit(distance)
        if self.spread.numel():  # nearer than the remembered patches are to each other is no anomaly
            map = (map - self.spread.flatten()[index]).clamp_min(0)
        map = map.view(features.shape[0], 1, *size_of(features))
        return map * self._weight(rows, map, index) if self.around.numel() else map

    def _unit(self, distance: Tensor) -> Tensor:
        """Of Euclidean distances; those of directions are 1 - cosine."""
        return distance.square() / 2 if self.cosine else distance

    def _weight(self, rows: Tensor, map: Tensor, index: Tensor) -> Tensor:
        """Of each image (B, 1, 1, 1): small where the farthest patch's neighbour lies among many alike."""
        images = map.shape[0]
        worst = map.view(images, -1).argmax(1, keepdim=True)
        patch = rows.view(images, -1, rows.shape[1])[torch.arange(images, device=rows.device), worst[:, 0]]
        around = self.around[index.view(images, -1).gather(1, worst)[:, 0]]
        distances = torch.linalg.vector_norm(patch[:, None] - self.patches[around], dim=2)
        return (1 - distances.softmax(1)[:, 0]).view(-1, 1, 1, 1)
