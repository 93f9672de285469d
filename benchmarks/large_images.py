"""Detects defects of 12 x 12 px on photographs of 4000 x 3000 px, with and without tiling.

    python benchmarks/large_images.py --output large

Renders panels of the built-in product and copies with one small spot each, trains once with tiles and twice without on
the same photographs, and writes results.json and side_by_side.jpg.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from anomalib_lite.rendering.product import render_sheet
from anomalib_lite.settings.data import SheetConfig

SPOT = 12  # px
LEARN, HOLD, TEST = 12, 19, 6  # panels; 19 held-out ones are the fewest that guarantee a false-alarm rate of 0.05
KINDS = {"hole": (18, 17, 20), "fleck": (235, 232, 228), "foreign": (60, 70, 150)}  # RGB
SETUPS = {  # options of `train`
    "tiles": ["tiling=grid", "image_size=native"],
    "1024 x 768": ["image_size=[768,1024]"],
    "256 x 256": ["image_size=256"],
}


def draw(folder: Path) -> None:
    """Writes ok/ (training and held-out images), test_ok/, nok/<kind>/ and masks/; skips existing images."""
    config = SheetConfig(width=4000, height=3000, nok_share=0.0)
    for number in range(LEARN + HOLD + TEST):
        is_train = number < LEARN + HOLD
        path = folder / ("ok" if is_train else "test_ok") / f"{number:03d}.png"
        if path.is_file():
            continue
        sheet = render_sheet(config, (20, number))
        if not is_train:
            rng = np.random.default_rng([7, number])
            kind = list(KINDS)[number % len(KINDS)]
            product = sheet.products[rng.integers(len(sheet.products))]
            x, y = (product.corners.mean(0) + rng.uniform(-0.3, 0.3, 2) * config.product_size).astype(int)
            spotted, mask = sheet.image.copy(), np.zeros(sheet.image.shape[:2], np.uint8)
            spotted[y : y + SPOT, x : x + SPOT] = KINDS[kind] + rng.normal(0, 4, (SPOT, SPOT, 3))
            mask[y : y + SPOT, x : x + SPOT] = 255
            save(folder / "nok" / kind / path.name, cv2.cvtColor(spotted, cv2.COLOR_RGB2BGR))
            save(folder / "masks" / path.name, mask)
        save(path, cv2.cvtColor(sheet.image, cv2.COLOR_RGB2BGR))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    cv2.imwrite(str(temporary), pixels)
    temporary.replace(path)


def evaluate(folder: Path, setup: str) -> dict[str, object]:
    """Trains and tests one setup, and predicts one image, each in its own process."""
    runs, predicted = (folder / name / setup.replace(" ", "") for name in ("runs", "predictions"))
    train = ["data=folder", f"data.root={folder}", "data.ok=ok", "data.test_ok=test_ok", "data.nok=nok"]
    train += ["data.mask=masks", f"data.val_share={HOLD / (LEARN + HOLD)}", "detector=patchcore", "defects=none"]
    seconds, memory = call("train", *train, "tracking=none", f"paths.runs={runs}", *SETUPS[setup])
    run = next(runs.glob("*/*/metrics.json")).parent
    predict = (f"run={run}", f"images={example(folder)}", f"output={predicted}", "overlays=false")
    predict_seconds, predict_memory = call("predict", *predict)
    threshold = json.loads((run / "threshold.json").read_text())["image"]
    scores: dict[str, list[float]] = {"ok": [], "nok": []}
    with (run / "predictions.csv").open() as stream:
        for row in csv.DictReader(stream):
            scores["nok" if int(row["label"]) else "ok"].append(round(float(row["score"]) / threshold, 3))
    figures = json.loads((run / "metrics.json").read_text())
    return {
        "found": sum(s > 1 for s in scores["nok"]),
        "of": len(scores["nok"]),
        "false_alarms": sum(s > 1 for s in scores["ok"]),
        "score_over_threshold": scores,
        **{key: figures[key] for key in ("image_auroc", "pixel_auroc", "aupro")},
        "train_seconds": seconds,
        "train_peak_mb": memory,
        "predict_seconds": predict_seconds,
        "predict_peak_mb": predict_memory,
    }


def call(verb: str, *arguments: str) -> tuple[float, int]:
    """Runs a command; returns its wall time in seconds and its peak memory in MB."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "anomalib_lite.cli", verb, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{verb} ended with status {status}")
    return round(time.perf_counter() - begin, 1), usage.ru_maxrss // 1024


def side_by_side(folder: Path, results: dict[str, dict[str, object]]) -> np.ndarray:
    """Draws the photograph with its spot circled, the spot at full size, and each setup's map around it.

    The maps are relative to the threshold: black is 0, the brightest colour twice the threshold.
    """
    image = example(folder)
    mask = cv2.imread(str(folder / "masks" / image.name), cv2.IMREAD_GRAYSCALE)
    pixels = cv2.imread(str(image))
    y, x = (int(v.mean()) for v in mask.nonzero())
    top, left = (int(np.clip(v - 200, 0, side - 400)) for v, side in ((y, mask.shape[0]), (x, mask.shape[1])))
    near = pixels[top : top + 400, left : left + 400]
    whole = cv2.circle(pixels.copy(), (x, y), 90, (0, 0, 255), 14)
    parts = [("4000 x 3000 px", cv2.resize(whole, (533, 400), interpolation=cv2.INTER_AREA)), ("12 x 12 px", near)]
    for setup, result in results.items():
        threshold = next((folder / "runs" / setup.replace(" ", "")).glob("*/*/threshold.json"))
        maps = folder / "predictions" / setup.replace(" ", "") / "maps"
        heat = cv2.imread(str(next(maps.rglob("*.tiff"))), cv2.IMREAD_UNCHANGED)
        heat = cv2.resize(heat, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)[top : top + 400, left : left + 400]
        level = np.clip(heat / json.loads(threshold.read_text())["pixel"], 0, 2) / 2
        drawn = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO)
        outline, _ = cv2.findContours((level > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        drawn = cv2.drawContours(drawn, outline, -1, (255, 255, 255), 2)
        parts.append((f"{setup}: {result['found']} of {result['of']} found", drawn))
    strips = []
    for title, part in parts:
        head = np.full((40, part.shape[1], 3), 255, np.uint8)
        cv2.putText(head, title, (8, 27), cv2.FONT_HERSHEY_SIMPLEX, 0.62, (0, 0, 0), 1, cv2.LINE_AA)
        strips += [np.vstack([head, part]), np.full((440, 8, 3), 255, np.uint8)]
    return np.hstack(strips[:-1])


def example(folder: Path) -> Path:
    """Returns the photograph with a spot that is predicted and drawn."""
    return sorted((folder / "nok").rglob("*.png"))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("large"))
    folder = parser.parse_args().output.absolute()
    draw(folder)
    results = {setup: evaluate(folder, setup) for setup in SETUPS}
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    cv2.imwrite(str(folder / "side_by_side.jpg"), side_by_side(folder, results), [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
