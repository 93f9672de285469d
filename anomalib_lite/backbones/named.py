"""Features by the names of modules, such as `blocks.3`: also those between the levels that a library numbers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from torch import fx, nn

from anomalib_lite.errors import UserError

Nodes = Callable[[nn.Module], tuple[list[str], list[str]]]
Extract = Callable[[nn.Module, list[str]], fx.GraphModule]


def cut_at(model: nn.Module, modules: Sequence[str], name: str, nodes: Nodes, extract: Extract) -> nn.Module:
    """A network cut behind the last of `modules`: images -> their outputs, by name, in the order they are computed in.

    name: the network's, for messages. nodes, extract: torchvision's `get_graph_node_names` and
    `create_feature_extractor`, or timm's, which know each library's networks.
    Errors: UserError for a module that the network has not or does not run, and for a network that torch.fx cannot
    follow.
    """
    known = [module for module, _ in model.named_modules() if module]
    for module in modules:
        if module not in known:
            raise UserError(_unknown(module, known, name))
    try:
        _, run = nodes(model)
    except Exception as error:  # tracing calls the network's own code with stand-ins for tensors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"'{name}' cannot be cut at modules' names ({reason}): give backbone.layers as numbers, or take another "
            "network."
        ) from error
    last = {module: _last(module, run) for module in modules}
    if unused := [module for module, place in last.items() if place < 0]:
        raise UserError(f"'{name}' puts nothing out at {', '.join(unused)}: choose other backbone.layers.")
    places = {place: module for module, place in last.items()}  # one of those that end at the same place
    return extract(model, [places[place] for place in sorted(places)])


def level_modules(info: Sequence[dict], levels: Sequence[int], name: str) -> list[str]:
    """The modules of numbered levels. info: timm's `feature_info` of a whole network."""
    if wrong := [level for level in levels if not 0 <= level < len(info)]:
        raise UserError(f"'{name}' has no feature levels {wrong}: it has 0 to {len(info) - 1}.")
    return [str(info[level]["module"]) for level in levels]


def _last(module: str, run: Sequence[str]) -> int:
    """The place of a module's last operation among all that are run, -1 where it is none of them."""
    own = [place for place, node in enumerate(run) if node == module or node.startswith(module + ".")]
    return max(own, default=-1)


def _unknown(module: str, known: Sequence[str], name: str) -> str:
    near = difflib.get_close_matches(module, known, 5, 0.5)
    parent = module.rpartition(".")[0]
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    beside = [k for k in known if k.rpartition(".")[0] == parent]
    return (
        f"'{name}' has no module '{module}' for backbone.layers. Similar: {', '.join(near) or 'none'}. "
        f"In {parent or 'the network'}: {', '.join(beside[:20])}."
    )
