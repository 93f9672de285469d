"""The whole measurement on rendered products: good copies, bad copies, and too few images."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.generators.quality.measure import measure
from tests.generators.quality.test_structure import product
from tests.generators.tiny import recoloured, shuffled

STRUCTURE = {"edge_overlap": [0.9, 1.0], "ssim": [0.5, 0.7]}


def write(folder: Path, images: list[np.ndarray]) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{i:03d}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(str(path), image[..., ::-1])
    return paths


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, list[Path]]:
    folder, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    real = [product(seed, 64) for seed in range(24)]
    others = [product(100 + seed, 64) for seed in range(16)]
    return {
        "real": write(folder / "real", real),
        "good": write(folder / "good", [recoloured(image, rng, 0.1) for image in others]),
        "torn": write(folder / "torn", [shuffled(image, rng) for image in others]),
        "one": write(folder / "one", [others[0]] * 16),
    }


def test_good_images_measure_like_real_ones_and_bad_ones_do_not(sets):
    good, torn, one = (
        measure(sets["real"], sets[name], (64, 64), STRUCTURE, seed=0) for name in ("good", "torn", "one")
    )
    yardstick = good["frechet"]["real"]
    assert good["frechet"]["generated"] < 1.5 * yardstick < torn["frechet"]["generated"] / 1.3
    kernel = torn["kernel"]
    assert kernel["generated"] > 3 * max(kernel["generated_se"], good["kernel"]["generated"], kernel["real_se"])
    assert abs(kernel["real"]) < 4 * kernel["real_se"]
    assert one["diversity"]["generated"] == pytest.approx(0, abs=1e-4)
    assert 0.6 < good["diversity"]["generated"] / good["diversity"]["real"] < 1.5
    assert good["n_real"] == 24 and good["n_generated"] == 16 and good["frechet"]["images_each"] == 12
    assert good["edge_overlap"]["generated"] == pytest.approx(0.95) and good["missing"] == {}
    assert 0.5 < good["edge_overlap"]["real_pairs_low"] < good["edge_overlap"]["real_pairs"] < 1
    json.dumps(good, allow_nan=False)


def test_the_same_seed_measures_the_same(sets):
    first, again = (measure(sets["real"][:9], sets["good"][:9], (64, 64), STRUCTURE, seed=3) for _ in range(2))
    assert first == again


def test_one_image_has_what_can_be_measured_and_reasons_for_the_rest(sets):
    report = measure(sets["real"][:1], sets["good"][:1], (64, 64), STRUCTURE, seed=0)
    assert report["frechet"] is None and report["kernel"] is None
    assert report["diversity"] == {"generated": None, "real": None} and report["ssim"]["real_pairs"] is None
    assert "there are 1 real and 1 generated ones" in report["missing"]["frechet"]
    assert {"kernel", "diversity.real", "diversity.generated", "real_pairs"} <= report["missing"].keys()
    few = measure(sets["real"][:5], sets["good"][:5], (64, 64), STRUCTURE, seed=0)
    assert few["kernel"]["generated"] is not None and few["kernel"]["real"] is None and "kernel.real" in few["missing"]
