"""The fusion: what it learns, chooses and keeps, on small pictures."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anomalib_lite.backbones import build
from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.layouts import mtd
from anomalib_lite.data.sample import NOK, Batch, Sample
from anomalib_lite.detectors.evidence import Gaussians, Neighbours, Subspace, Whole
from anomalib_lite.detectors.fusion import Fusion, choose
from anomalib_lite.detectors.members import LEARNED, HeldOutMaps, TrainingData
from anomalib_lite.detectors.template import TemplateComparison
from anomalib_lite.detectors.template_terms import NormalDifference
from anomalib_lite.errors import UserError
from tests.detectors import small

EVIDENCE = {  # which a fusion copies
    "fine": Gaussians("fine", 4.0), "deep": Gaussians("deep"), "colour": Gaussians("colour"),
    "neighbours": Neighbours("deep", bank=50), "subspace": Subspace("deep"), "whole": Whole("deep"),
}  # fmt: skip


def fusion(*names: str, **options: Any) -> Fusion:
    return Fusion(small.backbone, {name: EVIDENCE[name] for name in names}, drawn=(16, 16), **options)


def coloured(batch: Batch) -> Batch:
    batch.image[0, :, 8:24, 8:24] = torch.tensor([0.9, 0.1, 0.9]).view(3, 1, 1)
    return batch


def test_what_is_saved_predicts_the_same_to_the_bit(images: ImageSet, tmp_path: Path):
    """With evidence that no configuration names, too."""
    views = ({}, {"flip": "horizontal"})
    made = small.fit(fusion(*EVIDENCE), images, views)
    expected = small.predict(made, images[[0, 1, 2]], views)
    assert expected.map.shape == (3, 1, *small.SIZE) and (expected.map >= 0).all()
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, tmp_path / "model.safetensors")
    fresh = fusion(*EVIDENCE)
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(small.predict(fresh, images[[0, 1, 2]], views).map, expected.map)


@pytest.mark.parametrize(
    ("names", "count"), [*(([name], 12) for name in EVIDENCE), *((["fine", "deep", "colour"], n) for n in (1, 2, 5))]
)
def test_each_evidence_alone_and_few_images_are_enough_to_find_a_square(images: ImageSet, names: list[str], count: int):
    made = small.fit(fusion(*names, learned=len(names) > 1), images.part(slice(count)))
    score = small.predict(made, coloured(images[[0, 0, count // 5]])).score
    assert score[0] > score[1:].max()


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A choice is made of a handful of images, too."""
    monkeypatch.setattr("anomalib_lite.detectors.fusion.ENOUGH", 2)


def test_of_few_images_nothing_is_chosen_and_what_ignores_the_place_stands_aside(images: ImageSet):
    made = small.fit(fusion("fine", "deep", "neighbours"), images)
    (only,) = made.notes["choice"]["candidates"]
    placed = made.members[0].evidence["fine"].gaussian.mean.shape[0] > 1
    assert only["name"] == f"soft of fine, deep{'' if placed else ', neighbours'} and learned"
    assert "no fusion is chosen" in made.notes["choice"]["words"]
    (given,) = small.fit(fusion("fine", "neighbours", how="lse"), images).notes["choice"]["candidates"]
    assert given["name"] == "lse of fine, neighbours and learned"  # the way was given: all take part


@pytest.mark.usefixtures("few_are_enough")
def test_a_choice_names_what_was_tried_and_all_take_part_where_the_way_is_given(images: ImageSet):
    chosen = small.fit(fusion("fine", "deep", "colour"), images).notes["choice"]["candidates"]
    assert [trial["taken"] for trial in chosen] == [True] + [False] * (len(chosen) - 1)
    names = {trial["name"] for trial in chosen}
    assert {"deep", "learned"} < names and any(" of " in name for name in names)
    made = fusion("fine", "deep", how="lse")
    (only,) = small.fit(made, images).notes["choice"]["candidates"]
    assert only["name"] == "lse of fine, deep and learned"
    model = small.model(made)
    model.predict_batch(images[[0]])
    (shares,) = model.evidence
    assert set(shares) == {"fine", "deep", "learned"} and sum(shares.values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.usefixtures("few_are_enough")
@pytest.mark.parametrize("price", [0.0, 0.03])
def test_defects_that_were_passed_choose_among_fusions_as_good_on_drawn_ones(images: ImageSet, tmp_path: Path, price):
    made = small.fit(fusion("fine", "colour", learned=False), images)
    alone = {trial.members[0]: trial for trial in made.trials if len(trial.members) == 1}
    verdict = alone["fine"].verdict
    worse = replace(alone["colour"], verdict=replace(verdict, per_defect=verdict.per_defect - price))
    made.trials = [replace(alone["fine"], tops=alone["fine"].tops + 100), worse]  # to which no defect rises
    made.members[0].select(["fine"], "sum")
    picture = cv2.imread(str(images.samples[0].image))
    picture[8:24, 8:24] = (230, 25, 230)
    cv2.imwrite(str(tmp_path / "passed.png"), picture)
    made.reconsider(loader(ImageSet([Sample(tmp_path / "passed.png", NOK)], small.SIZE), 4))
    taken, said = ("fine", "fine stays") if price else ("colour", "colour replaces fine")
    assert made.members[0]._selection() == ([taken], "sum") and said in made.notes["choice"]["words"]
    assert [row["name"] for row in made.notes["choice"]["candidates"] if row["taken"]] == [taken]


def test_networks_are_judged_at_a_handicap_and_so_stay():
    """Two members know where a defect is, one and the networks nothing."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(40, 1, 8, 8)
    mask[:, :, 2:4, 2:4] = 1
    parts = {
        name: HeldOutMaps(*(torch.randn(40, 1, 8, 8, generator=generator) + known * at for at in (0, mask)))
        for name, known in (("fine", 2), ("deep", 2), ("colour", 0), (LEARNED, 0))
    }
    shown = TrainingData({}, {}, mask, torch.zeros(40), torch.arange(40), torch.arange(40) % 4)
    trials = choose(parts, shown, list(parts), "auto")
    assert any("colour" not in trial.members for trial in trials if len(trial.members) > 1)
    assert all(LEARNED in trial.members for trial in trials if len(trial.members) > 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"how": "mean"}, "auto, max"), ({"use": ["deepest"]}, "fine, learned"), ({"use": []}, "must name some")],
)
def test_a_wrong_name_is_refused_with_the_valid_ones(options: Any, message: str):
    with pytest.raises(UserError, match=message):
        fusion("fine", **options)
    with pytest.raises(UserError, match="colour, sharpness"):
        Gaussians("deeper")


def test_the_template_is_one_more_evidence(images: ImageSet):
    golden = [replace(sample, template=images.samples[0].image) for sample in images.samples]
    pairs = ImageSet(golden, small.SIZE)
    compare = partial(TemplateComparison, normal=partial(NormalDifference, scope="none"), reach=(1, 1))
    made = Fusion(small.backbone, {"template": Gaussians("template")}, learned=False, drawn=(16, 16), compare=compare)
    model = small.fit(made, pairs)
    batch = coloured(pairs[[0, 1, 2]])
    prediction = small.predict(model, batch)
    assert prediction.score.argmax() == 0 and prediction.map[0, 0, 12:20, 12:20].mean() > prediction.map[0].mean()
    batch.template = None
    with pytest.raises(UserError, match="mode=template"):
        small.predict(model, batch)


@pytest.mark.slow
@pytest.mark.datasets
@pytest.mark.parametrize("moved", [False, True])
def test_tiles_that_lie_anyhow_have_no_statistics_of_single_places(datasets_root: Path, tmp_path: Path, moved: bool):
    rng, samples = np.random.default_rng(0), []
    for number, sample in enumerate(mtd(datasets_root / "mtd").train[:40]):
        picture = cv2.resize(cv2.imread(str(sample.image)), (256, 256), interpolation=cv2.INTER_AREA)
        if moved:
            motion = cv2.getRotationMatrix2D((127.5, 127.5), rng.uniform(0, 360), 1)
            motion[:, 2] += rng.uniform(-25, 25, 2)
            picture = cv2.warpAffine(picture, motion, (256, 256), borderMode=cv2.BORDER_REFLECT)
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
        samples.append(replace(sample, image=tmp_path / f"{number}.png"))
    net = partial(build, "tf_efficientnet_lite0", [1, 2, 3], "bundled")
    made = Fusion(net, {"deep": Gaussians("deep"), "near": Neighbours("deep", radius=1)}, learned=False, drawn=(8, 8))
    small.fit(made, ImageSet(samples, (256, 256)))
    evidence = made.members[0].evidence
    assert (len(evidence["deep"].gaussian.mean) == 1) == moved
    assert evidence["near"].bank.patches.dim() == (2 if moved else 3)
    assert ("positions get no separate statistics" in made.notes["choice"]["words"]) == moved
