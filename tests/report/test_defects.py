import numpy as np
import pytest

from anomalib_lite.defects import DefectCollector
from anomalib_lite.report.page import defects_view
from tests.chromium import opened
from tests.defects.conftest import SHAPE, flawed, good, inspector, photograph, seen  # noqa: F401  (fixtures)
from tests.defects.test_collect import LIMIT, outcome

from .conftest import written


@pytest.fixture
def collector(inspector) -> DefectCollector:  # noqa: F811
    collector = DefectCollector(inspector, LIMIT)
    collector.add(outcome("good/0.png", photograph(70), np.zeros(SHAPE, np.float32)))
    for number, top in enumerate((14, 40)):
        picture, mask = flawed(71 + number, np.s_[top : top + 10, 59:69], (90, 160, 205))
        collector.add(outcome(f"a <b>/{number}.png", picture, seen(mask), "stain", mask))
    return collector


def test_the_page_shows_each_defect_with_type_grade_and_outline(run, no_figures, collector):
    outline = written(run, [], collector=collector)
    text, html = outline.words, outline.html
    assert "2 defects; 2 of 3 products rejected." in text
    assert "a <b>/0.png" in text and "<b>/" not in html.replace("&lt;b&gt;/", "")
    types = [value for value in outline.values("tr", "data-type") if value]
    assert len(types) == 2 and set(types) <= {"blurry_text", "structural", "colour_scratch"}
    assert len([value for value in outline.values("figure", "data-grade") if value]) == 2
    assert "Areas of the product" in text and "Found types against" in text


def test_the_page_shows_the_defects_of_a_type(run, no_figures, collector, browser):
    types = [value for value in written(run, [], collector=collector).values("tr", "data-type") if value]
    with opened(browser, (run.path / "report.html").as_uri()) as page:
        rows = page.locator(".defect-table tbody tr:visible")
        page.click(f"#found-defects .chip[data-type='{types[0]}']")
        assert rows.count() == types.count(types[0]) and page.locator(".shot:visible").count() == rows.count()
        page.fill("#defect-words", "1.png")
        assert page.inner_text("#defects-shown") == f"{rows.count()} of 2 defects"


def test_the_worst_defect_comes_first_and_close_ups_stay_inside(collector):
    view = defects_view(collector)
    severities = [row["defect"].severity for row in view["rows"]]
    assert severities == sorted(severities, reverse=True)
    for row in view["rows"]:
        left, top, width, height = map(float, row["view_box"].split())
        assert left >= 0 and top >= 0
        assert left + width <= row["shot"]["width"] + 0.1 and top + height <= row["shot"]["height"] + 0.1
        assert all(path.startswith("M") for _, path in row["shot"]["outlines"])


def test_no_defect_found_is_said_and_without_inspected_images_there_is_no_such_part(run, no_figures, inspector):  # noqa: F811
    collector = DefectCollector(inspector, LIMIT)
    for nothing in (None, collector):
        assert 'id="found-defects"' not in written(run, [], collector=nothing).html
    collector.add(outcome("good/0.png", photograph(70), np.zeros(SHAPE, np.float32)))
    assert "No defect was found." in written(run, [], collector=collector).words
