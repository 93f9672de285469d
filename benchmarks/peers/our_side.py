"""This project's side of benchmarks/peer.py; also prepares the data and weights for both sides.

    python our_side.py TASK JOB.json

The last line of the output is RESULT and a JSON object.
"""

import contextlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback

from anomalib_lite import cli
from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import Batch, Splits
from anomalib_lite.detectors.model import Model
from anomalib_lite.engine.build import Plan, build_data, build_plan
from anomalib_lite.engine.trainer import OnDevice, fit_model, make_trainer
from anomalib_lite.metrics import ImageMetrics, PixelMetrics
from anomalib_lite.runs.folder import RECORD, RunFolder
from anomalib_lite.settings import conf_dir

JOB: dict[str, Any] = json.loads(Path(sys.argv[2]).read_text())
FIGURES = ("image_auroc", "pixel_auroc", "aupro")


def options(detector: str) -> list[str]:
    """Returns the options of `train`."""
    args = [f"detector={detector}", "data=mvtec_ad", f"data.root={JOB['root']}", f"data.category={JOB['category']}"]
    args += [f"paths.runs={JOB['work']}/runs", f"paths.artifacts={JOB['work']}/artifacts", f"seed={JOB['seed']}"]
    args += ["tracking=none", "threads=1"]
    if JOB["shots"]:
        args.append(f"data.shots={JOB['shots']}")
    if detector == "patchcore":
        args.append(f"detector.bank={JOB['coreset']}")
    if detector == "stfpm_plain":
        args.append(f"batch_size={JOB['batch']}")
    return args


def planned(detector: str) -> tuple[Plan, Splits]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", options(detector))
    torch.manual_seed(JOB["seed"])
    return build_plan(cfg), build_data(cfg.data)


def prepare() -> dict[str, Any]:
    """Prepares what both sides share: links to the training and test images, and the backbone's weights."""
    import timm
    from safetensors.torch import save_file

    from anomalib_lite.backbones.weights import load_weights

    plan, splits = planned("padim")
    folder = Path(JOB["work"]) / "data"
    link_data(folder, splits)
    backbone = plan.settings["backbone"]
    net = timm.create_model(backbone["name"])
    load_weights(net, backbone["weights"], backbone["name"])
    save_file(net.state_dict(), Path(JOB["work"]) / "weights.safetensors")
    return {
        "data": str(folder),
        "weights": f"{JOB['work']}/weights.safetensors",
        "defects": sorted({s.defect for s in splits.test if s.defect}),
        **{"images": len(splits.train), "tested": len(splits.test), "backbone": backbone["name"]},
        **{key: list(backbone[key]) for key in ("mean", "std", "layers")},
        "size": list(plan.size),
    }


def link_data(folder: Path, splits: Splits) -> None:
    """Fills a folder with links to the training and test images, and removes those of earlier data."""
    shutil.rmtree(folder, ignore_errors=True)
    for sample in splits.train + splits.test:
        subfolder = "train/good" if sample in splits.train else f"test/{sample.defect or 'good'}"
        _link(folder / subfolder / sample.image.name, sample.image)
        if sample.mask:
            _link(folder / "ground_truth" / (sample.defect or "") / sample.mask.name, sample.mask)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target.absolute())


def fit(detector: str) -> dict[str, Any]:
    """Measures the seconds of fitting, including decoding, and of testing in a `train`, and returns its figures."""
    seconds: dict[str, dict[str, float]] = {}
    plain = RunFolder.stage

    @contextlib.contextmanager
    def stage(run: RunFolder, name: str) -> Iterator[None]:
        begin = clocks()
        with plain(run, name):
            yield
        seconds[name] = since(begin)

    RunFolder.stage = stage  # type: ignore[method-assign]  # measured as the command runs it
    os.environ[RECORD] = f"{JOB['work']}/record"
    sys.argv = ["anomalib-lite", "train", *options(detector), "force=true"]
    cli.main()
    run = RunFolder(Path(os.environ[RECORD]).read_text())
    fitted = [seconds[name] for name in ("inputs", "decode", "prepare", "train", "calibrate") if name in seconds]
    return {
        "fit": {clock: sum(part[clock] for part in fitted) for clock in ("wall", "cpu")},
        "test": seconds["evaluate"],
        "figures": {name: round(run.metrics[name], 4) for name in FIGURES},
        "run": str(run.path),
    }


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(begin: tuple[float, float]) -> dict[str, float]:
    return {"wall": time.perf_counter() - begin[0], "cpu": time.process_time() - begin[1]}


class Epochs(Callback):
    """Records the seconds of each epoch, those of preparation and calibration (`besides`), and the test AUROC.

    The time of the test is not counted.
    """

    def __init__(self, model: Model, images: OnDevice, test: ImageSet, prepared: dict[str, float]) -> None:
        self.model, self.images, self.test, self.prepared, self.rows = model, images, test, prepared, []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.begin = clocks()

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        spent = since(self.begin)
        model = self.model
        copy = Model(deepcopy(model.method), model.views, model.blur, model.score).eval()
        begin = clocks()
        copy.calibrate(self.images)
        besides = {clock: value + self.prepared[clock] for clock, value in since(begin).items()}
        metrics = ImageMetrics()
        for batch in loader(self.test, JOB["batch"]):
            metrics.update(copy.predict_batch(batch).score, batch.label.tolist())
        auroc = metrics.compute().values["image_auroc"]
        self.rows.append({**spent, "besides": besides, "image_auroc": round(auroc, 4)})
        if auroc >= JOB["goal"]:
            trainer.should_stop = True


def epochs(detector: str) -> dict[str, Any]:
    begin = clocks()
    plan, splits = planned(detector)
    train, test = (ImageSet(part, plan.size) for part in (splits.train, splits.test))
    model, ordered = plan.model(None, None), OnDevice(loader(train, plan.batch_size), torch.device("cpu"))
    model.prepare(ordered)
    recorder = Epochs(model, ordered, test, since(begin))
    trainer = make_trainer(plan.trainer, [recorder], None, max_epochs=JOB["epochs"], enable_checkpointing=False)
    fit_model(trainer, model, loader(train, plan.batch_size, shuffle_seed=plan.seed))
    return {"epochs": recorder.rows}


class OneBatch(list):
    """Stands in for a loader with one batch of random OK images."""

    def __init__(self, count: int) -> None:
        flags, image = torch.ones(count), torch.rand(count, 3, *JOB["size"])
        image = image.contiguous(memory_format=torch.channels_last)
        super().__init__([Batch(image, image[:, :1] > 2, flags.bool(), flags.long() * 0, flags, torch.arange(count))])
        self.dataset = range(count)


def ready(detector: str) -> Model:
    """Returns a model calibrated on random images, which is as fast as a fitted one."""
    plan, _ = planned(detector)
    if detector == "fusion":
        raise SystemExit("A fusion cannot learn from random images: measure its export with benchmarks/latency.py.")
    model = plan.model(None, None)
    if detector == "patchcore":
        model.method.size = JOB["bank"]
    images = OneBatch(16)
    model.prepare(images)  # type: ignore[arg-type]  # batches in memory or from a loader
    model.calibrate(images)  # type: ignore[arg-type]  # batches in memory or from a loader
    return model.eval()


def infer(detector: str) -> dict[str, Any]:
    """Measures the milliseconds per image at each batch size: one value per repeat, after a warm-up."""
    model, milliseconds = ready(detector), {}
    for count in JOB["batches"]:
        batch = OneBatch(count)[0]
        milliseconds[count] = repeated(lambda batch=batch: model.predict_batch(batch), count)
    return milliseconds


def repeated(call: Callable[[], Any], count: int) -> list[dict[str, float]]:
    loops, spent = max(1, JOB["loops"] // count), []
    for _ in range(JOB["repeats"] + 1):
        begin = clocks()
        for _ in range(loops):
            call()
        spent.append({clock: 1000 * value / (loops * count) for clock, value in since(begin).items()})
    return spent[1:]


def maps() -> dict[str, Any]:
    """Writes the test images' maps of a fitted PaDiM, on which both sides compute metrics."""
    plan, splits = planned("padim")
    model, train, test = plan.model(None, None), ImageSet(splits.train, plan.size), ImageSet(splits.test, plan.size)
    model.calibrate(loader(train, plan.batch_size))  # type: ignore[arg-type]  # batches in memory or from a loader
    batches = [(model.predict_batch(b).map[:, 0], b.mask[:, 0], b.label) for b in loader(test, JOB["batch"])]
    predicted, masks, labels = (torch.cat(part).numpy() for part in zip(*batches, strict=True))
    path = f"{JOB['work']}/maps.npz"
    np.savez(path, maps=predicted, masks=masks, labels=labels)
    return {"maps": path, "channels": len(model.method.kept), "positions": len(model.method.gaussians[0].mean)}


def evaluate() -> dict[str, Any]:
    """Measures the seconds for image AUROC, pixel AUROC, AUPRO and the classes' other metrics of the job's maps."""
    saved = np.load(JOB["maps"])
    maps, masks, labels = saved["maps"], saved["masks"], saved["labels"].tolist()
    scores, spent = maps.max((1, 2)), []
    for _ in range(JOB["repeats"]):
        begin, by_image, by_pixel = clocks(), ImageMetrics(), PixelMetrics()
        for start in range(0, len(maps), JOB["batch"]):
            part = slice(start, start + JOB["batch"])
            by_image.update(scores[part], labels[part])
            by_pixel.update(maps[part], masks[part], labels[part])
        values = by_image.compute().values | by_pixel.compute().values
        spent.append(since(begin))
    return {"seconds": spent, "figures": {name: round(values[name], 6) for name in FIGURES}}


def limits() -> dict[str, Any]:
    """Measures the core's peak rates, and compares the backbone's forward pass with its roofline.

    A layer's lower bound is its operations at the rate of a matrix product, or its bytes (input, weights and output,
    once each) at the rate of a copy, whichever takes longer.
    """
    a, b, block = torch.rand(1024, 1024), torch.rand(1024, 1024), torch.rand(64 << 20)
    into = torch.empty_like(block)
    rate = 2 * 1024**3 / min(_seconds(lambda: a @ b) for _ in range(9))
    bandwidth = 2 * 4 * block.numel() / min(_seconds(lambda: into.copy_(block)) for _ in range(9))
    backbone, image = planned("padim")[0].model(None, None).method.backbone, OneBatch(16)[0].image
    least = {"operations": 0.0, "bytes": 0.0, "seconds": 0.0}

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        weights = sum(p.numel() for p in module.parameters(recurse=False))
        moved = 4 * (inputs[0].numel() + weights + out.numel())
        operations = 2 * module.weight[0].numel() * out.numel() if isinstance(module, torch.nn.Conv2d) else 0
        least["operations"] += operations
        least["bytes"] += moved
        least["seconds"] += max(operations / rate, moved / bandwidth)

    leaves = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d | torch.nn.ReLU6)]
    hooks = [m.register_forward_hook(count) for m in leaves]
    with torch.inference_mode():
        backbone(image)
        for hook in hooks:
            hook.remove()
        taken = min(_seconds(lambda: backbone(image)) for _ in range(9))
    per_image = {name: value / len(image) for name, value in least.items()}
    return {"flop_per_s": rate, "bytes_per_s": bandwidth, **per_image, "taken": taken / len(image)}


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def main() -> None:
    torch.set_num_threads(1)
    task, _, name = sys.argv[1].partition("-")
    result = globals()[task](*([name] if name else []))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result |= {"peak_mb": round(usage.ru_maxrss / 1024), "process_cpu": usage.ru_utime + usage.ru_stime}
    print("RESULT", json.dumps(result))


if __name__ == "__main__":
    main()
