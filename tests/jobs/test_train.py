"""The verb train: what a run leaves behind, that it repeats, and what it says to bad images."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from anomalib_lite.backbones import weights
from anomalib_lite.backbones.weights import place_for
from anomalib_lite.runs.atomic import write_json
from tests.commands import Command, only_run, read_json, read_rows, trained
from tests.made import write_category, write_image, write_mask


def test_a_run_leaves_all_its_files_and_is_done(smoke_run: Path):
    names = {p.name for p in smoke_run.iterdir() if not p.name.startswith("evaluation")}
    assert names == {
        "config.yaml", "environment.json", "status.json", "metrics.json", "predictions.csv", "history.csv", "figures",
        "report.html", "model.safetensors", "threshold.json", "run.log", "defects.csv", "defects.json", "inspector",
        "data.json",
    }  # fmt: skip
    status = read_json(smoke_run / "status.json")
    assert status["state"] == "done" and status["command"][0] == "anomalib-lite train"
    assert {"decode", "prepare", "train", "calibrate", "threshold", "evaluate", "report"} <= status["timings"].keys()
    assert status["ms_per_image"] > 0 and 0 < status["model_mb"] < 50
    assert status["command"][1:3] == ["preset=smoke", "detector=stfpm"], "also after the restart with glibc's settings"


def test_the_configuration_is_resolved_and_complete(smoke_run: Path):
    text = (smoke_run / "config.yaml").read_text()
    cfg = yaml.safe_load(text)
    assert "${" not in text and "???" not in text
    assert cfg["image_size"] == 96 and cfg["detector"]["epochs"] == 1 and Path(cfg["data"]["root"]).is_absolute()


def test_metrics_and_predictions_agree(smoke_run: Path):
    """Oracle: scikit-learn's AUROC of the scores in the table; the threshold's decisions counted by hand."""
    from sklearn.metrics import roc_auc_score

    metrics, table = read_json(smoke_run / "metrics.json"), read_rows(smoke_run / "predictions.csv")
    assert len(table) == 26 and metrics["missing"] == {}
    labels = np.array([int(r["label"]) for r in table])
    scores, flagged = (np.array([float(r[key]) for r in table]) for key in ("score", "nok"))
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert np.array_equal(flagged, scores > metrics["threshold"]["image"])
    assert metrics["image_detection_rate"] == pytest.approx(flagged[labels == 1].mean())
    assert metrics["image_false_alarm_rate"] == pytest.approx(flagged[labels == 0].mean())
    assert len(metrics["per_defect"]) == 10
    for name, values in metrics["per_defect"].items():
        own = [float(r["nok"]) for r in table if r["defect"] == name]
        assert (values["n"], values["recall"]) == (len(own), np.mean(own))
    assert read_json(smoke_run / "threshold.json").items() >= metrics["threshold"].items()


def test_the_threshold_comes_from_the_held_out_images_alone(smoke_run: Path):
    threshold = read_json(smoke_run / "threshold.json")
    assert threshold["n"] == 8, "a fifth of the 40 OK images"
    assert "too few for a false-alarm rate of 0.05" in threshold["note"]


def test_the_saved_model_is_plain_tensors(smoke_run: Path):
    with safe_open(smoke_run / "model.safetensors", "pt") as stored:
        names = list(stored.keys())
    assert all(name.startswith("method.") for name in names)
    assert {name.split(".")[1] for name in names} >= {"teacher", "student", "whitening", "gaussian"}


def test_one_model_of_several_categories_has_figures_and_a_threshold_of_each(run_verb: Command, tmp_path: Path):
    """Oracles: scikit-learn's AUROC and the rates, from each category's own rows of the table."""
    from sklearn.metrics import roc_auc_score

    for number, name in enumerate(("cap", "nut")):
        for file in sorted(write_category(tmp_path / name, 10, 3, {"dent": 3}).rglob("t*/*/*.png")):
            write_image(
                file, 9000 * number + int(file.stem) + len(file.parent.name) * 100, mark=file.parent.name == "dent"
            )
    own = ["preset=smoke", "detector=padim", "data=mvtec_ad", "data.root=.", "data.category=[cap,nut]"]
    done = run_verb("train", *own, "tracking=csv")
    assert done.status == 0, done.err
    run = only_run(tmp_path)
    metrics, table = read_json(run / "metrics.json"), read_rows(run / "predictions.csv")
    limits = read_json(run / "threshold.json")["categories"]
    assert {r["category"] for r in table} == set(metrics["categories"]) == {"cap", "nut"}
    for name, row in metrics["categories"].items():
        own = [r for r in table if r["category"] == name]
        labels, scores, flagged = (np.array([float(r[key]) for r in own]) for key in ("label", "score", "nok"))
        assert row["n"] == 6 and row["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
        assert metrics["per_defect"][f"{name}/dent"]["image_auroc"] == row["image_auroc"], "its own good images count"
        assert row["threshold"] == limits[name]["image"] and limits[name]["n"] == 2
        assert f"{name}: 2 held-out OK images are too few" in done.out
        assert np.array_equal(flagged, scores > row["threshold"])
        assert row["image_false_alarm_rate"] == flagged[labels == 0].mean() and 0 < row["aupro"] <= 1
    assert limits["cap"]["image"] != limits["nut"]["image"]
    for key, value in metrics["mean_of_categories"].items():
        assert value == pytest.approx(np.mean([row[key] for row in metrics["categories"].values()]))
    labels, flagged = (np.array([float(r[key]) for r in table]) for key in ("label", "nok"))
    assert metrics["image_detection_rate"] == flagged[labels == 1].mean()
    assert "mean of the categories" in done.out and "<h2>Categories</h2>" in (run / "report.html").read_text()

    asked = [f"run={run}", "images=nut/test/good", "output=out", "maps=false", "overlays=false"]
    told = run_verb("predict", *asked, "category=nut")
    scores = np.array([[float(r["score"]), float(r["nok"])] for r in read_rows(tmp_path / "out/predictions.csv")])
    assert f"{limits['nut']['image']:.4g}" in told.out
    assert np.array_equal(scores[:, 1], scores[:, 0] > limits["nut"]["image"])
    assert "category=..." in run_verb("predict", *asked).err
    photos = ["data=folder", "data.test_ok=nut/test/good", "data.nok=nut/test/dent", "category=nut"]
    for lot in (["data=mvtec_ad", "data.root=.", "data.category=nut"], photos):
        done = run_verb("evaluate", f"run={run}", *lot, "output=lot", "report=false")
        assert done.status == 0, done.err
        assert read_json(tmp_path / "lot/metrics.json")["threshold"]["image"] == limits["nut"]["image"]
    wrong = run_verb("predict", *asked, "category=bolt")
    assert wrong.status == 2 and "those of cap, nut" in wrong.err


def test_weights_that_the_training_itself_downloads_are_named(
    run_verb: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = "test_resnet.r160_in1k"
    state = timm.create_model(name).state_dict()

    def download(name: str) -> dict[str, Any]:
        place_for(name).parent.mkdir(parents=True)
        save_file(state, place_for(name))
        return state

    monkeypatch.setattr(weights, "_download", download)
    run = trained(*tiny, f"backbone.name={name}", "backbone.weights=timm")
    assert read_json(run / "status.json")["weights"]["file"] == place_for(name).name


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(run_verb: Command, tiny: list[str], tmp_path: Path):
    first, second, other = (
        trained(*tiny, f"seed={seed}", f"paths.runs={place}", f"paths.artifacts={place}")
        for place, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for file in ("metrics.json", "predictions.csv", "threshold.json", "history.csv", "model.safetensors"):
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
    assert first.name == second.name != other.name
    assert (first / "metrics.json").read_bytes() != (other / "metrics.json").read_bytes()


def test_a_run_that_is_done_is_not_run_again_unless_forced(run_verb: Command, tiny: list[str], tmp_path: Path):
    run = trained(*tiny)
    before = (run / "metrics.json").read_bytes()
    (run / "model.safetensors").write_bytes(b"sentinel")
    (run / "checkpoints").mkdir()
    (run / "checkpoints/last.ckpt").write_bytes(b"of an older training")
    again = run_verb("train", *tiny)
    assert again.status == 0 and f"already done: {run.relative_to(tmp_path)}" in again.err
    assert (run / "model.safetensors").read_bytes() == b"sentinel" and "made by" not in again.err
    made = read_json(run / "environment.json")
    write_json(run / "environment.json", made | {"git_commit": "0123456789abcdef"})
    assert "(012345678), this is" in run_verb("train", *tiny).err
    forced = run_verb("train", *tiny, "force=true")
    assert forced.status == 0 and "earlier training" not in forced.err and "resuming" not in forced.err
    assert (run / "model.safetensors").read_bytes() != b"sentinel"
    assert (run / "metrics.json").read_bytes() == before and only_run(tmp_path) == run


def test_changed_images_are_another_run(run_verb: Command, tiny: list[str], tiny_set: Path, tmp_path: Path):
    run = trained(*tiny)
    shutil.copytree(tiny_set, tmp_path / "copy" / tiny_set.name)
    assert trained(*tiny, "data.root=copy") == run, "moved images are the same"
    write_mask(tmp_path / "copy" / tiny_set.name / "test/good/000.png")
    assert trained(*tiny, "data.root=copy") != run


def test_what_differs_only_after_the_training_trains_once(run_verb: Command, tiny: list[str], tmp_path: Path):
    first, other = trained(*tiny), [*tiny, "detector.gaussian=null", "scoring=topk"]
    shared, alone = trained(*other), trained(*other, "paths.runs=alone", "paths.artifacts=alone")
    assert shared != first and len(list((tmp_path / "artifacts").glob("trained-*"))) == 1
    for file in ("metrics.json", "history.csv"):
        assert (shared / file).read_bytes() == (alone / file).read_bytes()


@pytest.mark.parametrize(("detector", "more"), [("dinomaly", "stride=16"), ("efficientad", "width=4")])
def test_steps_take_the_place_of_epochs_and_are_whole_ones(
    run_verb: Command, tiny: list[str], tmp_path: Path, detector: str, more: str
):
    """8 images are learned from. In batches of 7 the last image of an epoch is left out, and is no step."""
    rest = [o for o in tiny if not o.startswith(("detector", "batch_size"))]
    rest += [f"detector={detector}", f"detector.{more}", "detector.epochs=4"]
    for size, steps, epochs in ((4, 0, 4), (4, 3, 2), (7, 3, 3)):
        run = trained(*rest, f"batch_size={size}", f"detector.steps={steps}")
        assert [int(row["epoch"]) for row in read_rows(run / "history.csv")] == list(range(1, epochs + 1))


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        ({"good": 3}, {"image_auroc": "no NOK images", "aupro": "no defect pixels"}),
        ({"good": 0}, {"image_auroc": "no", "image_false_alarm_rate": "no"}),
        ({"good": 3, "defects": {"dot": 2}, "masks": False}, {"pixel_auroc": "mask", "aupro": "mask"}),
    ],
    ids=["no NOK images", "no test images", "no masks"],
)
def test_what_the_test_images_cannot_tell_is_left_out_with_a_reason(
    run_verb: Command, tiny: list[str], tmp_path: Path, shown: dict[str, Any], missing: dict[str, str]
):
    write_category(tmp_path / "sets/stripes", train=10, **shown)
    done = run_verb("train", *tiny, "data.root=sets", "tracking=csv")
    assert done.status == 0, done.err
    run = only_run(tmp_path)
    metrics = read_json(run / "metrics.json")
    for name, reason in missing.items():
        assert metrics[name] is None and reason in metrics["missing"][name]
        assert re.search(rf"{name}\b.* not available: {re.escape(metrics['missing'][name])}", done.err)
    measured = {"image_auroc", "image_false_alarm_rate"} - missing.keys()
    assert all(metrics[name] is not None for name in measured) and metrics["threshold"]["n"] == 2
    assert len(read_rows(run / "predictions.csv")) == shown["good"] + sum(shown.get("defects", {}).values())
    assert (run / "report.html").is_file()


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    return write_category(tmp_path / "sets" / "stripes", train=10, good=2, defects={"dot": 2})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: [p.unlink() for p in (s / "train/good").iterdir()], "No images in .*train/good"),
        (lambda s: shutil.rmtree(s), "has no folder train/good"),
        (lambda s: (s / "ground_truth/dot/001_mask.png").unlink(), r"mask .*001_mask\.png of 001\.png is missing"),
        (lambda s: write_mask(s / "ground_truth/dot/001_mask.png", (10, 10)), r"is 10 x 10 px, its image 001\.png is"),
        (
            lambda s: [p.write_bytes(b"x") for p in (s / "train/good").glob("00[1-4]*")],
            r"00\d\.png cannot be decoded",
        ),
        (lambda s: (s / "test/dot/000.png").write_bytes(b""), r"test/dot/000\.png cannot be decoded"),
    ],
    ids=["empty folder", "no category", "missing mask", "mask of another size", "broken training images", "empty file"],
)
def test_bad_images_are_named_without_a_traceback(
    run_verb: Command, tiny: list[str], own_set: Path, tmp_path: Path, spoil, message: str
):
    spoil(own_set)
    done = run_verb("train", *tiny, "data.root=sets")
    assert done.status == 2 and "Traceback" not in done.err
    assert re.search(message, done.err.split("error: ")[-1]), done.err
    for run in (tmp_path / "runs/default").glob("*"):  # one that was begun says that it failed
        status = read_json(run / "status.json")
        assert status["state"] == "failed" and "UserError" in status["error"]
