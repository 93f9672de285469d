"""Files for MVTec AD 2's server: their places, types and sizes, and one path from images to maps."""

import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import tifffile

from tests.commands import Command, trained
from tests.made import write_category


def test_maps_and_masks_of_the_private_tests_are_packed(run_verb: Command, tmp_path: Path):
    made = write_category(tmp_path / "made", train=8, good=3, defects={"dot": 2})
    can = tmp_path / "ad2/can"
    shutil.copytree(made / "train", can / "train")
    shutil.copytree(made / "test/good", can / "validation/good")
    shutil.copytree(made / "test/good", can / "test_public/good")
    for split in ("test_private", "test_private_mixed"):
        shutil.copytree(made / "test/dot", can / split)
    own = ["data=mvtec_ad_2", "data.root=ad2", "data.category=can", "preset=smoke", "threads=1"]
    run = trained(*own, "detector=padim", "image_size=48", "tracking=none")
    output = tmp_path / "out"
    done = run_verb("submit", "runs=runs", "root=ad2", "output=out")
    assert done.status == 0, done.err
    assert "fabric" in done.err  # objects that are missing are said

    run_verb("predict", f"run={run}", f"images={can}/test_private", "output=maps", "overlays=false")
    images = sorted((can / "test_private").iterdir())
    for image in images:
        whole = tifffile.imread(output / f"anomaly_images/can/test_private/{image.stem}.tiff")
        mask = cv2.imread(str(output / f"anomaly_images_thresholded/can/test_private/{image.stem}.png"), -1)
        shape = cv2.imread(str(image)).shape[:2]
        assert (whole.dtype, whole.shape, mask.shape) == (np.float16, shape, shape)
        assert set(np.unique(mask)) <= {0, 255}
        seen = cv2.imread(str(tmp_path / f"maps/maps/{image.stem}.tiff"), -1)
        np.testing.assert_allclose(cv2.resize(seen, shape[::-1]), whole, rtol=1e-3)
    with tarfile.open(output / "submission.tar.gz") as archive:
        names = [m.name for m in archive.getmembers() if m.isfile()]
    assert len(names) == 4 * len(images) and {n.split("/")[0] for n in names} == {
        "anomaly_images", "anomaly_images_thresholded",
    }  # fmt: skip

    again = run_verb("submit", "runs=runs", "root=.")
    assert again.status == 2 and "test_private of can" in again.err
