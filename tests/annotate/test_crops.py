from pathlib import Path

import pytest

from anomalib_lite.annotate.crops import Crop, Score, find_crops, read_scores
from anomalib_lite.errors import UserError

from .conftest import write_crops


def keys(source: Path) -> list[str]:
    found = find_crops(source)
    assert found.root == (source if source.is_dir() else source.parent)
    return [crop.key for crop in found.crops]


def test_a_folder_gives_its_images_in_natural_order_without_masks_and_hidden_files(tmp_path: Path):
    for name in ("b/crop_10.png", "b/crop_2.JPG", "a.tiff", "masks/a.png", ".cache/x.png", ".x.png", "a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert keys(tmp_path) == ["a.tiff", "b/crop_2.JPG", "b/crop_10.png"]


def test_a_manifest_gives_its_crops_once_in_its_order(tmp_path: Path):
    write_crops(tmp_path / "cut", 3)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "panel,x,y,w,h,score,angle,scale,crop\n"
        "p.png,1,2,3,4,0.9,0,1,cut/crop_002.png\n"
        "p.png,1,2,3,4,0.8,0,1,cut\\crop_000.png\n"
        "p.png,1,2,3,4,0.8,0,1,./cut/crop_002.png\n"
    )
    assert keys(manifest) == ["cut/crop_002.png", "cut/crop_000.png"]


def test_a_folder_with_the_manifest_of_segment_gives_what_that_lists(tmp_path: Path):
    write_crops(tmp_path, 3)
    (tmp_path / "overview.png").touch()
    (tmp_path / "labels.csv").write_text("crop,label,defect,mask\ncrop_000.png,OK,,\n")
    (tmp_path / "manifest.csv").write_text("panel,crop\np.png,crop_001.png\n")
    assert keys(tmp_path) == ["crop_001.png"]
    (tmp_path / "second.csv").write_text("panel,crop\np.png,crop_002.png\n")
    with pytest.raises(UserError, match=r"manifest\.csv, second\.csv"):
        find_crops(tmp_path)


def test_missing_crops_are_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_crops(tmp_path, 1)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("crop\ncrop_000.png\ngone.png\n")
    assert keys(manifest) == ["crop_000.png"]
    assert "1 of 2" in caplog.text and "gone.png" in caplog.text


OUTSIDE = ("../x.png", "cut/../../x.png", "/etc/x.png", "C:/x.png", "D:x", "..\\x.png", "\\\\host\\x.png", "..", "")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("manifest.csv", "image,label\na.png,OK\n", "lacks the column crop"),
        ("manifest.csv", "", "lacks the column crop"),
        ("manifest.csv", "crop\n", "no image that exists"),
        ("labels.csv", "crop,label,defect,mask\n", "holds the answers"),
        *(("manifest.csv", f"crop\n{key},\n", "line 2.*does not lie in the manifest's folder") for key in OUTSIDE),
    ],
)
def test_an_unfit_manifest_says_why(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        find_crops(tmp_path / name)


def test_ids_hide_the_path_and_belong_to_one_folder_and_two_crops_may_not_share_a_mask(tmp_path: Path):
    for name in ("one", "two"):
        write_crops(tmp_path / name, 3)
    one, two, again = ({crop.id for crop in find_crops(tmp_path / name).crops} for name in ("one", "two", "one"))
    assert len(one | two) == 6 and one == again and all(name.isalnum() for name in one)
    (tmp_path / "one/crop_000.jpg").touch()
    with pytest.raises(UserError, match=r"masks/crop_000\.png"):
        find_crops(tmp_path / "one")


def crops_of(*keys: str) -> list[Crop]:
    return [Crop(str(i), key, Path("/data/crops") / key) for i, key in enumerate(keys)]


def write_scores(folder: Path, *rows: str, header: str = "image,label,defect,score,nok") -> Path:
    path = folder / "predictions.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_scores_are_found_by_name_in_a_file_or_a_run_folder(tmp_path: Path):
    path = write_scores(
        tmp_path, "/elsewhere/a.png,1,scratch,0.75,True", "b.png,,,0.5,0", "c.png,,,0.25,", "d.png,,,nan,0"
    )
    expected = {"a.png": Score(0.75, True), "x/b.png": Score(0.5, False), "c.png": Score(0.25, None)}
    for source in (path, tmp_path):
        assert read_scores(source, crops_of("a.png", "x/b.png", "c.png", "d.png", "unknown.png")) == expected


def test_namesakes_are_told_apart_by_their_folders_or_get_no_score(tmp_path: Path):
    rows = ["/old/good/0.png,,,0.1,0", "/old/bad/0.png,,,0.9,1", "run/good/1.png,,,0.2,0"]
    path = write_scores(tmp_path, *rows, "2.png,,,0.5,0", "a/3.png,,,0.1,0", "b/3.png,,,0.2,0")
    crops = crops_of(*(f"{kind}/{number}.png" for number in range(3) for kind in ("bad", "good")), "c/3.png")
    found = {key: score.value for key, score in read_scores(path, crops).items()}
    assert found == {"bad/0.png": 0.9, "good/0.png": 0.1, "good/1.png": 0.2}


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("image,label", "a.png,1", "lacks the column score"),
        ("image,score", "a.png,high", "line 2.*'high'"),
        ("image,score", "other.png,0.5", "None of the 1 crops"),
    ],
)
def test_an_unfit_table_of_scores_says_why(tmp_path: Path, header: str, row: str, message: str):
    with pytest.raises(UserError, match=message):
        read_scores(write_scores(tmp_path, row, header=header), crops_of("a.png"))
