"""Memory banks of patches: gathering candidates within a memory limit, coresets, nearest-neighbour distances."""

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

BATCH = 16  # images per pass, fewer if they are large
QUERIES, ROWS = 1024, 4096  # rows per block, whose distances take 16 MB
POOL = 4096  # candidates searched between two passes over all rows
BLOCK = 2048  # candidates that are thinned together
CLOSE = 100  # nearest neighbours used for thinning

log = logging.getLogger(__name__)
RotatedView = tuple[View, float]  # a view, and degrees counterclockwise by which images are rotated first


def rotated_views(views: Sequence[View], turns: int) -> list[RotatedView]:
    """Returns the views, each rotated by all multiples of 360 / `turns` degrees."""
    return [(view, 360 * k / turns) for view in views for k in range(turns)]


def apply_view(image: Tensor, rotated: RotatedView) -> Tensor:
    """Rotates images (B, 3, H, W) about their centre, with reflected edges, and applies the view."""
    view, angle = rotated
    if angle:
        from kornia.geometry import rotate  # takes seconds to import

        angles = torch.tensor(angle, device=image.device)
        image = rotate(image, angles, padding_mode="reflection", align_corners=True)
    return view.apply(image)


def gather_images(
    images: ImageSet, features: Callable[[Tensor], Tensor], view: View, bank: int | float, limit_mb: float
) -> Tensor:
    """Gathers the features (positions, images, C) of whole images, evenly spaced, as many as fit, at least one.

    `features` maps images (B, 3, H, W) to (B, C, h, w). `bank` is a number of patches or, as a float, a share of all.
    """
    first = features(images[[0]].image)[0]
    wanted = round(bank * len(images)) if isinstance(bank, float) else bank // first[0].numel()
    count = max(1, min(wanted, len(images), int(limit_mb * 2**20 / (4 * first.numel()))))
    chosen = torch.linspace(0, len(images) - 1, count).round().long().split(at_once(BATCH, images.size))
    parts = tqdm(chosen, f"patches, image {view.label}", delay=2, leave=False)
    gathered = [features(view.apply(images[part.tolist()].image)).flatten(2).permute(2, 0, 1) for part in parts]
    return torch.cat(gathered, 1)


def gather_candidates(
    batches: Batches,
    features: Callable[[Tensor], Tensor],
    views: Sequence[RotatedView],
    limit_mb: float,
    generator: torch.Generator,
) -> Tensor:
    """Gathers feature rows (N, C) of all images in all views; `features` maps (B, 3, H, W) to (B, C, h, w).

    If not all positions fit into the limit, draws equally many from each image and view, at least one.
    """
    total = len(batches.dataset) * len(views)
    rows, filled, quota = torch.empty(0), 0, 0
    for rotated in views:
        for batch in tqdm(batches, f"patches, image {rotated[0].label}", len(batches), delay=2, leave=False):
            values = features(apply_view(batch.image, rotated)).flatten(2).transpose(1, 2)  # (B, positions, C)
            _, positions, channels = values.shape
            if not quota:
                quota = max(1, min(positions, int(limit_mb * 2**20 / (4 * channels * total))))
                rows = torch.empty(total * quota, channels)
            if quota < positions:
                drawn = torch.rand(values.shape[:2], generator=generator).topk(quota, sorted=False).indices
                values = values.gather(1, drawn[:, :, None].expand(-1, -1, channels))
            part = values.reshape(-1, channels)
            rows[filled : filled + len(part)] = part
            filled += len(part)
    log.debug("kept %d of %d patches per image", quota, positions)
    return rows[:filled]


def random_projection(rows: Tensor, dimensions: int, generator: torch.Generator) -> Tensor:
    """Projects rows (N, C) to (N, dimensions), if fewer, preserving distances up to a few per cent.

    Johnson and Lindenstrauss, 1984: a Gaussian matrix, scaled by 1 / sqrt(dimensions).
    """
    if dimensions >= rows.shape[1]:
        return rows
    matrix = torch.randn(rows.shape[1], dimensions, generator=generator) / dimensions**0.5
    return rows @ matrix.to(rows)


def greedy_centres(rows: Tensor, count: int, first: int = 0) -> Tensor:
    """Returns indices (count,) of rows (N, D), from `first` on each the farthest from those before (Gonzalez, 1985).

    Up to rounding, the order is that of the plain algorithm, which compares all rows after each choice. Distances to
    the chosen rows only shrink. So while the farthest row of a pool is as far as any row outside the pool was, it is
    the farthest of all, and the rows outside are updated later, by one matrix product for all rows chosen since. If
    rows coincide, the order may differ, but none is chosen twice.
    """
    count = min(count, len(rows))
    squares = rows.square().sum(1)
    nearest = rows.new_full((len(rows),), torch.inf)
    chosen, pending = [first], [first]
    with tqdm(total=count, desc="coreset", initial=1, delay=2, leave=False) as bar:
        while len(chosen) < count:
            _update_nearest(nearest, rows, squares, torch.tensor(pending, device=rows.device))
            nearest[pending] = -1
            pending = _farthest_of_pool(rows, nearest, count - len(chosen))
            chosen += pending
            bar.update(len(pending))
    return torch.tensor(chosen[:count], device=rows.device)


def _farthest_of_pool(rows: Tensor, nearest: Tensor, limit: int) -> list[int]:
    """Returns the next choices, as long as no row outside the pool can be farther."""
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


def _update_nearest(nearest: Tensor, rows: Tensor, squares: Tensor, centres: Tensor, block: int = 16384) -> None:
    """Lowers `nearest`, the squared distances (N,) to the chosen rows, by those to new centres; in place."""
    points, lengths = rows[centres], squares[centres]
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        distances = torch.addmm(lengths, rows[part], points.T, alpha=-2).amin(1) + squares[part]
        torch.minimum(nearest[part], distances.clamp_min_(0), out=nearest[part])


def thinned(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Returns indices (count,) of rows (N, C), drawn so that dense regions keep as many rows as sparse ones.

    SuperADD (Roming et al., 2026): keeps each row with probability 1 / (1 + neighbours within a distance) and raises
    the distance until few enough are kept; missing rows are drawn from the others. Works in random blocks, as in the
    paper.
    """
    order = torch.randperm(len(rows), generator=generator)
    if count >= len(rows):
        return order
    order = order[: count * CLOSE // 4]  # with more rows, CLOSE neighbours are too few to thin by
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
    """Returns the Euclidean distance to the nearest row of the bank (M, C), and its index: (Q,) for queries (Q, C).

    The index comes from |q|^2 - 2 q b + |b|^2, whose rounding can only confuse rows that are equally near. The distance
    comes from the difference itself, so that small distances are exact, too.
    """
    lengths = bank.square().sum(1)
    index = torch.cat([_nearest_index(part, bank, lengths) for part in _blocks(queries, QUERIES)])
    return torch.linalg.vector_norm(queries - bank[index], dim=1), index


def nearest_several(queries: Tensor, bank: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Like `nearest` for up to `count` rows, nearest first: both (Q, min(count, M))."""
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
    """Splits rows into parts of at most `size`; an exported graph has one part, as its number of rows is dynamic."""
    return (rows,) if torch.compiler.is_exporting() else rows.split(size)


def _nearest_index(queries: Tensor, bank: Tensor, lengths: Tensor) -> Tensor:
    smallest = queries.new_full(queries.shape[:1], torch.inf)
    index = queries.new_zeros(queries.shape[:1], dtype=torch.long)
    for start in range(0, len(bank), ROWS):
        part = slice(start, start + ROWS)
        scores, i = torch.addmm(lengths[part], queries, bank[part].T, alpha=-2).min(1)
        nearer = scores < smallest
        smallest, index = torch.where(nearer, scores, smallest), torch.where(nearer, i + start, index)
    return index


def nearest_local(features: Tensor, bank: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Like `nearest`, for features (B, C, h, w) and bank patches (h * w, K, C) up to `radius` rows and columns away.

    Compares each position of the bank with the surrounding positions of all images at once, so that a large bank is
    read once. Returns the distances (B * h * w,), and indices in the flattened bank.
    """
    images, channels, height, width = features.shape
    side, kept = 2 * radius + 1, bank.shape[1]
    block = height * width if torch.compiler.is_exporting() else max(1, QUERIES * ROWS // (images * side**2 * kept))
    wide = F.pad(features.permute(0, 2, 3, 1), (0, 0, *(radius,) * 4))
    queries = wide.unfold(1, side, 1).unfold(2, side, 1).permute(1, 2, 0, 4, 5, 3).reshape(height * width, -1, channels)
    lowest, index = [], []
    for rows, patches in zip(queries.split(block), bank.split(block), strict=True):
        scores = torch.baddbmm(patches.square().sum(2)[:, None], rows, patches.mT, alpha=-2)
        least = scores.view(len(rows), images, side**2, kept).min(3)
        lowest.append(least.values)
        index.append(least.indices)
    numbers = torch.cat(index) + kept * torch.arange(height * width, device=bank.device)[:, None, None]
    # shift the results for the neighbour (y, x) to that neighbour's position; pad outside the image
    aligned = []
    for value, filling in ((torch.cat(lowest), torch.inf), (numbers, 0)):
        grid = value.permute(1, 2, 0).reshape(images, side, side, height, width)
        wide = F.pad(grid, (radius,) * 4, value=filling)
        ends = [(2 * radius - y, 2 * radius - x) for y in range(side) for x in range(side)]
        parts = [wide[:, 2 * radius - y, 2 * radius - x, y : y + height, x : x + width] for y, x in ends]
        aligned.append(torch.stack(parts))
    scores, numbers = aligned
    chosen = numbers.gather(0, scores.argmin(0, keepdim=True))
    rows = features.flatten(2).transpose(1, 2).flatten(0, 1)
    chosen = chosen.flatten()
    return torch.linalg.vector_norm(rows - bank.flatten(0, 1)[chosen], dim=1), chosen


class Bank(Fitted):
    """Distance (B, 1, h, w) of each position of features (B, C, h, w) from the nearest stored patch.

    Args:
        cosine: Uses 1 - cosine similarity instead of the Euclidean distance.
        radius: Compares a position only with patches up to this many positions away (RAD: Zhang, Li, Henderson,
            Aragon-Camarasa, Long, "Is Training Necessary for Anomaly Detection?", 2026); None: with all patches.
    """

    patches: Tensor  # (M, C), or with a radius (h * w, images, C)
    around: Tensor  # (M, b), indices of each patch's nearest patches, itself first, for reweighting; or empty
    spread: Tensor  # (M,) or (h * w, images), each patch's mean distance from its neighbours; or empty

    def __init__(self, cosine: bool = False, radius: int | None = None) -> None:
        super().__init__("patches", "spread")
        self.cosine, self.radius = cosine, radius
        self.register_buffer("around", torch.empty(0, dtype=torch.long))

    def store(self, patches: Tensor, candidates: Tensor, density: int = 0, reweight: int = 0) -> None:
        """Stores patches, normalised if `cosine`: some of the candidates (N, C), or with a radius all of them.

        The `reweight` patches nearest to each become `around`. Its mean distance from the `density` nearest candidates
        becomes `spread`, which is subtracted from distances to it (LDKNN, in Lyu, Mo, Wong, "REB: Reducing Biases in
        Representation for Industrial Anomaly Detection", 2024).
        """
        self.patches = patches
        if reweight:
            self.around = nearest_several(patches, patches, reweight)[1]
        if density and self.radius is None:
            self.spread = self._unit(nearest_several(patches, candidates.to(patches), density + 1)[0])[:, 1:].mean(1)
        elif density:  # neighbours are searched among the patches of the same position
            distances = torch.cat([torch.cdist(part, part) for part in patches.split(64)]).sort(2).values
            self.spread = self._unit(distances)[:, :, 1 : density + 1].mean(2)

    def forward(self, features: Tensor) -> Tensor:
        features = F.normalize(features, dim=1) if self.cosine else features
        rows = features.flatten(2).transpose(1, 2).flatten(0, 1)
        if self.radius is None:
            distance, index = nearest(rows, self.patches)
        else:
            distance, index = nearest_local(features, self.patches, self.radius)
        scores = self._unit(distance)
        if self.spread.numel():  # distances below the bank's local spread are normal
            scores = (scores - self.spread.flatten()[index]).clamp_min(0)
        scores = scores.view(features.shape[0], 1, *size_of(features))
        return scores * self._weight(rows, scores, index) if self.around.numel() else scores

    def _unit(self, distance: Tensor) -> Tensor:
        """Converts Euclidean distances of normalised features to 1 - cosine."""
        return distance.square() / 2 if self.cosine else distance

    def _weight(self, rows: Tensor, scores: Tensor, index: Tensor) -> Tensor:
        """Computes each image's weight (B, 1, 1, 1): small if its worst patch's neighbour lies in a dense region."""
        batch = scores.shape[0]
        worst = scores.view(batch, -1).argmax(1, keepdim=True)
        patch = rows.view(batch, -1, rows.shape[1])[torch.arange(batch, device=rows.device), worst[:, 0]]
        around = self.around[index.view(batch, -1).gather(1, worst)[:, 0]]
        distances = torch.linalg.vector_norm(patch[:, None] - self.patches[around], dim=2)
        return (1 - distances.softmax(1)[:, 0]).view(-1, 1, 1, 1)
