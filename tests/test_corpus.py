"""Every verb that reads files, on files as users have them: the right result or a clear message, nothing lost."""

from pathlib import Path

import pytest

from anomalib_lite.annotate.crops import find_crops
from anomalib_lite.data.decode import UnreadableImage, read_image
from anomalib_lite.data.files import expand
from tests.commands import Command, read_json, read_rows, trained
from tests.corpus import PASSED, READ, REFUSED, fill
from tests.made import write_image

PADIM = ["data=folder", "detector=padim", "preset=smoke", "image_size=48", "tracking=none", "threads=1"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("corpus") / "images"
    return folder, fill(folder)


@pytest.fixture(scope="module")
def run(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(trained(*tiny, f"paths.runs={tmp_path_factory.mktemp('runs')}"))


def names(fates: dict[str, str], *wanted: str) -> set[str]:
    return {name for name, fate in fates.items() if fate in wanted}


def test_each_file_is_read_refused_or_passed_over(corpus):
    folder, fates = corpus
    found = {str(p.relative_to(folder)) for p in expand(folder, Path())}
    assert found == names(fates, READ, REFUSED) and expand(folder / "**", Path()) == expand(folder, Path())
    for name in sorted(found):
        try:
            pixels = read_image(folder / name)
        except UnreadableImage as error:
            assert fates[name] == REFUSED, str(error)
            assert name in str(error)
        else:
            assert fates[name] == READ, name
            assert pixels.dtype == "uint8" and pixels.shape[2] == 3, name


def test_predict_answers_every_file_once(corpus, run: str, run_verb: Command, tmp_path: Path):
    folder, fates = corpus
    done = run_verb("predict", f"run={run}", f"images={folder}", f"output={tmp_path}/out", "maps=false")
    assert done.status == 3, done.err
    assert "Traceback" not in done.err
    rows = [row["image"] for row in read_rows(tmp_path / "out/predictions.csv")]
    told = {str(Path(image).relative_to(folder)) for image in rows}
    assert len(rows) == len(told) and told == names(fates, READ)
    refused = len(names(fates, REFUSED))
    said = f"{len(rows) + refused} images given: {len(rows)} judged, {refused} refused"
    assert said in done.out + done.err
    for name in names(fates, REFUSED):
        assert name in done.err, name
    assert sum(p.is_file() for p in (tmp_path / "out/overlays").rglob("*.png")) == len(rows)


def test_what_cannot_be_read_is_named_before_anything_is_learned(corpus, run: str, run_verb: Command, tmp_path: Path):
    folder, fates = corpus
    images = ["data=folder", f"data.test_ok={folder}", f"output={tmp_path}/e", "report=false"]
    done = run_verb("evaluate", f"run={run}", *images)
    assert done.status == 2 and "Traceback" not in done.err, done.err
    assert f"{len(names(fates, REFUSED))} of " in done.err and "cannot be used" in done.err
    done = run_verb("train", *PADIM, f"data.ok={folder}")
    assert done.status == 2 and "cannot be used" in done.err and "Traceback" not in done.err
    for verb in ("generate", "review"):
        refused = run_verb(verb, "data=folder", f"data.ok={folder}", "image_size=48", f"output={tmp_path}/{verb}")
        assert refused.status == 2 and "Traceback" not in refused.err, refused.err


def test_training_and_evaluation_take_all_that_can_be_read(corpus, run: str, run_verb: Command, tmp_path: Path):
    folder, fates = corpus
    good = tmp_path / "good"
    for number, name in enumerate(sorted(names(fates, READ))):
        target = good / f"{number:03d}{Path(name).suffix.lower() or '.png'}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((folder / name).read_bytes())
    trained(*PADIM, f"data.ok={good}")
    done = run_verb("evaluate", f"run={run}", "data=folder", f"data.test_ok={good}", "output=e", "report=false")
    assert done.status == 0, done.err
    assert len(read_rows(tmp_path / "e/predictions.csv")) == len(names(fates, READ))
    assert read_json(tmp_path / "e/metrics.json")["counts"]["ok_images"] == len(names(fates, READ))


def test_segment_and_annotate_name_what_they_cannot_use(corpus, run_verb: Command, tmp_path: Path):
    folder, fates = corpus
    template = write_image(tmp_path / "template.png", size=(32, 32))
    done = run_verb("segment", f"images={folder}", f"template={template}", f"output={tmp_path}/cut", "workers=1")
    assert done.status in (2, 3) and "Traceback" not in done.err
    for name in names(fates, REFUSED):
        assert name in done.err, name
    crops = {str(crop.path.relative_to(folder)) for crop in find_crops(folder).crops}
    assert not crops & names(fates, PASSED)
