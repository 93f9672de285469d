"""The verb evaluate: the training's own figures again, or those on another data set."""

from pathlib import Path

import pytest

from anomalib_lite.runs.folder import RunFolder
from tests.commands import Command, read_rows, scores
from tests.made import write_category


def close(first: object, second: object) -> bool:
    """The same structure, and numbers to 1e-5."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(close(first[key], second[key]) for key in first)
    return first == (pytest.approx(second, rel=1e-5) if isinstance(second, float) else second)


@pytest.mark.parametrize("report", [True, False])
def test_on_its_own_data_a_run_gets_the_trainings_figures(
    run_verb: Command, smoke_run: Path, tmp_path: Path, report: bool
):
    done = run_verb("evaluate", f"run={smoke_run}", "output=out", f"report={report}")
    assert done.status == 0, done.err
    own, again = RunFolder(smoke_run), RunFolder(tmp_path / "out")
    assert again.done and close(again.metrics, own.metrics)
    assert (again.path / "report.html").exists() == (again.path / "figures").exists() == report
    found = scores(again.path / "predictions.csv")
    assert len(found) == 26 and found == pytest.approx(scores(own.path / "predictions.csv"), rel=1e-6)


def test_another_data_set_is_measured_with_the_same_threshold(run_verb: Command, smoke_run: Path, tmp_path: Path):
    write_category(tmp_path / "sets/stripes", train=5, good=3, defects={"dot": 2})
    other = ["data=mvtec_ad", "data.root=sets", "data.category=stripes", "report=false"]
    done = run_verb("evaluate", f"run={smoke_run}", "output=out", *other)
    assert done.status == 0, done.err
    metrics = RunFolder("out").metrics
    assert metrics["threshold"] == RunFolder(smoke_run).metrics["threshold"]
    assert metrics["per_defect"].keys() == {"dot"} and metrics["counts"]["ok_images"] == 3


def test_a_run_that_is_none_is_named_and_others_of_a_sweep_go_on(run_verb: Command, smoke_run: Path, tmp_path: Path):
    done = run_verb("evaluate", "-m", f"run={tmp_path},{smoke_run}", "output=out", "report=false")
    assert done.status == 1 and "1 of 2 jobs of the sweep failed" in done.err
    assert f"anomalib-lite evaluate run={tmp_path}" in done.err and "holds no finished training" in done.err
    assert RunFolder("out").done


def test_several_runs_on_several_data_sets_make_one_table(run_verb: Command, smoke_run: Path, tmp_path: Path):
    write_category(tmp_path / "sets/stripes", train=5, good=3, defects={"dot": 2})
    (tmp_path / "runs").mkdir()
    for name in ("first", "second"):
        (tmp_path / "runs" / name).symlink_to(smoke_run)
    (tmp_path / "runs" / "killed").mkdir()
    (tmp_path / "runs/killed/status.json").write_text('{"state": "running"}')
    done = run_verb(
        "evaluate", "run=[runs/first,runs/killed]", "output=out", "report=false",
        "sets={own: null, stripes: {data: mvtec_ad, root: sets, category: stripes}}",
    )  # fmt: skip
    assert done.status == 2 and "2 of 4 could not be measured" in done.err and "killed on own" in done.err
    rows = {row["data"]: row for row in read_rows(tmp_path / "out/evaluations.csv")}
    assert float(rows["own"]["image_auroc"]) == pytest.approx(RunFolder(smoke_run).metrics["image_auroc"], abs=1e-6)
    measured = RunFolder(tmp_path / "out" / f"{rows['stripes']['run']}-stripes").metrics
    assert measured["counts"]["ok_images"] == 3
    for sets in ("{a: {data: nothing}}", "{a: {data: mtd, rot: x}}", "{a: {root: x}}"):
        wrong = run_verb("evaluate", f"run={smoke_run}", f"sets={sets}")
        assert wrong.status == 2 and "sets.a must be {data: " in wrong.err, sets
