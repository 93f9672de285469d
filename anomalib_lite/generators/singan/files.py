"""A finished scale as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anomalib_lite.generators.singan.networks import Critic, ScaleGenerator
from anomalib_lite.generators.singan.pyramid import Pyramid, Scale, to_pixels, to_tensor
from anomalib_lite.runs.atomic import atomic_path


@dataclass
class FinishedScale:
    """A scale with the critic that it was trained against, from which the next scale's goes on."""

    scale: Scale
    critic: Critic
    seconds: float = 0.0

    @property
    def width(self) -> int:
        return len(self.scale.generator.body[0][0].bias)


@dataclass(frozen=True)
class PyramidFiles:
    """start.safetensors with the image and its fixed noise, and scale-00.safetensors and on.

    key: what was trained; finished scales that carry another key count as absent. None takes any.
    """

    folder: Path
    key: str | None = None

    def write_start(self, pyramid: Pyramid) -> None:
        self._save("start", {"pixels": to_pixels(pyramid.real), "fixed_noise": pyramid.fixed_noise.contiguous()}, {})

    def write(self, number: int, finished: FinishedScale) -> None:
        scale = finished.scale
        tensors = {"amplitude": torch.tensor(scale.amplitude, dtype=torch.float64), "size": torch.tensor(scale.size)}
        for name, network in (("generator", scale.generator), ("critic", finished.critic)):
            tensors |= {f"{name}.{key}": value.cpu().contiguous() for key, value in network.state_dict().items()}
        self._save(_name(number), tensors, {"key": str(self.key), "seconds": f"{finished.seconds:.3f}"})

    def read(self, number: int) -> FinishedScale | None:
        """In eval mode, on the CPU; None where there is none."""
        path = self.folder / f"{_name(number)}.safetensors"
        if not path.is_file():
            return None
        with safe_open(path, "pt") as stream:
            notes = stream.metadata()
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
        if self.key is not None and notes["key"] != self.key:
            return None
        width = len(tensors["generator.body.0.0.bias"])
        generator, critic = ScaleGenerator(width), Critic(width)
        _load(generator, tensors, "generator.")
        _load(critic, tensors, "critic.")
        height, width = tensors["size"].tolist()
        scale = Scale((height, width), generator.eval(), float(tensors["amplitude"]))
        return FinishedScale(scale, critic, float(notes["seconds"]))

    def _save(self, name: str, tensors: dict[str, Tensor], notes: dict[str, str]) -> None:
        with atomic_path(self.folder / f"{name}.safetensors") as temporary:
            save_file(tensors, temporary, notes)


def read_pyramid(folder: Path, content: int) -> Pyramid:
    """A finished pyramid. content: place among the OK images of the one that it was trained on."""
    files = PyramidFiles(folder)
    start = load_file(folder / "start.safetensors")
    pyramid = Pyramid(content, to_tensor(start["pixels"]), start["fixed_noise"])
    while (finished := files.read(len(pyramid.scales))) is not None:
        pyramid.scales.append(finished.scale)
    return pyramid


def _name(number: int) -> str:
    return f"scale-{number:02d}"


def _load(network: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
