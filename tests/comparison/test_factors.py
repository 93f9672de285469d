"""What was varied is found; what says nothing is not taken for it; different data are never mixed up."""

import json
from pathlib import Path

import pytest

from anomalib_lite.comparison.runs import find_runs
from anomalib_lite.comparison.table import RunTable, decides, levels, read_table
from anomalib_lite.errors import UserError
from tests.comparison.made import write_run

VALUES = {"image_auroc": 0.9, "pixel_auroc": 0.8, "aupro": 0.7}


def table(place: Path, *asked: str) -> RunTable:
    return read_table(find_runs([place]), asked or None)


def test_the_option_of_a_group_stands_for_all_settings_below_it(tmp_path: Path):
    """Seeds, also where they are handed on, paths and tracking are no factors."""
    for seed in (0, 1):
        for name in ("stfpm", "padim"):
            own = {"detector._target_": f"x.{name}", "seed": seed, "paths.runs": f"/somewhere/{seed}{name}"}
            own |= {"detector.epochs": 5} if name == "stfpm" else {"detector.rank": 100}
            own |= {"tracking.kind": name}
            write_run(tmp_path, f"{name}{seed}", VALUES, config=own, choices={"detector": name})
    found = table(tmp_path)
    assert found.factors == ["detector"] and found.notes == []
    assert found.rows.detector.tolist() == ["padim", "padim", "stfpm", "stfpm"]


def test_what_metrics_tell_of_defects_does_not_stand_for_the_group_of_that_name(tmp_path: Path):
    for name in ("none", "default"):
        told = {"defects": {"rejected": 3}, "counts": {"ok_images": 4}} if name == "default" else {}
        write_run(tmp_path, name, VALUES | told, config={"defects.own": name}, choices={"defects": name})
    found = table(tmp_path)
    assert found.factors == ["defects"] and found.rows.defects.tolist() == ["default", "none"]


def test_a_setting_that_varies_within_one_option_is_a_factor_of_its_own(tmp_path: Path):
    for i, rate in enumerate((0.1, 0.4, 1, 1.0)):
        write_run(tmp_path, f"r{i}", VALUES, config={"detector.optimizer": {"lr": rate}, "seed": i})
    found = table(tmp_path)
    assert found.factors == ["detector.optimizer.lr"]
    assert found.rows[found.factors[0]].tolist() == ["0.1", "0.4", "1", "1"]


def test_two_settings_changed_together_cannot_be_told_apart_and_that_is_said(tmp_path: Path):
    for i, (size, keep) in enumerate(((256, "last"), (192, "best"))):
        write_run(tmp_path, f"r{i}", VALUES, config={"image_size": size, "keep": keep})
    found = table(tmp_path)
    assert found.factors == ["image_size"]
    assert found.notes == ["keep changes together with image_size: their effects cannot be separated."]


def test_what_only_changes_with_the_data_is_part_of_the_data(tmp_path: Path):
    for name, size in (("mtd", 192), ("panels", 256)):
        write_run(tmp_path, name, VALUES, config={"image_size": size}, choices={"data": name}, fingerprint=name)
    found = table(tmp_path)
    assert found.factors == [] and "image_size differs only between data sets" in found.notes[0]


def test_a_setting_of_a_later_version_is_no_factor(tmp_path: Path):
    write_run(tmp_path, "old", VALUES, config={"seed": 0})
    write_run(tmp_path, "new", VALUES, config={"seed": 1, "defects": {"regions": 3}})
    assert table(tmp_path).factors == []


def test_runs_without_a_record_of_their_choices_are_told_apart_by_their_classes(tmp_path: Path):
    for name in ("STFPM", "PaDiM"):
        write_run(tmp_path, name, VALUES, choices={}, config={"detector._target_": f"lib.{name}"})
    found = table(tmp_path)
    assert found.factors == ["detector"] and set(found.rows.detector) == {"STFPM", "PaDiM"}


def test_one_name_with_different_contents_is_two_data_sets(tmp_path: Path):
    for i, share in enumerate((0.2, 0.5)):
        write_run(tmp_path, f"r{i}", VALUES, config={"data.val_share": share}, fingerprint=str(share))
    found = table(tmp_path)
    assert sorted(found.rows.data) == ["mtd (val_share=0.2)", "mtd (val_share=0.5)"]
    assert "There are 2 versions of mtd: data.val_share differ. They are treated as separate data." in found.notes[0]
    assert table(tmp_path, "data.val_share").rows.data.tolist() == ["mtd", "mtd"]


def test_data_of_another_reader_and_what_is_null_do_not_lengthen_the_names(tmp_path: Path):
    for i, template in enumerate((None, "/other/golden.png")):
        changes = {"data.val_share": i / 8, "data.template": template}
        write_run(tmp_path, f"r{i}", VALUES, config=changes, fingerprint=f"{i}" * 64)
    joined = {"data": {"_target_": "anomalib_lite.data.join", "parts": ["old", "new"]}}
    write_run(tmp_path, "r2", VALUES, config=joined, fingerprint="2" * 64)
    assert sorted(table(tmp_path).rows.data) == [
        "mtd",
        "mtd (val_share=0)",
        "mtd (val_share=0.125 template=golden.png)",
    ]


@pytest.mark.parametrize("shots", [(1, 1, 1), (1, 1, 4)])
def test_images_that_a_seed_draws_are_what_repeats(tmp_path: Path, shots: tuple[int, ...]):
    for i, (seed, count) in enumerate(zip((0, 1, 0), shots, strict=True)):
        drawn = {"seed": seed, "data.shots": count, "data.shots_seed": seed, "detector.epochs": i // 2}
        write_run(tmp_path, f"r{i}", VALUES, config=drawn, fingerprint=f"{count}{seed}" * 32)
    found = table(tmp_path)
    few, more = ("mtd", "mtd") if shots[2] == 1 else ("mtd (shots=1)", "mtd (shots=4)")
    assert found.rows.data.tolist() == [few, few, more]
    assert bool(found.notes) == (few != more)


def test_changed_images_under_the_same_settings_are_told_apart_by_their_fingerprint(tmp_path: Path):
    for i in range(2):
        write_run(tmp_path, f"r{i}", VALUES, config={"data.root": f"/other{i}/mtd"}, fingerprint=f"{i}" * 64)
    found = table(tmp_path)
    assert sorted(found.rows.data) == ["mtd [000000]", "mtd [111111]"] and "images or labels differ" in found.notes[0]


def test_a_data_set_that_moved_is_the_same(tmp_path: Path):
    for i in range(2):
        write_run(tmp_path, f"r{i}", VALUES, config={"data.root": f"/place{i}/mtd", "seed": i})
    found = table(tmp_path)
    assert (set(found.rows.data), found.factors, found.notes) == ({"mtd"}, [], [])


def test_of_repeated_runs_the_last_one_counts_and_the_other_is_named(tmp_path: Path):
    write_run(tmp_path / "a", "r", VALUES, finished="2026-01-01")
    write_run(tmp_path / "b", "r", VALUES | {"aupro": 0.1}, finished="2026-01-02")
    found = table(tmp_path)
    assert found.rows.aupro.tolist() == [0.1]
    assert found.left_out[0][:2] == ("a/r", "repeated")


def test_runs_that_do_not_count_are_named_with_the_reason(tmp_path: Path):
    write_run(tmp_path, "good", VALUES)
    write_run(tmp_path, "killed", state="running", started="noon")
    write_run(tmp_path, "failed", state="failed", error="ValueError: boom\nmore")
    write_run(tmp_path, "between", None)
    write_run(tmp_path, "unlabelled", {"image_auroc": None})
    (write_run(tmp_path, "torn", VALUES) / "metrics.json").write_text('{"image_au')
    early = tmp_path / "early"
    early.mkdir()
    (early / "config.yaml").write_text("seed: 0\n")
    found = table(tmp_path)
    assert found.rows.run.tolist() == ["good"]
    told = {name: (state, why) for name, state, why in found.left_out}
    assert told["killed"] == ("unfinished", "still running, or killed: started noon")
    assert told["failed"] == ("failed", "ValueError: boom")
    assert told["between"] == ("done", "metrics.json is missing")
    assert told["torn"][0] == "unreadable"
    assert told["early"] == ("unfinished", "status.json is missing")
    assert "no labelled test images" in told["unlabelled"][1]


def test_nothing_finished_is_an_error_that_says_so(tmp_path: Path):
    write_run(tmp_path, "failed", state="failed", error="boom")
    with pytest.raises(UserError, match=r"None of 1 runs is finished:\n  failed: failed, boom"):
        table(tmp_path)


def test_a_factor_that_no_run_has_is_refused_with_names_near_it(tmp_path: Path):
    write_run(tmp_path, "r", VALUES)
    with pytest.raises(UserError, match=r"no run has a group or setting 'detektor'\. Similar names: detector"):
        table(tmp_path, "detektor")


def test_an_evaluation_on_other_data_belongs_to_that_data_and_its_trainings_settings(tmp_path: Path):
    training = write_run(tmp_path, "t", VALUES, choices={"detector": "padim"})
    other = {"run": str(training), "data": {"_target_": "anomalib_lite.data.panels.read"}}
    write_run(training, "evaluation-panels", VALUES, config=other, choices={}, fingerprint="2")
    found = read_table(find_runs([training, training / "evaluation-panels"]), ["detector"])
    assert found.rows[["run", "data", "detector"]].to_numpy().tolist() == [
        ["t", "mtd", "padim"],
        ["t/evaluation-panels", "panels", "padim"],
    ]


def test_runs_are_found_in_folders_globs_and_the_record_of_a_multirun(tmp_path: Path):
    for name in ("a-s0", "a-s1", "b-s0"):
        write_run(tmp_path / "runs" / "made", name, VALUES)
    record = tmp_path / "runs" / "multirun" / "2026"
    record.mkdir(parents=True)
    hydra = {"overrides": {"task": ["experiment_name=made", "seed=0,1"]}}
    (record / "multirun.yaml").write_text(json.dumps({"hydra": hydra}))
    assert [f.name for f in find_runs([tmp_path])] == ["a-s0", "a-s1", "b-s0"]
    assert [f.name for f in find_runs([f"{tmp_path}/runs/*/a-*", tmp_path / "runs" / "made" / "a-s0"])] == [
        "a-s0",
        "a-s1",
    ]
    assert len(find_runs([record])) == 3
    with pytest.raises(UserError, match="contains no run"):
        find_runs([record / "multirun.yaml"])
    with pytest.raises(UserError, match="does not exist"):
        find_runs([tmp_path / "nowhere"])


def test_levels_begin_with_the_plain_one_and_numbers_go_by_size():
    assert levels(["flips", "none", "color"]) == ["none", "color", "flips"]
    assert levels(["10", "9", "0.5", "null"]) == ["null", "0.5", "9", "10"]
    assert decides([["a", "a", "b"]], ["1", "1", "2"]) and not decides([["a", "a", "b"]], ["1", "2", "2"])
