"""What libraries say that tells the user nothing and that nobody can act upon."""

from __future__ import annotations

import logging
import warnings

WARNINGS = (
    r"Found \d+ module\(s\) in eval mode at the start of training",  # a frozen teacher is in eval mode on purpose
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"`broadcast_buffers` is deprecated",  # its successor came with torch 2.15
    r"The `srun` command is available on your system but is not used",  # each training is of one machine
    r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema",  # conf/hydra/launcher: deltas on purpose
)


def silence() -> None:
    """These warnings alone."""
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def seed_everything(seed: int) -> None:
    """Of Python, numpy, torch and the loaders' workers; Lightning is imported here, and quiet from then on."""
    import lightning

    # its import makes these loggers talk about hardware and its makers' services, and prints warnings twice
    logging.getLogger("lightning").handlers.clear()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    lightning.seed_everything(seed, workers=True, verbose=False)
