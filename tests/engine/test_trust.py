"""A foreign run folder runs no code."""

import pytest
from omegaconf import OmegaConf

from anomalib_lite.engine.trust import check_targets
from anomalib_lite.errors import UserError
from tests.commands import refused

PLANTED = (
    "os.system", "builtins.eval", "planted.run", "torch.load", "torch.hub.load", "${oc.env:HOME}", 7,
    "torch.nn.modules.module.warnings.warn", "anomalib_lite.data.files.os.system",
    "anomalib_lite.runs.atomic.write_text", "anomalib_lite.detectors_of_mine.run",
    "anomalib_lite.detectors.absent.Absent",
)  # fmt: skip


@pytest.mark.parametrize("target", PLANTED)
def test_a_target_of_other_code_is_refused_wherever_it_stands(target):
    made = {"_target_": target}
    for settings in (
        {"detector": made},
        {"trainer": {"callbacks": [{"a": made}]}},
        {"detector": "${oc.create:{_target_:os.system}}"},
    ):
        with pytest.raises(UserError, match="outside this package's known parts"):
            check_targets(settings)


def test_known_parts_and_packages_of_the_users_own_are_accepted():
    known = (
        "torch.optim.SGD", "torch.optim.lr_scheduler.OneCycleLR", "kornia.augmentation.RandomAffine",
        "lightning.Trainer", "anomalib_lite.backbones.build", "anomalib_lite.data.layouts.mtd",
        "anomalib_lite.scoring.GaussianBlur",
        "anomalib_lite.generators.histaugan.Schedule",  # defined among the settings
    )  # fmt: skip
    check_targets({"parts": [{"_target_": target} for target in known]})
    check_targets({"detector": {"_target_": "mine.model.Mine"}}, ["mine"])
    with pytest.raises(UserError, match="trust=mineral"):
        check_targets({"detector": {"_target_": "mineral.Mine"}}, ["mine"])


@pytest.mark.parametrize("verb", ["predict", "evaluate", "export", "serve", "train"])
def test_what_takes_a_run_refuses_a_planted_target(here, verb):
    run, mark = here / "run", here / "mark"
    run.mkdir()
    planted = {"_target_": "os.mkdir", "path": str(mark)}
    OmegaConf.save({"detector": planted, "data": planted}, run / "config.yaml")
    (run / "threshold.json").write_text('{"image": 1}')
    (run / "data.json").write_text('{"hash": 1}')
    (run / "model.safetensors").write_bytes(b"")
    more = {"predict": ["images=."], "train": ["data=folder", "data.ok=."]}.get(verb, [])
    said = refused(verb, f"{'start_from' if verb == 'train' else 'run'}={run}", *more)
    assert "detector._target_ is 'os.mkdir'" in said
    assert not mark.exists()
