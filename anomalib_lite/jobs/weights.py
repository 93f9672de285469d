"""anomalib-lite weights: download pretrained weights of backbones."""

from functools import partial

import yaml
from omegaconf import DictConfig

from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app, named, say
from anomalib_lite.runs.artifacts import content_hash
from anomalib_lite.settings import conf_dir

HELP = """Downloads a backbone's pretrained weights in advance, into the cache that trainings read.

Prints their size, licence and SHA-256. Without a name it lists the backbones and the weights that are on this machine.

  anomalib-lite weights
  anomalib-lite weights dinov2_small
  anomalib-lite weights vit_base_patch14_reg4_dinov2.lvd142m      any network of timm"""


@app("weights", HELP, partial(named, "name"))
def main(cfg: DictConfig) -> None:
    from anomalib_lite.backbones.weights import facts, fetch, find_file  # importing torch takes seconds

    backbones = {}  # backbone -> (name in timm, source of the weights)
    for listed in sorted((conf_dir() / "backbone").glob("*.yaml")):
        option = yaml.safe_load(listed.read_text(encoding="utf-8"))
        if "name" in option:
            backbones[listed.stem] = (option["name"], option.get("weights", "timm"))
    if cfg.name is None:
        for short, (name, source) in backbones.items():
            about, here = facts(name), find_file(name, source)
            say(f"{short:18} {about.megabytes:5.0f} MB  {about.terms:34} {here or 'not downloaded'}")
        return
    name, source = backbones.get(str(cfg.name), (str(cfg.name), "timm"))
    try:
        about = facts(name)
    except UserError as error:
        raise UserError(f"{error} The configured backbones are {', '.join(backbones)}.") from error
    say(f"{name}: {about.megabytes:.0f} MB, licence {about.terms}")
    if file := fetch(name) if source == "timm" else find_file(name, source):
        say(f"{file}\nsha256 {content_hash(file)}")
