"""The verb generate."""

from pathlib import Path

import cv2
import pandas as pd
import pytest

from anomalib_lite.rendering.product import draw_conditions, render_product
from tests.commands import ran, read_json, refused
from tests.made import write_pixels


@pytest.fixture(scope="module")
def products(tmp_path_factory) -> Path:
    """A category in MVTec AD's layout: ten training images, of which two are held out, one test image, a template."""
    folder = tmp_path_factory.mktemp("data") / "product"
    for i in range(12):
        image = render_product(64, i, None, None, draw_conditions(i, 1.0)).image
        name = f"train/good/{i:03d}.png" if i < 10 else "test/good/000.png" if i == 10 else "template.png"
        write_pixels(folder / name, image[..., ::-1])
    return folder


def arguments(products: Path, *more: str) -> list[str]:
    return [
        "generate", "data=mvtec_ad", f"data.root={products.parent}", "data.category=product", "generator=none",
        "generator._target_=tests.generators.tiny.Recolour", "tracking=none", "threads=1", "generator.count=6",
        *more,
    ]  # fmt: skip


def test_generate_writes_images_sheet_page_and_quality_and_trains_once(products, here, trainings):
    done = ran(*arguments(products, "+generator.damage=3"))
    (folder,) = (here / "generated").iterdir()
    assert folder.name.startswith("mvtec_ad-product-none-no_template-s0-")
    quality = read_json(folder / "quality.json")
    assert len(list((folder / "images").glob("*.png"))) == quality["drawn"]["kept"] == quality["n_generated"] == 6
    assert quality["drawn"]["dropped"] == 3 and quality["n_real"] == 8
    assert quality["edge_overlap"]["generated_low"] >= quality["guard"]["threshold"]
    table = pd.read_csv(folder / "images.csv")
    assert table["kept"].tolist() == [0, 1, 1] * 3
    assert set(table["content_name"]) <= {path.name for path in (products / "train/good").iterdir()}
    assert cv2.imread(str(folder / "contact_sheet.png")).shape[1] > 600
    page = (folder / "generated.html").read_text()
    assert "dropped 3 of 9 generated images" in page and page.count("<img") == 2 * 9
    assert "http" not in page.replace("http-equiv", ""), "the page fetches nothing"
    for words in ("Frechet distance", "kernel distance", "diversity", str(folder.relative_to(here) / "images")):
        assert words in done.out + done.err
    assert [line[1:] for line in trainings()] == [["8", "-", "0"]]

    again = ran(*arguments(products, "+generator.damage=3"))
    assert "already done" in again.out + again.err and "Frechet" in again.out + again.err
    ran(*arguments(products, "+generator.damage=0", "generator.count=2", "output=fewer"))
    assert len(trainings()) == 1, "what changes the drawing alone trained again"
    assert len(list(here.glob("fewer/*/images/*.png"))) == 2
    ran(*arguments(products, "+generator.damage=3", "force=true"))
    assert len(trainings()) == 2 and len(list((folder / "images").glob("*.png"))) == 6


def test_a_template_takes_part_in_its_mode_alone(products, here, trainings):
    template = f"data.template={products / 'template.png'}"
    ran(*arguments(products, template, "mode=template"))
    (folder,) = (here / "generated").iterdir()
    assert set(pd.read_csv(folder / "images.csv")["origin"]) == {"generated", "template_generated"}
    ran(*arguments(products, template, "mode=no_template", "output=without"))
    assert [line[2] for line in trainings()] == ["template.png", "-"]
    for colours in ("none", "null"):  # as in train, the template as it is
        ran(*arguments(products, template, "mode=template", f"mode.colours={colours}", f"output=as_{colours}"))
    assert len(trainings()) == 3 and len(list((here / "artifacts").glob("template-*"))) == 1
    assert "mode=template needs a template" in refused(*arguments(products, "mode=template"))


def test_no_generator_is_explained_and_help_names_them(products, here):
    said = refused(*[a for a in arguments(products) if not a.startswith("generator.")])
    assert "generator=none makes no images" in said and not Path("generated").exists()
    told = ran("generate", "--help").out
    assert all(word in told for word in ("anomalib-lite generate generator=singan", "structure_guard", "histaugan"))
