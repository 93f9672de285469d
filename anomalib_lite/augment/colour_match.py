"""Matches a template's colours to the OK images, so that light and camera do not cause differences."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from skimage.color import lab2rgb, rgb2lab
from skimage.exposure import match_histograms
from tqdm import tqdm

from anomalib_lite.data.decode import read_sample
from anomalib_lite.data.sample import OK, Sample, Splits
from anomalib_lite.data.splits import fingerprint
from anomalib_lite.errors import UserError
from anomalib_lite.runs.artifacts import artifact, artifact_key
from anomalib_lite.runs.atomic import write_image

REFERENCES = 200  # OK images used, evenly spaced
PIXELS = 2**16  # used per image, evenly spaced


def match_colours(template: np.ndarray, references: Sequence[np.ndarray], method: str = "histogram") -> np.ndarray:
    """Gives the template the colour distribution of all references' pixels; images are uint8 (H, W, 3) RGB.

    Method `histogram` matches each channel's cumulative histogram; `reinhard` matches the mean and standard deviation
    of each channel in CIELAB (Reinhard et al., "Color Transfer between Images", IEEE CG&A 2001, who use the related
    lαβ).
    """
    if not references:
        raise UserError("The template's colours cannot be matched: there is no OK image to match them to.")
    pool = np.concatenate([_subsampled(image) for image in references])[:, None]
    if method not in ("histogram", "reinhard"):
        raise UserError(f"The template's colours are matched by histogram or reinhard, not by '{method}'.")
    if method == "reinhard":
        source, target = rgb2lab(template), rgb2lab(pool)
        mean, std = source.mean(axis=(0, 1)), source.std(axis=(0, 1))
        scale = target.std(axis=(0, 1)) / np.maximum(std, 1e-6)  # a constant channel is only shifted
        matched = 255 * lab2rgb((source - mean) * scale + target.mean(axis=(0, 1)))
    else:  # scikit-image truncates the result to integers: in units of 1/256 grey level it can be rounded
        matched = match_histograms(*(a.astype(np.uint16) << 8 for a in (template, pool)), channel_axis=-1) / 256
    return np.clip(np.rint(matched), 0, 255).astype(np.uint8)


def matched_template(path: Path, ok: Sequence[Sample], artifacts: Path, method: str | None = "histogram") -> Path:
    """Returns the file of the template with the OK images' colours, which is written once per set of images.

    `ok` must be training images only, no held-out or test images. `method` is as in `match_colours`; `none` and
    None return `path`.
    """
    if method in (None, "none"):
        return path
    golden = Sample(path, OK, bits=ok[0].bits)
    images = [replace(golden, image=image) for image in sorted({s.image for s in ok})]
    content = fingerprint(Splits([golden, *images], [], []))
    folder = artifacts / f"template-{artifact_key(content, method)}"

    def make(unfinished: Path) -> None:
        chosen = images[:: -(-len(images) // REFERENCES)]
        references = [read_sample(image) for image in tqdm(chosen, "template's colours", delay=2, leave=False)]
        matched = match_colours(read_sample(golden), [_subsampled(image)[:, None] for image in references], method)
        write_image(unfinished / "template.png", matched)

    artifact(folder, make)
    return folder / "template.png"


def _subsampled(image: np.ndarray) -> np.ndarray:
    """Takes every k-th pixel of (H, W, 3), (n, 3), which keeps the distribution, while resizing would smooth it."""
    pixels = image.reshape(-1, 3)
    return pixels[:: -(-len(pixels) // PIXELS)]
