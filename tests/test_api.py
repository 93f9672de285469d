"""The verbs as functions give what the verbs give."""

import re
import shutil
from dataclasses import replace

import pytest

import anomalib_lite
from anomalib_lite.errors import UserError
from tests.commands import REPOSITORY, ran, read_rows
from tests.made import write_category


def test_train_load_and_predict_are_the_verbs(here):
    made = write_category(here / "stripes", train=10, good=3, defects={"dot": 2})
    own = ["data=mvtec_ad", "data.root=.", "data.category=stripes", "preset=smoke", "tracking=none"]
    settings = {"detector": "padim", "image_size": 48, "threads": 1}
    run = anomalib_lite.train(*own, **settings)
    assert run.metrics["counts"]["ok_images"] == 3
    assert anomalib_lite.train(*own, **settings).path == run.path  # found again

    outcomes = anomalib_lite.predict(run, made / "test/dot")
    assert [o.sample.image.name for o in outcomes] == sorted(p.name for p in (made / "test/dot").iterdir())
    ran("predict", f"run={run.path}", "images=stripes/test/dot", "output=out", "overlays=false")
    rows = read_rows(here / "out/predictions.csv")
    assert [(float(r["score"]), r["nok"] == "1") for r in rows] == [(o.score, o.nok) for o in outcomes]
    assert outcomes[0].map.shape == (48, 48) and outcomes[0].image.dtype == "uint8"
    golden = made / "train/good/000.png"
    again = anomalib_lite.predict(replace(run, template=golden), made / "test/dot")
    assert {o.sample.template for o in again} == {golden}, "a run that was given a template keeps it"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["image_size=8"], "image_size must be"), (["data=mvtec_ad"], "Not set"), (["detector=nosuch"], "nosuch")],
)
def test_what_the_command_line_refuses_is_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        anomalib_lite.train(*arguments)


def test_a_flag_that_is_none_is_an_error_and_other_names_are_no_functions():
    for verb in ("weights", "sweep", "predict"):  # two of them take words
        with pytest.raises(UserError, match="--nope"):
            anomalib_lite.command(verb, "--nope")
    with pytest.raises(AttributeError, match="no sing"):
        _ = anomalib_lite.sing


def test_readmes_lines_run(here, capsys):
    made = write_category(here / "made", train=10, good=2, defects={"dot": 2})
    (made / "train/good").rename(here / "ok")
    shutil.copytree(made / "test/dot", here / "photos")
    (made / "test/dot").rename(here / "nok")
    lines = re.search(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)[1]
    quick = 'image_size=48, preset="smoke", tracking="csv"'
    exec(compile(lines.replace("image_size=128", quick), "README.md", "exec"), {})
    assert "000.png" in capsys.readouterr().out
