"""What was varied is found; what says nothing is not taken for it; different data are never mixed up."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from anomalib_lite.comparison.runs import find_runs
from anomalib_lite.comparison.study import compare
from anomalib_lite.comparison.table import RunTable, decides, levels, read_table
from anomalib_lite.errors import UserError
from tests.comparison.made import write_run

VALUES = {"image_auroc": 0.9, "pixel_auroc": 0.8, "aupro": 0.7}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a run with VALUES; dotted settings as `write(name, {"a.b": 1})`."""
    return lambda name, config=None, values=VALUES, **more: write_run(tmp_path, name, values, config=config, **more)


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., RunTable]:
    return lambda *factors: read_table(find_runs([tmp_path]), factors or None)


def test_the_option_of_a_group_stands_for_all_settings_below_it(write: Write, table: Any):
    """Seeds, also where they are handed on, paths and tracking are no factors."""
    for seed in (0, 1):
        for name, setting in (("stfpm", "epochs"), ("padim", "rank")):
            own = {"detector._target_": f"x.{name}", "seed": seed, "paths.runs": f"/somewhere/{seed}{name}"}
            write(f"{name}{seed}", own | {f"detector.{setting}": 5, "tracking.kind": name}, choices={"detector": name})
    assert (table().factors, table().notes) == (["detector"], [])
    assert table().rows.detector.tolist() == ["padim", "padim", "stfpm", "stfpm"]


def test_what_metrics_tell_of_defects_does_not_stand_for_the_group_of_that_name(write: Write, table: Any):
    for name in ("none", "default"):
        told = {"defects": {"rejected": 3}, "counts": {"ok_images": 4}} if name == "default" else {}
        write(name, {"defects.own": name}, VALUES | told, choices={"defects": name})
    assert table().factors == ["defects"] and table().rows.defects.tolist() == ["default", "none"]


def test_a_setting_that_varies_within_one_option_is_a_factor_of_its_own(write: Write, table: Any):
    for i, rate in enumerate((0.1, 0.4, 1, 1.0)):
        write(f"r{i}", {"detector.optimizer": {"lr": rate}, "seed": i})
    assert table().factors == ["detector.optimizer.lr"]
    assert table().rows["detector.optimizer.lr"].tolist() == ["0.1", "0.4", "1", "1"]


def test_two_settings_changed_together_cannot_be_told_apart_and_that_is_said(write: Write, table: Any):
    for size, keep in ((256, "last"), (192, "best")):
        write(keep, {"image_size": size, "keep": keep})
    assert table().factors == ["image_size"]
    assert table().notes == ["keep changes together with image_size: their effects cannot be separated."]


def test_settings_measured_on_other_test_images_are_not_called_different(write: Write, table: Any):
    """`missed` takes its images out of the test set, which is the same data otherwise."""
    for i, (seed, missed) in enumerate(product((0, 1, 2), (None, ["a.png"]))):
        counts = {"counts": {"ok_images": 6, "nok_images": 4 if missed else 8}}
        values = VALUES | counts | {"image_auroc": 0.8 + 0.1 * bool(missed) + i / 1e4}
        write(f"r{i}", {"seed": seed, "missed": missed}, values, train_seconds=5 + i % 2 + seed / 100)
    found = table()
    assert found.notes[-1].startswith("Runs on mtd were measured on different numbers of test images (10, 14): ")
    pairs = {study.metric: study.pairs.iloc[0] for study in compare(found, ["image_auroc", "train_seconds"]).studies}
    assert not pairs["image_auroc"].significant and pairs["image_auroc"].verdict == "different test images"
    assert pairs["train_seconds"].verdict != "different test images"


def test_what_only_changes_with_the_data_is_part_of_the_data(write: Write, table: Any):
    for name, size in (("mtd", 192), ("panels", 256)):
        write(name, {"image_size": size}, choices={"data": name}, fingerprint=name)
    assert table().factors == [] and "image_size differs only between data sets" in table().notes[0]


def test_a_setting_of_a_later_version_is_no_factor(write: Write, table: Any):
    write("old", {"seed": 0})
    write("new", {"seed": 1, "defects": {"regions": 3}})
    assert table().factors == []


def test_runs_without_a_record_of_their_choices_are_told_apart_by_their_classes(write: Write, table: Any):
    for name in ("STFPM", "PaDiM"):
        write(name, {"detector._target_": f"lib.{name}"}, choices={})
    assert table().factors == ["detector"] and set(table().rows.detector) == {"STFPM", "PaDiM"}


def test_one_name_with_different_contents_is_two_data_sets(write: Write, table: Any):
    for share in (0.2, 0.5):
        write(f"r{share}", {"data.val_share": share}, fingerprint=str(share))
    assert sorted(table().rows.data) == ["mtd (val_share=0.2)", "mtd (val_share=0.5)"]
    assert "There are 2 versions of mtd: data.val_share differ. They are treated as separate data." in table().notes[0]
    assert table("data.val_share").rows.data.tolist() == ["mtd", "mtd"]


def test_other_data_stay_apart_where_a_setting_of_the_data_is_a_factor(write: Write, table: Any):
    for i, (line, shots, seed) in enumerate(product("ab", (4, 16), (0, 1))):
        own = {"seed": seed, "data.root": f"/data/{line}", "data.shots": shots}
        write(f"r{i}", own, VALUES, fingerprint=f"{line}{shots}" * 8)
    found = table("data.shots")
    assert (found.factors, found.blocks, found.left_out) == (["data.shots"], ["mtd (root=a)", "mtd (root=b)"], [])
    assert found.rows.groupby(["data", "data.shots"]).size().tolist() == [2, 2, 2, 2]
    assert found.notes[0].startswith("There are 2 versions of mtd: data.root differ. ")
    assert found.notes[0].endswith("factors='[data.shots, data.root]' compares them.")
    assert (both := table("data.shots", "data.root")).blocks == ["mtd"] and len(both.variants) == 4


def test_data_of_another_reader_and_what_is_null_do_not_lengthen_the_names(write: Write, table: Any):
    for i, template in enumerate((None, "/other/golden.png")):
        write(f"r{i}", {"data.val_share": i / 8, "data.template": template}, fingerprint=f"{i}" * 64)
    write("r2", {"data": {"_target_": "anomalib_lite.data.join", "parts": ["old", "new"]}}, fingerprint="2" * 64)
    assert sorted(table().rows.data) == ["mtd", "mtd (val_share=0)", "mtd (val_share=0.125 template=golden.png)"]


@pytest.mark.parametrize("shots", [(1, 1, 1), (1, 1, 4)])
def test_images_that_a_seed_draws_are_what_repeats(write: Write, table: Any, shots: tuple[int, ...]):
    for i, (seed, count) in enumerate(zip((0, 1, 0), shots, strict=True)):
        drawn = {"seed": seed, "data.shots": count, "data.shots_seed": seed, "detector.epochs": i // 2}
        write(f"r{i}", drawn, fingerprint=f"{count}{seed}" * 32)
    few, more = ("mtd", "mtd") if shots[2] == 1 else ("mtd (shots=1)", "mtd (shots=4)")
    assert table().rows.data.tolist() == [few, few, more]
    assert bool(table().notes) == (few != more)


def test_changed_images_under_the_same_settings_are_told_apart_by_their_fingerprint(write: Write, table: Any):
    for i in range(2):
        write(f"r{i}", {"data.root": f"/other{i}/mtd"}, fingerprint=f"{i}" * 64)
    assert sorted(table().rows.data) == ["mtd [000000]", "mtd [111111]"]
    assert "images or labels differ" in table().notes[0]


def test_a_data_set_that_moved_is_the_same(write: Write, table: Any):
    for i in range(2):
        write(f"r{i}", {"data.root": f"/place{i}/mtd", "seed": i})
    assert (set(table().rows.data), table().factors, table().notes) == ({"mtd"}, [], [])


def test_of_repeated_runs_the_last_one_counts_and_the_other_is_named(write: Write, table: Any):
    write("a/r", finished="2026-01-01")
    write("b/r", values=VALUES | {"aupro": 0.1}, finished="2026-01-02")
    assert table().rows.aupro.tolist() == [0.1]
    assert table().left_out[0][:2] == ("a/r", "repeated")


def test_runs_that_do_not_count_are_named_with_the_reason(write: Write, table: Any, tmp_path: Path):
    write("killed", values=None, state="running", started="noon")
    write("failed", values=None, state="failed", error="ValueError: boom\nmore")
    write("between", values=None)
    write("unlabelled", values={"image_auroc": None})
    (write("torn") / "metrics.json").write_text('{"image_au')
    (write("early") / "status.json").unlink()
    known = {
        "killed": ("unfinished", "still running, or killed: started noon"),
        "failed": ("failed", "ValueError: boom"),
        "between": ("done", "metrics.json is missing"),
        "unlabelled": ("done", "metrics.json contains no metric: there were no labelled test images"),
        "torn": ("unreadable", "metrics.json is damaged"),
        "early": ("unfinished", "status.json is missing"),
    }
    with pytest.raises(UserError, match=r"None of 6 runs is finished:\n(.*\n)*  failed: failed, ValueError: boom\n"):
        table()
    write("good")
    assert table().rows.run.tolist() == ["good"]
    assert {name: (state, why) for name, state, why in table().left_out} == known


def test_a_factor_that_no_run_has_is_refused_with_names_near_it(write: Write, table: Any):
    write("r")
    with pytest.raises(UserError, match=r"no run has a group or setting 'detektor'\. Similar names: detector"):
        table("detektor")


def test_an_evaluation_on_other_data_belongs_to_that_data_and_its_trainings_settings(write: Write):
    training = write("t", choices={"detector": "padim"})
    other = {"run": str(training), "data": {"_target_": "anomalib_lite.data.panels.read"}}
    write("t/evaluation-panels", other, choices={}, fingerprint="2")
    found = read_table(find_runs([training, training / "evaluation-panels"]), ["detector"])
    assert found.rows[["run", "data", "detector"]].to_numpy().tolist() == [
        ["t", "mtd", "padim"],
        ["t/evaluation-panels", "panels", "padim"],
    ]


def test_runs_are_found_in_folders_globs_and_the_record_of_a_multirun(write: Write, tmp_path: Path):
    for name in ("a-s0", "a-s1", "b-s0"):
        write(f"runs/made/{name}")
    record = tmp_path / "runs" / "multirun" / "2026"
    record.mkdir(parents=True)
    hydra = {"overrides": {"task": ["experiment_name=made", "seed=0,1"]}}
    (record / "multirun.yaml").write_text(json.dumps({"hydra": hydra}))
    assert [f.name for f in find_runs([tmp_path])] == ["a-s0", "a-s1", "b-s0"]
    found = find_runs([f"{tmp_path}/runs/*/a-*", tmp_path / "runs/made/a-s0"])
    assert [f.name for f in found] == ["a-s0", "a-s1"]
    assert len(find_runs([record])) == 3
    for place, problem in ((record / "multirun.yaml", "contains no run"), (tmp_path / "nowhere", "does not exist")):
        with pytest.raises(UserError, match=problem):
            find_runs([place])


def test_levels_begin_with_the_plain_one_and_numbers_go_by_size():
    assert levels(["flips", "none", "color"]) == ["none", "color", "flips"]
    assert levels(["10", "9", "0.5", "null"]) == ["null", "0.5", "9", "10"]
    assert decides([["a", "a", "b"]], ["1", "1", "2"]) and not decides([["a", "a", "b"]], ["1", "2", "2"])
