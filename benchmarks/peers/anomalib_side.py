"""The peer's side of benchmarks/peer.py: measures anomalib's classes; run by the Python that has anomalib.

    python anomalib_side.py TASK JOB.json

Where its backbones ask timm for pretrained weights, they get the job's; nothing of its code is changed or copied. The
last line of the output is RESULT and a JSON object.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from anomalib.data import Folder, ImageBatch, InferenceBatch
from anomalib.engine import Engine
from anomalib.metrics import AUPRO, AUROC, Evaluator
from anomalib.models import Padim, Patchcore, Stfpm
from anomalib.pre_processing import PreProcessor
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torchvision.transforms.v2 import Compose, Normalize, Resize

JOB: dict[str, Any] = json.loads(Path(sys.argv[2]).read_text())


def given_weights(create: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps timm.create_model so that pretrained weights come from the job's file."""

    def make(name: str, *args: Any, pretrained: bool = False, pretrained_cfg: Any = None, **more: Any) -> Any:
        net = create(name, *args, pretrained=False, **more)
        if pretrained:
            missing = net.load_state_dict(load_file(JOB["weights"]), strict=False).missing_keys
            assert not missing, missing
        return net

    return make


timm.create_model = given_weights(timm.create_model)


def model_of(name: str, channels: int | None = None) -> Any:
    """Creates a model with the job's backbone, preprocessing and test metrics, without visualisation."""
    metrics = Evaluator(test_metrics=measures())
    steps = Compose([Resize(tuple(JOB["size"]), antialias=True), Normalize(JOB["mean"], JOB["std"])])
    shared = {
        "backbone": JOB["backbone"],
        "pre_processor": PreProcessor(transform=steps),
        "evaluator": metrics,
        "visualizer": False,
        "post_processor": False,  # its normalisation needs validation images
    }
    if name == "stfpm":
        return Stfpm(layers=JOB["layers"], **shared)
    if name == "padim":
        return Padim(layers=JOB["layers"][1:], n_features=JOB["channels"], **shared)
    return Patchcore(layers=JOB["layers"][1:], coreset_sampling_ratio=JOB["coreset"], num_neighbors=1, **shared)


def measures() -> list[Any]:
    return [
        AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
        AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_"),
        AUPRO(fields=["anomaly_map", "gt_mask"]),
    ]


def data() -> Folder:
    defects = JOB["defects"]
    return Folder(
        name="benchmark",
        root=JOB["data"],
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{defect}" for defect in defects],
        mask_dir=[f"ground_truth/{defect}" for defect in defects],
        extensions=(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"),
        train_batch_size=JOB["batch"],
        eval_batch_size=JOB["batch"],
        num_workers=0,
        val_split_mode="none",
        test_split_mode="from_dir",
    )


def engine(*callbacks: Callback, **more: Any) -> Engine:
    return Engine(
        callbacks=list(callbacks),
        default_root_dir=JOB["work"],
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        **more,
    )


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(begin: tuple[float, float]) -> dict[str, float]:
    return {"wall": time.perf_counter() - begin[0], "cpu": time.process_time() - begin[1]}


def fit(name: str) -> dict[str, Any]:
    """Measures the seconds of fitting and of testing, and returns them with the figures."""
    torch.manual_seed(0)
    model, images, runner = model_of(name), data(), engine()
    model.model.register_forward_hook(below_one)
    begin = clocks()
    images.setup()
    runner.fit(model, train_dataloaders=images.train_dataloader())
    fitted = since(begin)
    begin = clocks()
    figures = runner.test(model, dataloaders=images.test_dataloader(), verbose=False)[0]
    named = {key.lower(): round(float(value), 4) for key, value in figures.items()}
    return {"fit": fitted, "test": since(begin), "figures": named}


def below_one(_: Any, inputs: Any, out: Any) -> Any:
    """Maps distances monotonically to below 1, as torchmetrics applies a sigmoid to larger values, which saturates."""
    if not isinstance(out, InferenceBatch):
        return out
    score, distances = out.pred_score, out.anomaly_map
    return out._replace(pred_score=score / (1 + score), anomaly_map=distances / (1 + distances))


class Epochs(Callback):
    """Records the seconds of each epoch, and the test AUROC after it, whose time is not counted."""

    def __init__(self, images: Folder) -> None:
        self.images, self.rows = images, []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.begin = clocks()

    def on_train_epoch_end(self, trainer: Any, model: Any) -> None:
        spent = since(self.begin)
        model.eval()
        score, label = AUROC(fields=["pred_score", "gt_label"]), []
        with torch.inference_mode():
            for batch in self.images.test_dataloader():
                predicted = model.model(model.pre_processor(batch.image))
                score.update(ImageBatch(image=batch.image, pred_score=predicted.pred_score, gt_label=batch.gt_label))
                label.append(batch.gt_label)
        model.train()
        self.rows.append({**spent, "image_auroc": round(float(score.compute()), 4)})
        if self.rows[-1]["image_auroc"] >= JOB["goal"]:
            trainer.should_stop = True


def epochs() -> dict[str, Any]:
    torch.manual_seed(JOB["seed"])
    model, images = model_of("stfpm"), data()
    images.setup()
    recorder = Epochs(images)
    engine(recorder, max_epochs=JOB["epochs"]).fit(model, train_dataloaders=images.train_dataloader())
    return {"epochs": recorder.rows}


def ready(name: str) -> Any:
    """Returns a model with random statistics, which is as fast as a fitted one."""
    model = model_of(name)
    if name == "padim":
        positions, channels = JOB["positions"], JOB["channels"]
        model.model.gaussian.mean = torch.rand(channels, positions)
        model.model.gaussian.inv_covariance = torch.rand(positions, channels, channels)
    if name == "patchcore":
        model.model.memory_bank = torch.rand(JOB["bank"], sum(model.model.feature_extractor.out_dims))
    return model.eval()


def infer(name: str) -> dict[str, Any]:
    """Measures the milliseconds per image at each batch size: one value per repeat, after a warm-up."""
    model, milliseconds = ready(name), {}
    for count in JOB["batches"]:
        image = torch.rand(count, 3, *JOB["size"])
        with torch.inference_mode():
            milliseconds[count] = repeated(lambda image=image: model(image), count)
    return milliseconds


def repeated(call: Callable[[], Any], count: int) -> list[dict[str, float]]:
    loops, spent = max(1, JOB["loops"] // count), []
    for _ in range(JOB["repeats"] + 1):
        begin = clocks()
        for _ in range(loops):
            call()
        spent.append({clock: 1000 * value / (loops * count) for clock, value in since(begin).items()})
    return spent[1:]


def evaluate() -> dict[str, Any]:
    """Measures the seconds for image AUROC, pixel AUROC and AUPRO of the job's maps."""
    saved = np.load(JOB["maps"])
    maps, masks = torch.from_numpy(saved["maps"]), torch.from_numpy(saved["masks"])
    scores, labels = maps.amax((1, 2)), torch.from_numpy(saved["labels"]).bool()
    spent: list[dict[str, float]] = []
    for _ in range(JOB["repeats"]):
        begin, metrics = clocks(), measures()
        for part in torch.arange(len(maps)).split(JOB["batch"]):
            batch = ImageBatch(
                image=torch.zeros(len(part), 3, 1, 1), anomaly_map=maps[part], gt_mask=masks[part],
                pred_score=scores[part], gt_label=labels[part],
            )  # fmt: skip
            for metric in metrics:
                metric.update(batch)
        values = [round(float(metric.compute()), 6) for metric in metrics]
        spent.append(since(begin))
    return {"seconds": spent, "figures": dict(zip(("image_auroc", "pixel_auroc", "aupro"), values, strict=True))}


def main() -> None:
    torch.set_num_threads(1)
    task, _, name = sys.argv[1].partition("-")
    result = globals()[task](*([name] if name else []))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result |= {"peak_mb": round(usage.ru_maxrss / 1024), "process_cpu": usage.ru_utime + usage.ru_stime}
    print("RESULT", json.dumps(result))


if __name__ == "__main__":
    main()
