from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.annotate.labels import Answer
from anomalib_lite.annotate.store import Store
from anomalib_lite.data.decode import read_image, read_mask
from anomalib_lite.data.folder import read

from .conftest import drawn_mask, nth, rows_of

OK, NOK, SCRATCH = Answer("OK"), Answer("NOK"), Answer("NOK", "scratch")
Open = Callable[[], Store]


def test_a_mask_is_a_png_of_0_and_255_in_the_crops_size(open_store: Open, crops_folder: Path) -> None:
    store = open_store()
    store.answer(nth(store, 2), SCRATCH)
    store.save_mask(nth(store, 2), drawn_mask(box=(1, 2, 3, 4)))
    mask = cv2.imread(str(crops_folder / "masks/crop_002.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (32, 48) and mask.dtype == np.uint8
    assert np.unique(mask).tolist() == [0, 255] and (mask > 0).sum() == 12 and mask[2, 1] == 255
    assert rows_of(crops_folder)[1] == ["crop_002.png", "NOK", "scratch", "masks/crop_002.png"]
    store.answer(nth(store, 2), OK)
    assert rows_of(crops_folder)[1] == ["crop_002.png", "OK", "", ""], "an OK crop has no defect to mask"
    store.undo()
    assert rows_of(crops_folder)[1][3] == "masks/crop_002.png"
    store.save_mask(nth(store, 2), drawn_mask(box=(0, 0, 0, 0)))
    assert rows_of(crops_folder)[1][3] == "" and not (crops_folder / "masks/crop_002.png").exists()
    assert open_store().mask_path(nth(store, 2)) is None


def test_a_mask_of_another_size_changes_nothing(open_store: Open, crops_folder: Path) -> None:
    store = open_store()
    with pytest.raises(ValueError, match="pixels"):
        store.save_mask(nth(store, 0), drawn_mask((10, 10)))
    assert store.version == 0 and not (crops_folder / "masks").exists()


def test_masks_survive_a_kill_on_either_side_of_their_event(
    open_store: Open, crops_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    store.answer(nth(store, 0), NOK)
    store.save_mask(nth(store, 1), drawn_mask())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store._journal, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        store.save_mask(nth(store, 0), drawn_mask())  # the file is written, its event is not
    with pytest.raises(KeyboardInterrupt):
        store.save_mask(nth(store, 1), drawn_mask(box=(0, 0, 0, 0)))  # the file is gone, no event
    store = open_store()
    assert store.mask_path(nth(store, 0)) == crops_folder / "masks/crop_000.png"
    assert store.mask_path(nth(store, 1)) is None
    assert rows_of(crops_folder)[1] == ["crop_000.png", "NOK", "", "masks/crop_000.png"]


def test_the_reader_of_a_folder_takes_labels_csv_as_it_is(open_store: Open, crops_folder: Path) -> None:
    store = open_store()
    for number, answer in enumerate([OK, OK, OK, OK, SCRATCH, NOK]):
        store.answer(nth(store, number), answer)
    store.save_mask(nth(store, 4), drawn_mask(box=(1, 2, 3, 4)))
    splits = read(manifest=crops_folder / "labels.csv")
    parts = (splits.train, splits.val, splits.test)
    samples = {sample.image.name: sample for part in parts for sample in part}
    assert [samples[f"crop_00{i}.png"].label for i in range(6)] == [0, 0, 0, 0, 1, 1]
    scratched = samples["crop_004.png"]
    assert scratched.defect == "scratch" and read_mask(scratched.mask).sum() == 12
    assert read_mask(scratched.mask).shape == read_image(scratched.image).shape[:2]
