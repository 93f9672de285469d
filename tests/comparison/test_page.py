"""The page in a real browser, and the verb that writes it."""

import shlex
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from anomalib_lite.comparison.page import write_all
from anomalib_lite.comparison.runs import Run, find_runs
from anomalib_lite.comparison.study import compare
from anomalib_lite.comparison.table import read_table
from anomalib_lite.comparison.words import command
from anomalib_lite.runs.folder import RunFolder
from tests.commands import Command
from tests.comparison.made import make_table, without, write_run

FACTORS = {"augment": ["none", "flips"], "tta": ["none", "<b>flips</b>"], "lr": ["0.1", "0.4"]}
VALUES = {"image_auroc": 0.9}
OPEN = ".study:not([hidden])"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    noise, place = np.random.default_rng(0), tmp_path_factory.mktemp("comparison")
    table = make_table(
        FACTORS, ["bottle", "panels"], 3, lambda b, s, a, tta, lr: 0.7 + 0.1 * (tta != "none") + 0.01 * noise.normal()
    )
    table.left_out.append(("gone", "failed", "ValueError: boom"))
    write_all(compare(table, ("aupro",), resamples=100), place)
    return place


def test_the_page_sorts_switches_and_draws(folder: Path, browser: Any):
    page, errors, asked = browser.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{folder}/compare.html")
    means = f"() => [...document.querySelector('{OPEN} table').tBodies[0].rows].map(r => +r.cells[3].dataset.value)"
    page.click(f"{OPEN} table >> nth=0 >> thead >> text=mean")
    first = page.evaluate(means)
    assert len(first) == 8 and first == sorted(first, reverse=True)
    page.click(f"{OPEN} table >> nth=0 >> thead >> text=mean")
    assert page.evaluate(means) == sorted(first)

    page.click(".chip[data-view='2']")
    shown, pairs = page.locator(OPEN), page.locator(f"{OPEN} .pairs tbody tr:visible")
    assert (shown.count(), shown.get_attribute("data-view"), pairs.count()) == (1, "2", 25)
    page.click(f"{OPEN} .more button")
    assert pairs.count() == 28
    figures, said = page.locator(f"{OPEN} figure svg"), page.inner_text("main")
    assert figures.count() == 5 and all(f.bounding_box()["width"] > 600 for f in figures.all())
    assert "<b>flips</b>" in page.locator(f"{OPEN} figure").nth(2).inner_text()
    assert "ValueError: boom" in said and "the middle 95 % of the means of 100 tables" in said
    assert errors == [] and asked == [f"file://{folder}/compare.html"]
    page.close()


def test_the_tables_hold_every_run_and_every_pair(folder: Path):
    runs, same = pd.read_csv(folder / "runs.csv"), pd.read_parquet(folder / "runs.parquet")
    assert len(runs) == 48 and list(runs) == list(same)
    assert np.allclose(runs.aupro, same.aupro, atol=1e-6)
    assert len(pd.read_csv(folder / "pairs.csv")) == 28 * 3
    assert {path.name for path in (folder / "figures").iterdir()} == {"aupro.png"}
    document = (folder / "compare.md").read_text()
    assert "ValueError: boom" in document
    said = [line for line in document.splitlines() if line.strip() and line[0] not in "|#"]
    assert len(said) == len({*said}), "no finding twice"


def test_the_verb_compares_run_folders(run_verb: Command, tmp_path: Path):
    for seed in range(3):
        for tta, value in (("none", 0.7), ("flips", 0.8)):
            values = {"image_auroc": 0.9, "pixel_auroc": None, "aupro": value + 0.01 * seed * (1 + (tta == "none"))}
            overrides = ["data=mtd", "data.root='/my data/mtd'", f"tta={tta}", f"seed={seed}"]
            own = {"choices": {"tta": tta}, "overrides": overrides, "config": {"seed": seed, "tta": {"views": [tta]}}}
            write_run(tmp_path / "runs" / "made", f"{tta}{seed}", values, **own)
    write_run(tmp_path / "runs" / "made", "killed", state="running")
    done = run_verb("compare", "runs=runs/made", "metrics=[aupro,model_mb]", "reference=tta=none", "resamples=100")
    assert done.status == 0, done.err
    assert "left out a run (unfinished): killed" in done.err
    assert "anomalib-lite train data=mtd \"data.root='/my data/mtd'\" tta=flips" in done.out
    assert (tmp_path / "runs" / "made" / "comparison" / "compare.html").is_file()
    again = run_verb("compare", "runs=[runs/made]", "resamples=100")  # its own output is no run
    assert again.status == 0, again.err


def test_metrics_of_different_data_sets_are_not_mixed(tmp_path: Path):
    """A metric on the data sets a and b, and another on b and c, are both on two data sets."""
    kinds = {"a": {"scratch": 0.9}, "b": {"scratch": 0.5, "dent": 0.7}, "c": {"dent": 0.8}}
    for (block, values), seed, tta in product(kinds.items(), (0, 1), ("none", "flips")):
        metrics = {"image_auroc": 0.9, "per_defect": {kind: {"image_auroc": value} for kind, value in values.items()}}
        config = {"seed": seed, "data.category": block}
        write_run(tmp_path, f"{block}{seed}{tta}", metrics, config=config, choices={"tta": tta})
    comparison = compare(read_table(find_runs([tmp_path])), ["scratch_image_auroc", "dent_image_auroc"], resamples=10)
    both = [view for view in comparison.views if len(view.blocks) > 1]
    assert [view.title for view in both] == [f"2 of 3 data sets (mtd-{x}, mtd-{y})" for x, y in ("ab", "bc")]
    assert [list(comparison.of(view)) for view in both] == [["scratch_image_auroc"], ["dent_image_auroc"]]


def test_runs_that_are_averaged_over_have_intervals_of_their_own(tmp_path: Path):
    """Without a difference, as none of them is the partner; an image without a label is none that is OK."""
    noise = np.random.default_rng(0)
    for detector, tta in product(("padim", "stfpm"), ("none", "flips")):
        run = write_run(tmp_path, f"{detector}-{tta}", VALUES, choices={"detector": detector, "tta": tta})
        rows = [{"image": f"{i}", "label": i % 2, "score": noise.normal() + i % 2, "nok": 0} for i in range(20)]
        RunFolder(run).write_predictions([*rows, {"image": "x", "label": None, "score": 99.0, "nok": 1}])
    found = read_table(find_runs([tmp_path]), ["detector"])
    images = compare(found, reference="detector=padim", resamples=10).images
    assert sorted(images.run) == sorted(found.rows.run) and images.difference.isna().all()
    for run, auroc in zip(images.run, images.auroc, strict=True):
        rows = [row for row in RunFolder(tmp_path / run).predictions() if row["label"] is not None]
        assert auroc == pytest.approx(roc_auc_score([r["label"] for r in rows], [r["score"] for r in rows]))
    each = compare(read_table(find_runs([tmp_path])), reference="detector=padim tta=none", resamples=10).images
    assert each.difference.notna().sum() == 3


def test_recorded_overrides_are_given_back_without_what_changes_no_result():
    asked = ["experiment=augmentation", "data.nok='nok/* x'", "seed=3", "paths.runs=/x", "tracking=none", "force=true"]
    line = command(Run(Path("r"), "r", "done", choices={"data": "mtd"}, overrides=asked))
    assert shlex.split(line) == ["anomalib-lite", "train", "experiment=augmentation", "data.nok='nok/* x'"]
    assert command(Run(Path("r"), "r", "done")) == "", "nothing is known of how it was started"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("runs=nowhere", "nowhere does not exist"),
        ("metrics=[auroc]", "no run measured auroc. There are: image_auroc"),
        ("reference=tta=flips", "is none of the settings"),
        ("margin=0", "margin must be above 0"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(run_verb: Command, tmp_path: Path, wrong: str, words: str):
    write_run(tmp_path / "runs", "r", {"image_auroc": 0.9})
    done = run_verb("compare", *(["runs=runs"] if not wrong.startswith("runs") else []), wrong)
    assert done.status == 2 and words in done.err


def test_ranks_over_enough_data_sets_and_names_that_are_long_are_drawn(tmp_path: Path):
    gain, noise = {"padim": 0.0, "stfpm": 0.1, "y" * 90: 0.11}, np.random.default_rng(1)
    blocks = [f"set{k}" for k in range(6)]
    table = make_table({"detector": list(gain)}, blocks, 2, lambda b, s, d: 0.7 + gain[d] + 0.02 * noise.normal())
    write_all(compare(table, ("aupro",), resamples=100), tmp_path)
    page = (tmp_path / "compare.html").read_text()
    assert "Ranks over data sets" in page and "critical difference" in page and "y" * 90 in page
    assert "Mean ranks over 6 data sets" in (tmp_path / "compare.md").read_text()


def test_the_table_of_pairs_is_whole_where_the_first_view_has_a_single_setting(tmp_path: Path):
    table = make_table({"tta": ["none", "flips"]}, ["a", "b"], 2, lambda block, seed, tta: seed + len(tta))
    write_all(compare(without(table, (table.rows.data == "b") & (table.rows.tta == "none")), ("aupro",)), tmp_path)
    pairs = pd.read_csv(tmp_path / "pairs.csv")
    assert pairs[["data", "setting", "difference"]].to_numpy().tolist() == [["a", "tta=flips", 1.0]]
