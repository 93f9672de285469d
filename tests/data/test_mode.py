"""The two modes: what of the template is seen, and what each origin weighs."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_lite.data.mode import refuse_held_back, templates_of, weighted
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.errors import UserError


def splits(*templates: str | None) -> Splits:
    samples = [Sample(Path(f"{k}.png"), OK, template=Path(t) if t else None) for k, t in enumerate(templates)]
    return Splits(samples[:1], samples[1:2], [*samples[2:], Sample(Path("x.png"), NOK, template=samples[0].template)])


def test_a_hidden_template_is_gone_everywhere() -> None:
    assert all(s.template is None for _, samples in splits("a", "b", "a").with_template(None) for s in samples)
    golden = splits("a", "b", None).with_template(Path("gold.png"))
    assert templates_of(golden) == [Path("gold.png")]
    assert [len(samples) for _, samples in golden] == [1, 1, 2]


def test_one_template_for_all_or_one_for_each() -> None:
    assert templates_of(splits("a", "a", "a")) == [Path("a")]
    assert templates_of(splits("b", "a", "a")) == [Path("a"), Path("b")]
    with pytest.raises(UserError, match=r"1\.png has none.*data.template"):
        templates_of(splits("a", None, "a"))


def test_a_template_with_the_content_of_a_held_back_image_is_refused(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("train", "val", "test", "like_val", "golden")}
    contents = [b"one", b"two", b"six", b"two", b"new"]
    for path, content in zip(files.values(), contents, strict=True):
        path.write_bytes(content)
    held_back = Splits(*([Sample(files[name], OK)] for name in ("train", "val", "test")))
    refuse_held_back([files["train"], files["golden"]], held_back)
    for name, kind in (("like_val", "held-out"), ("test", "test")):
        with pytest.raises(UserError, match=f"{name} is one of the {kind} images, .*data.template={files['train']}"):
            refuse_held_back([files["golden"], files[name]], held_back)


def origins(*names: str) -> list[Sample]:
    return [Sample(Path(name), OK, origin=name) for name in names]


def test_only_the_ratios_count_and_a_real_image_weighs_one() -> None:
    samples = origins("real", "generated", "template_generated", "template")
    weights = [s.weight for s in weighted(samples, {"real": 5, "generated": 1, "template_generated": 2, "template": 5})]
    assert weights == [1, 0.2, 0.4, 1]
    assert [s.weight for s in weighted(samples[:2], {"real": 9, "generated": 1})] == [1, pytest.approx(1 / 9)]
    (half,) = weighted([Sample(Path("a"), OK, origin="generated", weight=0.5)], {"real": 4, "generated": 1})
    assert half.weight == 0.125, "a sample's own weight is a factor"


def test_the_simple_form_sets_generated_images_against_one() -> None:
    samples = origins("real", "generated", "template_generated")
    weights = {"real": 9, "generated": 1}
    assert [s.weight for s in weighted(samples, weights, generated=0.1)] == [1, 0.1, 0.1]
    assert [s.origin for s in weighted(samples, weights, generated=0)] == ["real"], "weight 0 is left out"


def test_unknown_origins_and_negative_weights_are_refused() -> None:
    with pytest.raises(UserError, match="template_generated"):
        weighted(origins("template_generated"), {"real": 1, "generated": 1})
    with pytest.raises(UserError, match=r"real must be above 0"):
        weighted(origins("real"), {"real": 0, "generated": 1})
    with pytest.raises(UserError, match="negative"):
        weighted(origins("real"), {"real": 1, "generated": -1})
