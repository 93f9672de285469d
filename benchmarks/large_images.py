"""A defect of 12 x 12 px on a photograph of 4000 x 3000 px: found with tiles, lost without.

    python benchmarks/large_images.py --output large

draws panels of the built-in product, puts one small spot on each of some copies, trains once with tiles and twice
without on the same photographs, judges all with `predict`, and writes results.json and side_by_side.jpg.
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

from anomalib_lite.rendering.sheet import render_sheet
from anomalib_lite.settings.data import SheetConfig

SPOT = 12  # px
LEARN, HOLD, TEST = 12, 19, 6  # panels; 19 held out are the fewest that promise a false-alarm rate of 0.05
KINDS = {"hole": (18, 17, 20), "fleck": (235, 232, 228), "foreign": (60, 70, 150)}  # RGB
WAYS = {
    "tiles": ["tiling=grid", "image_size=native"],
    "1024 x 768": ["image_size=[768,1024]"],
    "256 x 256": ["image_size=256"],
}


def draw(folder: Path) -> None:
    """ok/ to learn from and hold out, test/ok, and test/nok/<kind> with their masks; what is there stays."""
    config = SheetConfig(width=4000, height=3000, nok_share=0.0)
    for number in range(LEARN + HOLD + TEST):
        learned = number < LEARN + HOLD
        path = folder / ("ok" if learned else "test_ok") / f"{number:03d}.png"
        if path.is_file():
            continue
        sheet = render_sheet(config, (20, number))
        if not learned:
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
    part = path.with_name(f".{path.name}")
    cv2.imwrite(str(part), pixels)
    part.replace(path)


def judge(folder: Path, way: str) -> dict[str, object]:
    """Trains one way, which judges all test images, and predicts one of them, each in a process of its own."""
    runs, predicted = (folder / name / way.replace(" ", "") for name in ("runs", "predictions"))
    train = ["data=folder", f"data.root={folder}", "data.ok=ok", "data.test_ok=test_ok", "data.nok=nok"]
    train += ["data.mask=masks", f"data.val_share={HOLD / (LEARN + HOLD)}", "detector=patchcore", "defects=none"]
    seconds, memory = call("train", *train, "tracking=none", f"paths.runs={runs}", *WAYS[way])
    run = next(runs.glob("*/*/metrics.json")).parent
    image = shown(folder)
    each, needed = call("predict", f"run={run}", f"images={image}", f"output={predicted}", "overlays=false")
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
        "predict_seconds": each,
        "predict_peak_mb": needed,
    }


def call(verb: str, *arguments: str) -> tuple[float, int]:
    """Seconds, and the largest memory of the process in MB."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "anomalib_lite.cli", verb, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{verb} ended with {status}")
    return round(time.perf_counter() - begin, 1), usage.ru_maxrss // 1024


def side_by_side(folder: Path, results: dict[str, dict[str, object]]) -> np.ndarray:
    """The whole photograph with its spot ringed, the spot at full size, and around it each way's map over its
    threshold: black is 0, white twice the threshold.
    """
    image = shown(folder)
    mask = cv2.imread(str(folder / "masks" / image.name), cv2.IMREAD_GRAYSCALE)
    pixels = cv2.imread(str(image))
    y, x = (int(v.mean()) for v in mask.nonzero())
    top, left = (int(np.clip(v - 200, 0, side - 400)) for v, side in ((y, mask.shape[0]), (x, mask.shape[1])))
    near = pixels[top : top + 400, left : left + 400]
    whole = cv2.circle(pixels.copy(), (x, y), 90, (0, 0, 255), 14)
    parts = [("4000 x 3000 px", cv2.resize(whole, (533, 400), interpolation=cv2.INTER_AREA)), ("12 x 12 px", near)]
    for way, result in results.items():
        run = next((folder / "runs" / way.replace(" ", "")).glob("*/*/threshold.json"))
        place = folder / "predictions" / way.replace(" ", "") / "maps"
        map = cv2.imread(str(next(place.rglob("*.tiff"))), cv2.IMREAD_UNCHANGED)
        map = cv2.resize(map, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)[top : top + 400, left : left + 400]
        level = np.clip(map / json.loads(run.read_text())["pixel"], 0, 2) / 2
        drawn = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO)
        outline, _ = cv2.findContours((level > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        drawn = cv2.drawContours(drawn, outline, -1, (255, 255, 255), 2)
        parts.append((f"{way}: {result['found']} of {result['of']} found", drawn))
    strips = []
    for title, part in parts:
        head = np.full((40, part.shape[1], 3), 255, np.uint8)
        cv2.putText(head, title, (8, 27), cv2.FONT_HERSHEY_SIMPLEX, 0.62, (0, 0, 0), 1, cv2.LINE_AA)
        strips += [np.vstack([head, part]), np.full((440, 8, 3), 255, np.uint8)]
    return np.hstack(strips[:-1])


def shown(folder: Path) -> Path:
    """The spotted photograph that is predicted and drawn."""
    return sorted((folder / "nok").rglob("*.png"))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("large"))
    folder = parser.parse_args().output.absolute()
    draw(folder)
    results = {way: judge(folder, way) for way in WAYS}
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    cv2.imwrite(str(folder / "side_by_side.jpg"), side_by_side(folder, results), [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
