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
from sklearn.metrics import roc_auc_score

from anomalib_lite.backbones import weights
from anomalib_lite.backbones.weights import place_for
from anomalib_lite.export.session import Exported
from anomalib_lite.runs.atomic import write_json
from tests.commands import only_run, ran, read_json, read_rows, refused, trained
from tests.made import write_category, write_image, write_mask


def columns(rows: list[dict[str, str]], *names: str) -> list[np.ndarray]:
    return [np.array([float(row[name]) for row in rows]) for name in names]


def test_a_run_leaves_all_its_files_and_is_done(smoke_run):
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


def test_the_configuration_is_resolved_and_complete(smoke_run):
    text = (smoke_run / "config.yaml").read_text()
    cfg = yaml.safe_load(text)
    assert "${" not in text and "???" not in text
    assert cfg["image_size"] == 96 and cfg["detector"]["epochs"] == 1 and Path(cfg["data"]["root"]).is_absolute()


def test_metrics_and_predictions_agree(smoke_run):
    """Oracle: scikit-learn's AUROC of the scores in the table; the threshold's decisions counted by hand."""
    metrics, table = read_json(smoke_run / "metrics.json"), read_rows(smoke_run / "predictions.csv")
    assert len(table) == 26 and metrics["missing"] == {}
    labels, scores, flagged = columns(table, "label", "score", "nok")
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert np.array_equal(flagged, scores > metrics["threshold"]["image"])
    assert metrics["image_detection_rate"] == pytest.approx(flagged[labels == 1].mean())
    assert metrics["image_false_alarm_rate"] == pytest.approx(flagged[labels == 0].mean())
    assert len(metrics["per_defect"]) == 10
    for name, values in metrics["per_defect"].items():
        own = [float(r["nok"]) for r in table if r["defect"] == name]
        assert (values["n"], values["recall"]) == (len(own), np.mean(own))
    assert read_json(smoke_run / "threshold.json").items() >= metrics["threshold"].items()


def test_the_threshold_comes_from_the_held_out_images_alone(smoke_run):
    threshold = read_json(smoke_run / "threshold.json")
    assert threshold["n"] == 8, "a fifth of the 40 OK images"
    assert "too few for a false-alarm rate of 0.05" in threshold["note"]


def test_the_saved_model_is_plain_tensors(smoke_run):
    with safe_open(smoke_run / "model.safetensors", "pt") as stored:
        names = list(stored.keys())
    assert all(name.startswith("method.") for name in names)
    assert {name.split(".")[1] for name in names} >= {"teacher", "student", "whitening", "gaussian"}


def test_a_runs_log_holds_this_projects_words_alone(smoke_run):
    log = (smoke_run / "run.log").read_text()
    assert "report: " in log
    for noise in ("GPU available", "Tip: ", "Trainer.fit", "eval mode"):
        assert noise not in log


def test_one_model_of_several_categories_has_figures_and_a_threshold_of_each(here):
    """Oracles: scikit-learn's AUROC and the rates, from each category's own rows of the table."""
    for number, name in enumerate(("cap", "nut")):
        for file in sorted(write_category(here / name, 10, 3, {"dent": 3}).rglob("t*/*/*.png")):
            seed = 9000 * number + int(file.stem) + len(file.parent.name) * 100
            write_image(file, seed, mark=file.parent.name == "dent")
    own = ["preset=smoke", "detector=padim", "data=mvtec_ad", "data.root=.", "data.category=[cap,nut]"]
    assert "each of several categories" in refused("train", *own, "tracking=none", "missed=nut/test/dent")
    assert not (here / "runs").exists()
    done, run = ran("train", *own, "tracking=csv"), only_run(here)
    metrics, table = read_json(run / "metrics.json"), read_rows(run / "predictions.csv")
    limits = read_json(run / "threshold.json")["categories"]
    assert {r["category"] for r in table} == set(metrics["categories"]) == {"cap", "nut"}
    for name, row in metrics["categories"].items():
        labels, scores, flagged = columns([r for r in table if r["category"] == name], "label", "score", "nok")
        assert row["n"] == 6 and row["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
        assert metrics["per_defect"][f"{name}/dent"]["image_auroc"] == row["image_auroc"], "its own good images count"
        assert row["threshold"] == limits[name]["image"] and limits[name]["n"] == 2
        assert f"{name}: 2 held-out OK images are too few" in done.out
        assert np.array_equal(flagged, scores > row["threshold"])
        assert row["image_false_alarm_rate"] == flagged[labels == 0].mean() and 0 < row["aupro"] <= 1
    assert limits["cap"]["image"] != limits["nut"]["image"]
    for key, value in metrics["mean_of_categories"].items():
        assert value == pytest.approx(np.mean([row[key] for row in metrics["categories"].values()]))
    labels, flagged = columns(table, "label", "nok")
    assert metrics["image_detection_rate"] == flagged[labels == 1].mean()
    assert "mean of the categories" in done.out and "<h2>Categories</h2>" in (run / "report.html").read_text()

    asked = ["predict", f"run={run}", "images=nut/test/good", "output=out", "maps=false", "overlays=false"]
    assert f"{limits['nut']['image']:.4g}" in ran(*asked, "category=nut").out
    scores, flagged = columns(read_rows(here / "out/predictions.csv"), "score", "nok")
    assert np.array_equal(flagged, scores > limits["nut"]["image"])
    assert "category=..." in ran(*asked).err
    photos = ["data=folder", "data.test_ok=nut/test/good", "data.nok=nut/test/dent", "category=nut"]
    for lot in (["data=mvtec_ad", "data.root=.", "data.category=nut"], photos):
        ran("evaluate", f"run={run}", *lot, "output=lot", "report=false")
        assert read_json(here / "lot/metrics.json")["threshold"]["image"] == limits["nut"]["image"]
    assert "those of cap, nut" in refused(*asked, "category=bolt")
    for name in ("cap", "nut"):
        ran("export", f"run={run}", f"category={name}")
    for name in ("cap", "nut"):  # the second export leaves the first
        file = run / f"export-onnx-fp32-{name}/model.onnx"
        about = Exported(file).about
        assert about["category"] == name and about["threshold"]["image"] == limits[name]["image"]
    again = ["predict", f"run={file}", "images=nut/test/good", "output=again", "maps=false", "overlays=false"]
    assert f"{limits['nut']['image']:.4g}" in ran(*again, "category=nut").out
    assert "those of cap, nut" in refused("export", f"run={run}", "precision=int8", "category=bolt")


def test_weights_that_the_training_itself_downloads_are_named(here, tiny, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(here / "torch"))
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


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("plain")
    return [f"paths.runs={folder}/runs", f"paths.artifacts={folder}/artifacts"]


@pytest.fixture(scope="module")
def plain(tiny, places) -> Path:
    """The run of `tiny`. Read only."""
    return trained(*tiny, *places)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(here, tiny, plain):
    again, other = (trained(*tiny, f"seed={seed}", "paths.artifacts=own") for seed in (0, 1))
    for file in ("metrics.json", "predictions.csv", "threshold.json", "history.csv", "model.safetensors"):
        assert (plain / file).read_bytes() == (again / file).read_bytes(), file
    assert plain.name == again.name != other.name
    assert (plain / "metrics.json").read_bytes() != (other / "metrics.json").read_bytes()


def test_a_run_that_is_done_is_not_run_again_unless_forced(here, tiny, plain):
    run = here / "runs/default" / plain.name
    shutil.copytree(plain, run)
    (run / "model.safetensors").write_bytes(b"sentinel")
    (run / "checkpoints").mkdir()
    (run / "checkpoints/last.ckpt").write_bytes(b"of an older training")
    again = ran("train", *tiny)
    assert f"already done: {run.relative_to(here)}" in again.err
    assert (run / "model.safetensors").read_bytes() == b"sentinel" and "made by" not in again.err
    made = read_json(run / "environment.json")
    write_json(run / "environment.json", made | {"git_commit": "0123456789abcdef"})
    assert "(012345678), this is" in ran("train", *tiny).err
    forced = ran("train", *tiny, "force=true").err
    assert "earlier training" not in forced and "resuming" not in forced and only_run(here) == run
    for file in ("metrics.json", "model.safetensors"):
        assert (run / file).read_bytes() == (plain / file).read_bytes()


def test_changed_images_are_another_run(here, tiny, tiny_set, plain, places):
    shutil.copytree(tiny_set, here / "copy" / tiny_set.name)
    assert trained(*tiny, *places, "data.root=copy") == plain, "moved images are the same"
    write_mask(here / "copy" / tiny_set.name / "test/good/000.png")
    assert trained(*tiny, "data.root=copy").name != plain.name


def test_what_differs_only_after_the_training_trains_once(here, tiny, plain, places):
    other = [*tiny, "detector.gaussian=null", "scoring=topk"]
    shared, alone = trained(*other, *places), trained(*other)
    assert shared != plain and len(list((plain.parents[2] / "artifacts").glob("trained-*"))) == 1
    for file in ("metrics.json", "history.csv"):
        assert (shared / file).read_bytes() == (alone / file).read_bytes()


@pytest.mark.parametrize(
    ("detector", "size", "steps", "epochs"),
    [("dinomaly stride=16", 4, 0, 4), ("dinomaly stride=16", 7, 3, 3), ("efficientad width=4", 4, 3, 2)],
)
def test_steps_take_the_place_of_epochs_and_are_whole_ones(here, tiny, detector, size, steps, epochs):
    """8 images are learned from. In batches of 7 the last image of an epoch is left out, and is no step."""
    rest = [o for o in tiny if not o.startswith(("detector", "batch_size"))]
    name, more = detector.split()
    rest += [f"detector={name}", f"detector.{more}", "detector.epochs=4", f"batch_size={size}"]
    run = trained(*rest, f"detector.steps={steps}")
    assert [int(row["epoch"]) for row in read_rows(run / "history.csv")] == list(range(1, epochs + 1))


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        ({"good": 3}, {"image_auroc": "no NOK images", "aupro": "no defect pixels"}),
        ({"good": 0}, {"image_auroc": "no", "image_false_alarm_rate": "no"}),
        ({"good": 3, "defects": {"dot": 2}}, {"pixel_auroc": "mask", "aupro": "mask"}),
    ],
    ids=["no NOK images", "no test images", "no masks"],
)
def test_what_the_test_images_cannot_tell_is_left_out_with_a_reason(here, tiny, shown, missing):
    shutil.rmtree(write_category(here / "sets/stripes", train=10, **shown) / "ground_truth", ignore_errors=True)
    done, run = ran("train", *tiny, "data.root=sets", "tracking=csv"), only_run(here)
    metrics = read_json(run / "metrics.json")
    for name, reason in missing.items():
        assert metrics[name] is None and reason in metrics["missing"][name]
        assert re.search(rf"{name}\b.* not available: {re.escape(metrics['missing'][name])}", done.err)
    measured = {"image_auroc", "image_false_alarm_rate"} - missing.keys()
    assert all(metrics[name] is not None for name in measured) and metrics["threshold"]["n"] == 2
    assert len(read_rows(run / "predictions.csv")) == shown["good"] + sum(shown.get("defects", {}).values())
    assert (run / "report.html").is_file()


MASK = "ground_truth/dot/001_mask.png"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: [p.unlink() for p in (s / "train/good").iterdir()], "No images in .*train/good"),
        (lambda s: shutil.rmtree(s), "has no folder train/good"),
        (lambda s: (s / MASK).unlink(), r"mask .*001_mask\.png of 001\.png is missing"),
        (lambda s: write_mask(s / MASK, (10, 10)), r"is 10 x 10 px, its image 001\.png is"),
        (lambda s: [(s / f"train/good/00{k}.png").write_bytes(b"x") for k in (1, 2)], r"00\d\.png cannot be decoded"),
        (lambda s: (s / "test/dot/000.png").write_bytes(b""), r"test/dot/000\.png cannot be decoded"),
    ],
    ids=["empty folder", "no category", "missing mask", "mask of another size", "broken training images", "empty file"],
)
def test_bad_images_are_named_without_a_traceback(here, tiny, spoil, message):
    spoil(write_category(here / "sets/stripes", train=10, good=2, defects={"dot": 2}))
    said = refused("train", *tiny, "data.root=sets")
    assert re.search(message, said.split("error: ")[-1]), said
    for run in (here / "runs/default").glob("*"):  # one that was begun says that it failed
        status = read_json(run / "status.json")
        assert status["state"] == "failed" and "UserError" in status["error"]
