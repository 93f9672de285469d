"""Values arrive in Hydra as they were: checked with its own parser and with a composed configuration."""

import json
import math

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from anomalib_lite.errors import UserError
from anomalib_lite.runs.overrides import expand_json, override
from tests.commands import Command

VALUES = [
    None, True, False, 0, 1, -3, 1e-4, 1e-05, 1e20, 0.1, 1.0, math.inf, "", "none", "None", "null", "true", "1", "1.0",
    "a b", " a ", "a=b", "a = b, c", "it's", 'say "so"', "back\\slash", "ends\\", "\\'", "a:b", "{a}", "[1]", "x,y",
    "~/folder", "/an absolute/path=1", "*.png", "nok/*", "#1", "täglich", "${seed}", "a(b)", "line\nbreak",
    [], [1, 2], ["a b", "c=d", None, True, "1"], [[1], []], {}, {"a": 1}, {"a": {"b": [None, "x y"]}, "_t_": "m.C"},
    [{"lr": 1e-3}, None],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_hydra_reads_what_was_written(value: object):
    read = OverridesParser.create().parse_override(override("some.key", value))
    assert read.key_or_group == "some.key" and not read.is_sweep_override()
    assert read.value() == value and type(read.value()) is type(value)


def test_a_key_that_hydra_cannot_read_is_named():
    with pytest.raises(UserError, match="'a b' cannot be a key within a value"):
        override("key", {"a b": 1})


def test_json_becomes_one_override_a_key_and_the_rest_stays():
    values = {"seed": 1, "augment": "flips", "detector": {"epochs": 3, "optimizer": {"lr": 0.1}}, "scheduler": {"a": 1}}
    values["blur"] = {"_target_": "m.Blur", "sigma": 2}
    arguments = ["tracking=none", json.dumps(values), "-m"]
    assert expand_json(arguments, {"augment", "detector"}) == [
        "tracking=none", "seed=1", "augment=flips", "detector.epochs=3", "detector.optimizer={lr:0.1}",
        "scheduler={a:1}", "blur=null", "blur={_target_:m.Blur,sigma:2}", "-m",
    ]  # fmt: skip


def test_a_verb_takes_json_that_is_whole(run_verb: Command):
    done = run_verb("train", '{"seed": ')
    assert done.status == 2 and "must be JSON" in done.err
    scheduler = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "_partial_": True, "max_lr": 0.4}
    values = {
        "data": {"n_train": 30, "defects": ["print_missing", "stain"]},
        "data.template": None,
        "detector": {"optimizer": {"lr": 1e-4}, "scheduler": scheduler},
        "backbone.layers": [1, 2],
        "paths.runs": "a b=c/d's",
        "augment": "flips",
    }
    done = run_verb("train", "detector=stfpm", json.dumps(values), "--cfg", "job")
    assert done.status == 0, done.err
    shown = yaml.safe_load(done.out)
    assert shown["data"]["n_train"] == 30 and shown["data"]["defects"] == ["print_missing", "stain"]
    assert shown["data"]["template"] is None and shown["paths"]["runs"] == "a b=c/d's"
    assert shown["detector"]["optimizer"]["lr"] == 1e-4 and shown["detector"]["optimizer"]["momentum"] == 0.9
    assert shown["detector"]["scheduler"] == scheduler
    assert [transform["p"] for transform in shown["augment"]["transforms"]] == [0.5, 0.5]
