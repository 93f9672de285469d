"""Files for MVTec AD 2's server: their places, types and sizes, and one path from images to maps."""

import shutil
import tarfile

import cv2
import numpy as np
import tifffile

from tests.commands import ran, refused, trained
from tests.made import write_category

PRIVATE = ("test_private", "test_private_mixed")


def test_maps_and_masks_of_the_private_tests_are_packed(here):
    made, can = write_category(here / "made", train=8, good=3, defects={"dot": 2}), here / "ad2/can"
    (made / "test/dot/001.png").rename(made / "test/dot/000.1.png")
    shutil.copytree(made / "train", can / "train")
    for part in ("validation/good", "test_public/good"):
        shutil.copytree(made / "test/good", can / part)
    for split in PRIVATE:
        shutil.copytree(made / "test/dot", can / split)
    own = ["data=mvtec_ad_2", "data.root=ad2", "data.category=can", "preset=smoke", "threads=1"]
    run = trained(*own, "detector=padim", "image_size=48", "tracking=none")
    assert "fabric" in ran("submit", "runs=runs", "root=ad2", "output=out").err, "objects that are missing are said"

    ran("predict", f"run={run}", f"images={can}/test_private", "output=maps", "overlays=false")
    for image in (images := sorted((can / "test_private").iterdir())):
        whole = tifffile.imread(here / f"out/anomaly_images/can/test_private/{image.stem}.tiff")
        mask = cv2.imread(f"out/anomaly_images_thresholded/can/test_private/{image.stem}.png", -1)
        shape = cv2.imread(str(image)).shape[:2]
        assert (whole.dtype, whole.shape, mask.shape) == (np.float16, shape, shape)
        assert set(np.unique(mask)) <= {0, 255}
        seen = cv2.imread(f"maps/maps/{image.stem}.tiff", -1)
        np.testing.assert_allclose(cv2.resize(seen, shape[::-1]), whole, rtol=1e-3)
    with tarfile.open(here / "out/submission.tar.gz") as archive:
        names = {m.name.rpartition("/")[0] for m in archive.getmembers() if m.isfile()}
        assert sum(m.isfile() for m in archive.getmembers()) == 4 * len(images) == 8
    assert names == {f"{kind}/can/{s}" for kind in ("anomaly_images", "anomaly_images_thresholded") for s in PRIVATE}
    assert "test_private of can" in refused("submit", "runs=runs", "root=.")
