"""The verb evaluate: the training's own figures again, or those on another data set."""

import json
from pathlib import Path

import pytest

from tests.commands import Command, read_rows
from tests.made import write_category


def read(folder: Path, name: str = "metrics.json") -> dict:
    return json.loads((folder / name).read_text())


def predictions(folder: Path) -> dict[str, float]:
    return {row["image"]: float(row["score"]) for row in read_rows(folder / "predictions.csv")}


def close(first: object, second: object) -> bool:
    """The same structure, and numbers to 1e-5."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(close(first[key], second[key]) for key in first)
    return first == (pytest.approx(second, rel=1e-5) if isinstance(second, float) else second)


@pytest.mark.parametrize("kind", ["csv", "none"])
def test_on_its_own_data_a_run_gets_the_trainings_figures(
    run_verb: Command, smoke_run: Path, tmp_path: Path, kind: str
):
    done = run_verb("evaluate", f"run={smoke_run}", f"output={tmp_path}/out", f"tracking.kind={kind}")
    assert done.status == 0, done.err
    assert close(read(tmp_path / "out"), read(smoke_run))
    assert read(tmp_path / "out", "status.json")["state"] == "done"
    assert (tmp_path / "out/report.html").exists() == (kind == "csv")
    again, own = predictions(tmp_path / "out"), predictions(smoke_run)
    assert again.keys() == own.keys() and len(own) == 26
    for image, score in again.items():
        assert score == pytest.approx(own[image], rel=1e-6), image


def test_another_data_set_is_measured_with_the_same_threshold(run_verb: Command, smoke_run: Path, tmp_path: Path):
    write_category(tmp_path / "sets/stripes", train=5, good=3, defects={"dot": 2})
    other = ["data=mvtec_ad", f"data.root={tmp_path}/sets", "data.category=stripes", "tracking.kind=none"]
    done = run_verb("evaluate", f"run={smoke_run}", f"output={tmp_path}/out", *other)
    assert done.status == 0, done.err
    metrics = read(tmp_path / "out")
    assert metrics["threshold"] == read(smoke_run)["threshold"]
    assert metrics["per_defect"].keys() == {"dot"} and metrics["counts"]["ok_images"] == 3


def test_a_run_that_is_none_is_named_and_others_of_a_sweep_go_on(run_verb: Command, smoke_run: Path, tmp_path: Path):
    done = run_verb("evaluate", "-m", f"run={tmp_path},{smoke_run}", f"output={tmp_path}/out", "tracking.kind=none")
    assert done.status == 1 and "1 of 2 jobs of the sweep failed" in done.err
    assert f"anomalib-lite evaluate run={tmp_path}" in done.err and "holds no finished training" in done.err
    assert read(tmp_path / "out", "status.json")["state"] == "done"


def test_several_runs_on_several_data_sets_make_one_table(run_verb: Command, smoke_run: Path, tmp_path: Path):
    write_category(tmp_path / "sets/stripes", train=5, good=3, defects={"dot": 2})
    (tmp_path / "runs").mkdir()
    for name in ("first", "second"):
        (tmp_path / "runs" / name).symlink_to(smoke_run)
    (tmp_path / "runs" / "killed").mkdir()
    (tmp_path / "runs/killed/status.json").write_text('{"state": "running"}')
    other = f"{{data: mvtec_ad, root: {tmp_path}/sets, category: stripes}}"
    done = run_verb(
        "evaluate", f"run=[{tmp_path}/runs/first,{tmp_path}/runs/killed]", f"sets={{own: null, stripes: {other}}}",
        f"output={tmp_path}/out", "tracking.kind=none",
    )  # fmt: skip
    assert done.status == 2 and "2 of 4 could not be measured" in done.err and "killed on own" in done.err
    rows = {row["data"]: row for row in read_rows(tmp_path / "out/evaluations.csv")}
    assert float(rows["own"]["image_auroc"]) == pytest.approx(read(smoke_run)["image_auroc"], abs=1e-6)
    measured = read(tmp_path / "out" / f"{rows['stripes']['run']}-stripes")
    assert measured["counts"]["ok_images"] == 3
    for sets in ("{a: {data: nothing}}", "{a: {data: mtd, rot: x}}", "{a: {root: x}}"):
        wrong = run_verb("evaluate", f"run={smoke_run}", f"sets={sets}")
        assert wrong.status == 2 and "sets.a is not {data: " in wrong.err, sets
