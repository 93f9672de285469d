"""A training that takes no time: `python fake.py x=1 epochs=3` leaves the files of a run whose loss is x each epoch.

A file `data` stands for its data. It fails where x is negative, has no figure `figure` where x is 13, and waits `pause`
seconds in each epoch.
"""

import json
import os
import sys
import time
from pathlib import Path


def main(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    folder = Path("runs") / given["experiment_name"] / "-".join(sorted(arguments)).replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    Path(os.environ["ANOMALIB_LITE_RECORD"]).write_text(str(folder.absolute()))
    with (folder / "starts").open("a") as stream:
        stream.write("started\n")
    (folder / "status.json").write_text(json.dumps({"state": "running", "timings": {}}))
    data = Path("data").read_text() if Path("data").is_file() else ""
    (folder / "environment.json").write_text(json.dumps({"data_fingerprint": data}))
    x = float(given["x"])
    if x < 0:
        sys.exit(f"error: x must not be negative: {x}")
    rows = ["epoch,val_loss"]
    for epoch in range(int(given.get("epochs", 2))):
        time.sleep(float(given.get("pause", 0)))
        rows.append(f"{epoch + 1},{x}")
        torn = folder / "history.tmp"
        torn.write_text("\n".join(rows))
        torn.replace(folder / "history.csv")
    figures = {} if x == 13 else {"figure": x}
    (folder / "metrics.json").write_text(json.dumps({**figures, "validation": {"mean": -x}, "missing": {}}))
    status = {"state": "done", "timings": {"train": 0.01}, "ms_per_image": 10 - x}
    (folder / "status.json").write_text(json.dumps(status))


if __name__ == "__main__":
    main(sys.argv[1:])
