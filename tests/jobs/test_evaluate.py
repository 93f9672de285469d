"""The verb evaluate: the training's own figures again, or those on another data set."""

import shutil
from pathlib import Path

import pytest

from anomalib_lite.data.decode import read_image
from anomalib_lite.runs.artifacts import exclusive_lock
from anomalib_lite.runs.folder import RunFolder
from tests.commands import in_process, ran, read_json, read_rows, refused, scores, trained
from tests.made import write_category, write_image, write_pixels


def close(first: object, second: object) -> bool:
    """The same structure, and numbers to 1e-5."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(close(first[key], second[key]) for key in first)
    return first == (pytest.approx(second, rel=1e-5) if isinstance(second, float) else second)


@pytest.mark.parametrize("report", [True, False])
def test_on_its_own_data_a_run_gets_the_trainings_figures(here, smoke_run, report):
    ran("evaluate", f"run={smoke_run}", "output=out", f"report={report}")
    own, again = RunFolder(smoke_run), RunFolder("out")
    assert again.done and close(again.metrics, own.metrics)
    assert (again.path / "report.html").exists() == (again.path / "figures").exists() == report
    found = scores(again.path / "predictions.csv")
    assert len(found) == 26 and found == pytest.approx(scores(own.path / "predictions.csv"), rel=1e-6)


def test_no_evaluation_replaces_that_of_other_data_or_of_another_threshold(here, smoke_run):
    """Each command has a folder of its own, which the same command finds again."""
    shutil.copytree(smoke_run, run := here / "run")
    for number, name in enumerate(("stripes", "checks"), start=2):
        write_category(here / "sets" / name, train=5, good=number, defects={"dot": 2})
    other = ["data=mvtec_ad", "data.root=sets", "data.category=stripes"]
    own = ["data=folder", "data.ok=null", "data.test_ok=test/good", "data.nok=test/dot"]
    calls = [
        other, [*other, "data.category=checks"], [*other, "threshold=0"], ["threshold=0"], [],
        [*own, "data.root=sets/stripes"], [*own, "data.root=sets/checks"],
    ]  # fmt: skip
    places = []
    for call in [*calls, calls[0]]:
        places.append(Path(ran("evaluate", f"run={run}", "report=false", *call).out.splitlines()[-1]))
    assert len(set(places)) == len(calls) and places[-1] == places[0] and places[4].name == "evaluation-own"
    assert [place.name[:-6] for place in places[:2]] == [
        f"evaluation-mvtec_ad-{name}-" for name in ("stripes", "checks")
    ]
    assert [RunFolder(place).metrics["counts"]["ok_images"] for place in places[:2]] == [2, 3]
    with exclusive_lock(places[0], inside=True):
        assert f"Another process is using {places[0]}" in refused("evaluate", f"run={run}", "report=false", *other)


def test_a_run_that_is_none_is_named_and_others_of_a_sweep_go_on(here, smoke_run):
    """On another data set, with the same threshold."""
    write_category(here / "sets/stripes", train=5, good=3, defects={"dot": 2})
    other = ["data=mvtec_ad", "data.root=sets", "data.category=stripes", "report=false", "output=out"]
    done = in_process("evaluate", "-m", f"run={here},{smoke_run}", *other)
    assert done.status == 1 and "1 of 2 jobs of the sweep failed" in done.err
    assert f"anomalib-lite evaluate run={here}" in done.err and "holds no finished training" in done.err
    metrics = RunFolder("out").metrics
    assert RunFolder("out").done and metrics["threshold"] == RunFolder(smoke_run).metrics["threshold"]
    assert metrics["per_defect"].keys() == {"dot"} and metrics["counts"]["ok_images"] == 3


def test_several_runs_on_several_data_sets_make_one_table(here, smoke_run):
    write_category(here / "sets/stripes", train=5, good=3, defects={"dot": 2})
    (here / "runs/killed").mkdir(parents=True)
    (here / "runs/first").symlink_to(smoke_run)
    (here / "runs/killed/status.json").write_text('{"state": "running"}')
    sets = "sets={own: null, stripes: {data: mvtec_ad, root: sets, category: stripes}}"
    said = refused("evaluate", "run=[runs/first,runs/killed]", "output=out", "report=false", sets)
    assert "2 of 4 could not be measured" in said and "killed on own" in said
    rows = {row["data"]: row for row in read_rows(here / "out/evaluations.csv")}
    assert float(rows["own"]["image_auroc"]) == pytest.approx(RunFolder(smoke_run).metrics["image_auroc"], abs=1e-6)
    measured = RunFolder(here / "out" / f"{rows['stripes']['run']}-stripes").metrics
    assert measured["counts"]["ok_images"] == 3
    for sets in ("{a: {data: nothing}}", "{a: {data: mtd, rot: x}}", "{a: {root: x}}"):
        assert "sets.a must be {data: " in refused("evaluate", f"run={smoke_run}", f"sets={sets}")


def test_the_runs_own_template_named_again_is_matched_in_colour_as_in_training(here, tiny, tiny_set):
    golden = read_image(tiny_set / "train/good/001.png")
    dark = write_pixels(here / "dark.png", (golden[..., ::-1] * 0.4).astype("uint8"))
    data = [argument for argument in tiny if argument.startswith("data")]
    shared = [a for a in tiny if not a.startswith("detector")]
    run = trained(*shared, "detector=template", "mode=template", f"data.template={dark}")
    assert read_json(run / "data.json")["templates"][0] in read_json(run / "data.json")["learned"]
    ran("evaluate", f"run={run}", "output=out", "report=false", *data, f"data.template={dark}")
    assert scores(here / "out/predictions.csv") == pytest.approx(scores(run / "predictions.csv"), rel=1e-6)


def test_images_that_the_teacher_or_an_earlier_run_learned_from_are_left_out(here, tiny, tiny_set):
    """NOK images of teacher.nok, and with start_from those of the earlier run."""
    shown = here / "nok/dent"
    shown.mkdir(parents=True)
    for number in range(3):
        write_image(shown / f"{number}.png", 50 + number)
    run = trained(*tiny, "teacher=finetuned_classifier", f"teacher.nok={shown}")
    write_image(here / "new/dot/0.png", 60)
    done = ran("evaluate", f"run={run}", "data=folder", "data.nok=[nok,new]", f"data.test_ok={tiny_set}/test/good")
    assert "3 of 7 images are left out: the run learned from them" in done.err
