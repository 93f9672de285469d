"""Slow, exact pixel metrics from the definitions, and inputs to compare them on."""

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score


def exact_pixel_metrics(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> dict[str, float]:
    labels, values = masks.ravel(), maps.ravel()
    precision, recall, _ = precision_recall_curve(labels, values)
    with np.errstate(invalid="ignore"):
        f1 = np.nanmax(2 * precision * recall / (precision + recall))
    return {
        "pixel_auroc": roc_auc_score(labels, values),
        "pixel_ap": average_precision_score(labels, values),
        "pixel_f1_max": f1,
        "aupro": exact_aupro(maps, masks, limit),
    }


def exact_aupro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    return exact_auspro(maps, [[(region, int(region.sum())) for region in connected(mask)] for mask in masks], limit)


def connected(mask: np.ndarray) -> list[np.ndarray]:
    labelled, found = ndimage.label(mask, structure=np.ones((3, 3)))
    return [labelled == index for index in range(1, found + 1)]


def exact_auspro(maps: np.ndarray, regions: list[list[tuple[np.ndarray, float]]], limit: float) -> float:
    """Every distinct value is a threshold; every region's overlap, in pixels of those that are enough, is looked up on
    its own. regions: of each image, masks and how many pixels of each are enough.
    """
    thresholds = np.unique(maps)[::-1]
    marked = np.array(
        [np.any([np.zeros(m.shape, bool), *(r for r, _ in own)], 0) for m, own in zip(maps, regions, strict=True)]
    )
    rate = share_at_or_above(maps[~marked], thresholds)
    overlaps = [
        np.minimum(share_at_or_above(image[region], thresholds) * region.sum() / enough, 1)
        for image, own in zip(maps, regions, strict=True)
        for region, enough in own
    ]
    rate, pro = np.append(0.0, rate), np.append(0.0, np.mean(overlaps, axis=0))
    area = 0.0
    for x0, x1, y0, y1 in zip(rate, rate[1:], pro, pro[1:], strict=False):
        if x0 >= limit:
            break
        if x1 > limit:
            y1, x1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0), limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def share_at_or_above(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return 1 - np.searchsorted(np.sort(values), thresholds, side="left") / len(values)


def blobs(rng: np.random.Generator, count: int = 16, size: int = 64) -> np.ndarray:
    """Masks of rectangles that touch, overlap and meet at corners, and of single pixels; a quarter empty."""
    masks = np.zeros((count, size, size), bool)
    for mask in masks[count // 4 :]:
        for _ in range(rng.integers(1, 6)):
            y, x = rng.integers(0, size - 2, 2)
            h, w = rng.integers(1, 14, 2)
            mask[y : y + h, x : x + w] = True
        for y, x in rng.integers(0, size, (rng.integers(0, 4), 2)):
            mask[y, x] = True
    return masks


def anomaly_maps(rng: np.random.Generator, masks: np.ndarray) -> np.ndarray:
    """Smooth positive noise, higher where the mask is set; some defects stand out and some do not."""
    noise = rng.gamma(2, 1, masks.shape)
    lift = masks * rng.gamma(1.5, 2, (len(masks), 1, 1))
    return ndimage.gaussian_filter(noise + lift, (0, 1, 1)).astype(np.float32)
