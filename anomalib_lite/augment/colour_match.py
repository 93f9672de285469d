"""A template's colours made those of the OK images, so that light and camera do not make it stand out."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from skimage.color import lab2rgb, rgb2lab
from skimage.exposure import match_histograms
from tqdm import tqdm

from anomalib_lite.data.decode import read_image
from anomalib_lite.data.fingerprint import fingerprint
from anomalib_lite.data.sample import OK, Sample, Splits
from anomalib_lite.errors import UserError
from anomalib_lite.runs.artifacts import artifact, artifact_key
from anomalib_lite.runs.atomic import write_image

REFERENCES = 200  # images that the colours are taken from, spread over all
PIXELS = 2**16  # of each of them, spread over it


def match_colours(template: np.ndarray, references: Sequence[np.ndarray], method: str = "histogram") -> np.ndarray:
    """The template with the colour distribution of the references' pixels taken together.

    template, references: uint8 (H, W, 3) RGB, of any sizes; returns the like of `template`.
    method: `histogram` (each channel's cumulative histogram), `reinhard` (mean and standard deviation of each channel
    in CIELAB; Reinhard et al., "Color Transfer between Images", IEEE CG&A 2001, who use the related lαβ).
    """
    if not references:
        raise UserError("The template's colours cannot be matched: there is no OK image to match them to.")
    pool = np.concatenate([_spread(image) for image in references])[:, None]
    matched = METHODS[method](template, pool)
    return np.clip(np.rint(matched), 0, 255).astype(np.uint8)


def matched_template(path: Path, ok: Sequence[Path], artifacts: Path, method: str = "histogram") -> Path:
    """The file of the template with the OK images' colours: written once for these images, read from there afterwards.

    method: as of `match_colours`, or `none`, which gives the template itself. Learn from training images alone: name no
    held-out and no test images in `ok`.
    """
    if method == "none":
        return path
    images = sorted(set(ok))
    content = fingerprint(Splits([Sample(image, OK) for image in [path, *images]], [], []))
    folder = artifacts / f"template-{artifact_key(content, method)}"

    def make(unfinished: Path) -> None:
        chosen = images[:: -(-len(images) // REFERENCES)]
        references = [read_image(image) for image in tqdm(chosen, "template's colours", delay=2, leave=False)]
        matched = match_colours(read_image(path), [_spread(image)[:, None] for image in references], method)
        write_image(unfinished / "template.png", matched)

    artifact(folder, make)
    return folder / "template.png"


def _spread(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (n, 3): every k-th pixel, which keeps the distribution, where resizing would smooth it."""
    pixels = image.reshape(-1, 3)
    return pixels[:: -(-len(pixels) // PIXELS)]


def _reinhard(template: np.ndarray, pool: np.ndarray) -> np.ndarray:
    own, wanted = rgb2lab(template), rgb2lab(pool)
    mean, std = own.mean(axis=(0, 1)), own.std(axis=(0, 1))
    scale = wanted.std(axis=(0, 1)) / np.maximum(std, 1e-6)  # a channel without any spread is only shifted
    return 255 * lab2rgb((own - mean) * scale + wanted.mean(axis=(0, 1)))


def _histogram(template: np.ndarray, pool: np.ndarray) -> np.ndarray:
    # scikit-image counts unsigned integers and cuts the result off to one: 1/256 grey levels leave something to round
    return match_histograms(*(a.astype(np.uint16) << 8 for a in (template, pool)), channel_axis=-1) / 256


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"histogram": _histogram, "reinhard": _reinhard}
