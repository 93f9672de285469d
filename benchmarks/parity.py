"""Checks that this project's methods compute the same as anomalib 2.7, with equal network weights and images.

    PYTHONPATH=. PEER_PYTHON benchmarks/parity.py [--freeze tests/detectors/parity.json]

PEER_PYTHON: a Python with anomalib 2.7. Both sides get random images and networks whose weights are drawn by name; no
weights are downloaded, and nothing is trained for long. Prints the largest difference relative to the largest value.
Deliberate differences are switched off where an option exists, and described in docs/detectors.md. --freeze saves some
of anomalib's numbers for tests/detectors/test_parity.py, which then needs no anomalib.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from zlib import crc32

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.augment.tta import View
from anomalib_lite.backbones import build
from anomalib_lite.detectors.anomalydino import AnomalyDINO, foreground
from anomalib_lite.detectors.dinomaly import Block, Dinomaly, StableAdamW
from anomalib_lite.detectors.efficientad import EfficientAD
from anomalib_lite.detectors.padim import PaDiM
from anomalib_lite.detectors.patchcore import PatchCore
from anomalib_lite.detectors.statistics import PositionGaussian
from anomalib_lite.detectors.superadd import SuperADD

Numbers = dict[str, Tensor]
BOUND = 1e-4
DINO2, DINO3 = "vit_small_patch14_dinov2", "vit_small_patch16_dinov3"
WIDTH = 128  # of the small transformers, which have 12 blocks and 2 heads
SIZES = {DINO2: 70, DINO3: 64}  # px; equal to DINOv2's position embedding, so that neither side resamples it
LAYERS = [2, 3, 4, 5, 6, 7, 8, 9]
KEPT = 12  # numbers saved of each result


def drawn(name: str, *shape: int) -> Tensor:
    """Draws standard normal numbers that depend only on the name, in every version of torch."""
    return torch.from_numpy(np.random.RandomState(crc32(name.encode())).standard_normal(shape)).float()


def images(count: int, size: int, name: str = "images") -> Tensor:
    return drawn(name, count, 3, size, size).mul(0.2).add(0.5).clamp(0, 1)


@torch.no_grad()
def fill(module: nn.Module) -> nn.Module:
    """Fills a network with random weights that preserve the signal's scale, and positive variances."""
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            continue
        plain_name = name.removeprefix("model.")  # timm's wrapper of feature extractors
        numbers = drawn(plain_name, *value.shape)
        if value.ndim > 1:
            numbers = numbers / (value[0].numel() ** 0.5)
        else:
            numbers = 0.1 * numbers + ("weight" in plain_name or "var" in plain_name)
        value.copy_(numbers)
    return module


@contextmanager
def numbered_networks() -> Iterator[None]:
    """Makes timm create networks filled by name, small transformers among them, without a download."""
    make = timm.create_model

    def create(name: str, pretrained: bool = False, pretrained_cfg: Any = None, **options: Any) -> nn.Module:
        if "vit" in name:
            options |= {"embed_dim": WIDTH, "num_heads": 2, "img_size": SIZES[name]}
        return fill(make(name, **options))

    with mock.patch("timm.create_model", create):
        yield


class Batches(list):  # type: ignore[type-arg]  # of tensors
    """Images (N, 3, H, W) as a single batch for a method's `calibrate`."""

    def __init__(self, image: Tensor) -> None:
        index = torch.arange(len(image))
        batch = SimpleNamespace(image=image, index=index, weight=torch.ones(len(image)))
        super().__init__([batch])
        self.dataset = ImagesOf(image)


class ImagesOf:
    def __init__(self, image: Tensor) -> None:
        self.image, self.size = image, tuple(image.shape[2:])

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: Any) -> Any:
        return SimpleNamespace(image=self.image[index])


def calibrated(method: Any, train: Tensor) -> Any:
    method.calibrate(Batches(train), [View()], lambda maps: maps)
    return method.eval()


def normal(method: Any, image: Tensor) -> Tensor:
    """Normalises an image as the peer's pre-processing does."""
    backbone = getattr(method, "backbone", None) or method.teacher
    return (image - backbone.mean) / backbone.std


# ---------------------------------------------------------------------------------------------------------------- ours


def our_anomalydino() -> tuple[AnomalyDINO, Numbers]:
    vit = partial(build, DINO2, layers=[11], norm=True)
    ours = calibrated(AnomalyDINO(vit, None, mask="off", turns=1), images(3, 70))
    test = images(2, 70, "test")
    return ours, {
        "features": ours._features(test), "map": ours.anomaly_map(test),
        "ground": foreground(product(), 10.0).float(),
    }  # fmt: skip


def product() -> Tensor:
    """Returns features of two images whose centre differs from the background."""
    centre = torch.zeros(12, 12)
    centre[3:9, 2:10] = 1
    direction = F.normalize(drawn("way", 1, 16, 1, 1), dim=1)
    return drawn("ground", 2, 16, 12, 12) + 40 * centre * direction


def our_padim() -> tuple[PaDiM, Numbers]:
    cnn = partial(build, "resnet18", layers=[1])
    ours, train, test = PaDiM(cnn, None, stride=4, channels=20, shrinkage=0.0), images(40, 32), images(2, 32, "test")
    scale = ours._features(train).double().var(0, correction=0).mean()
    ours.gaussians.make = partial(PositionGaussian, 0.0, 0.01001 * 39 / 40 / float(scale))
    calibrated(ours, train)
    return ours, {"features": ours._features(test), "map": ours.anomaly_map(test)}


def our_patchcore() -> tuple[PatchCore, Numbers]:
    cnn = partial(build, "resnet18", layers=[2, 3])
    ours, test = PatchCore(cnn, None, stride=8, bank=1.0, coreset="random", reweight=9), images(2, 64, "test")
    with zeros_counted():
        calibrated(ours, images(3, 64))
        return ours, {"features": ours._features(test), "score": ours.anomaly_map(test).amax((1, 2, 3))}


@contextmanager
def zeros_counted() -> Iterator[None]:
    """Makes average pooling count the padding's zeros, as the peer's does."""
    plain = F.avg_pool2d
    with mock.patch.object(F, "avg_pool2d", lambda x, *options, **_: plain(x, *options)):
        yield


def our_superadd() -> tuple[SuperADD, Numbers]:
    vit = partial(build, DINO3, layers=[3, 5, 8, 10])
    ours = calibrated(SuperADD(vit, None, brightness=(1.0, 1.0)), images(3, 64))
    test = images(2, 64, "test")
    maps = F.interpolate(ours.anomaly_map(test), (64, 64), mode="bilinear", align_corners=False)
    return ours, {"features": ours._features(test), "map": maps}


def our_efficientad() -> tuple[EfficientAD, Numbers]:
    """Uses the distilled teacher, which has the authors' architecture."""
    cnn = partial(build, "resnet18", layers=[2])
    make = partial(torch.optim.Adam, lr=1e-3)
    ours = EfficientAD(cnn, make, levels=None, stride=4, width=128, inner=64, distill=1)
    for name in ("pdn", "student", "autoencoder"):
        fill(getattr(ours, name))
    ours.autoencoder.dropout.p = 0.0
    test = images(1, 256, "test")
    channels = ours.mean.shape[1]
    ours.mean.copy_(0.01 * drawn("mean", *ours.mean.shape))
    ours.scale.copy_(1 + 0.1 * drawn("scale", *ours.scale.shape).abs())
    ours.unit.copy_(torch.tensor([(0.9 - 0.4) / 0.1, (0.7 - 0.2) / 0.1]))
    ours._augmented = lambda image: image * 0.9
    ours._penalty_images = None
    batch = SimpleNamespace(image=test)
    loss = ours.loss_of(ours.features(test), batch, torch.ones(1))
    return ours, {
        "teacher": ours.features(test)[0], "student": ours.student(ours._normalised_image(test))[:, :channels],
        "autoencoder": ours.autoencoder(ours._normalised_image(test), (64, 64)), "loss": loss.detach()[None],
        "map": ours.anomaly_map(test).detach(),
    }  # fmt: skip


def our_dinomaly() -> tuple[Dinomaly, Numbers]:
    vit = partial(build, DINO2, layers=LAYERS)
    ours = Dinomaly(vit, partial(StableAdamW), depth=8, dropout=0.0)
    for name in ("bottleneck", "decoder"):
        fill(getattr(ours, name))
    mlps = [ours.bottleneck, *(block.inner for block in ours.decoder)]
    for layer in (layer for mlp in mlps for layer in mlp if isinstance(layer, nn.Linear)):
        nn.init.zeros_(layer.bias)  # which the authors have, but the peer has not
    ours.total, test = 5000, images(2, 70, "test")
    ours.step.fill_(350)  # of the 500 steps in which the share of easy positions grows
    features = ours.features(test)
    targets, answers = ours.targets(features), ours.answers(features, test)
    loss = ours.loss(targets, answers, torch.ones(2))
    loss.backward()
    optimizer = StableAdamW([weight := nn.Parameter(drawn("start", 30))])
    for step in range(4):
        weight.grad = drawn(f"gradient {step}", 30) * (1 + 20 * (step == 2))
        optimizer.step()
    return ours, {
        "features": torch.cat(targets).detach(), "answers": torch.cat(answers).detach(), "loss": loss.detach()[None],
        "gradient": ours.bottleneck[1].weight.grad, "map": ours.anomaly_map(test).detach(),
        "optimizer": weight.detach(),
    }  # fmt: skip


OURS: dict[str, Callable[[], tuple[Any, Numbers]]] = {
    "anomalydino": our_anomalydino, "padim": our_padim, "patchcore": our_patchcore, "superadd": our_superadd,
    "efficientad": our_efficientad, "dinomaly": our_dinomaly,
}  # fmt: skip


def ours(name: str) -> tuple[Any, Numbers]:
    with numbered_networks():
        torch.manual_seed(0)
        return OURS[name]()


# -------------------------------------------------------------------------------------------------------------- theirs


def their_anomalydino(ours: AnomalyDINO) -> Numbers:
    from anomalib.models.image.anomaly_dino.torch_model import AnomalyDINOModel

    theirs = AnomalyDINOModel(encoder_name=DINO2)
    theirs.anomaly_map_generator.forward = lambda maps, size: maps
    theirs.train()(normal(ours, images(3, 70)))
    theirs.fit()
    test = normal(ours, images(2, 70, "test"))
    features = theirs.eval().extract_features(test).mT.reshape(2, WIDTH, 5, 5)
    rows = product().flatten(2).mT.numpy()
    masks = torch.from_numpy(theirs.compute_background_masks(rows, (12, 12))).view(2, 1, 12, 12).float()
    return {"features": features, "map": theirs(test).anomaly_map, "ground": masks}


def their_padim(ours: PaDiM) -> Numbers:
    from anomalib.models.image.padim.torch_model import PadimModel

    theirs = PadimModel("resnet18", ["layer1"], pre_trained=False, n_features=20)
    theirs.idx = ours.kept
    theirs.train()(normal(ours, images(40, 32)))
    theirs.fit()
    test = normal(ours, images(2, 32, "test"))
    features = theirs.eval().generate_embedding(theirs.feature_extractor(test))
    stats = [theirs.gaussian.mean, theirs.gaussian.inv_covariance]
    distance = theirs.anomaly_map_generator.compute_distance(features, stats)
    # ours averages over the channels, and divides covariances by n, not by n - 1
    return {"features": features, "map": distance / 20**0.5 * (40 / 39) ** 0.5}


def their_patchcore(ours: PatchCore) -> Numbers:
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    theirs = PatchcoreModel(["layer2", "layer3"], "resnet18", pre_trained=False, num_neighbors=9)
    theirs.train()(normal(ours, images(3, 64)))
    theirs.memory_bank = torch.vstack(theirs.embedding_store)  # all embeddings, as coresets are random
    test = normal(ours, images(2, 64, "test"))
    levels = {k: theirs.feature_pooler(v) for k, v in theirs.feature_extractor(test).items()}
    return {"features": theirs.generate_embedding(levels), "score": theirs.eval()(test).pred_score}


def their_superadd(ours: SuperADD) -> Numbers:
    from anomalib.models.image.super_add.torch_model import SuperADDModel

    theirs = SuperADDModel(DINO3, [3, 5, 8, 10], patch_size=64, patch_overlap=16, gaussian_blur_sigma=0.0)
    theirs.train()(normal(ours, images(3, 64)))
    theirs.subsample_embedding()
    test = normal(ours, images(2, 64, "test"))
    features = torch.cat([f.permute(0, 3, 1, 2) for f in theirs.patch_exec(test)], 1)
    return {"features": features, "map": theirs.eval()(test).anomaly_map[:, None]}


def their_efficientad(ours: EfficientAD) -> Numbers:
    from anomalib.models.image.efficient_ad import torch_model as peer

    channels = ours.mean.shape[1]
    theirs = peer.EfficientAdModel(channels, pad_maps=False)
    _copy(ours.pdn, theirs.teacher)
    _copy(ours.student, theirs.student)
    _copy(ours.autoencoder, theirs.ae)
    theirs.mean_std["mean"].data, theirs.mean_std["std"].data = ours.mean.clone(), ours.scale.clone()
    for dropout in (m for m in theirs.modules() if isinstance(m, nn.Dropout)):
        dropout.p = 0.0
    theirs.ae.decoder.padding = True  # so that maps reach the border
    test = images(1, 256, "test")
    reflected = partial(F.pad, pad=(14, 15, 14, 15), mode="reflect")
    for network in (theirs.teacher, theirs.student):  # with our padding of the images
        plain = network.forward
        network.forward = lambda image, plain=plain: plain(reflected(image))
    others = torch.zeros(1, 3, 256, 256)
    with mock.patch.object(theirs, "choose_random_aug_image", lambda image: image * 0.9):
        losses = theirs.train()(test, others)
    penalty = theirs.student(others)[:, :channels].square().mean()
    theirs.eval()
    student = theirs.student(test)
    target = theirs._normalize_teacher(theirs.teacher(test))
    whole = theirs.ae(test, (256, 256))
    # compare the maps before upsampling, normalised by quantiles 0.4 to 0.9 and 0.2 to 0.7
    limits = zip(("qa_st", "qb_st", "qa_ae", "qb_ae"), (0.4, 0.9, 0.2, 0.7), strict=True)
    theirs.quantiles.update({name: torch.tensor(value) for name, value in limits})
    with mock.patch.object(peer.F, "interpolate", lambda maps, size, mode: maps):
        theirs.ae.forward = lambda image, size: whole
        maps = theirs.compute_maps(test, student, (target - student[:, :channels]).square())
    constant = 0.1 * (0.4 / 0.5 + 0.2 / 0.5) / 2  # ours subtracts no offset, so that maps are not negative
    return {
        "teacher": theirs.teacher(test), "student": student[:, :channels], "autoencoder": whole,
        "loss": (sum(losses) - penalty)[None], "map": sum(maps) / 2 + constant,
    }  # fmt: skip


def their_dinomaly(ours: Dinomaly) -> Numbers:
    from anomalib.models.image.dinomaly import torch_model as peer
    from anomalib.models.image.dinomaly.components import StableAdamW as Theirs

    small = {"small": {"embed_dim": WIDTH, "num_heads": 2, "target_layers": LAYERS}}
    with mock.patch.object(peer, "DINO_ARCHITECTURES", small):
        theirs = peer.DinomalyModel(DINO2, 0.0, 8, remove_class_token=True)
    for mine, other in zip([ours.bottleneck, *ours.decoder], [*theirs.bottleneck, *theirs.decoder], strict=True):
        _copy(mine, other)
    test = normal(ours, images(2, 70, "test"))
    targets, answers = theirs.get_encoder_decoder_outputs(test)
    loss = peer.CosineHardMiningLoss(p_schedule_steps=500)(targets, answers, 350)
    loss.backward()
    maps, _ = theirs.calculate_anomaly_maps(targets, answers, out_size=(5, 5))
    optimizer = Theirs(
        [weight := nn.Parameter(drawn("start", 30))], lr=2e-3, eps=1e-10, weight_decay=1e-4, amsgrad=True
    )
    for step in range(4):
        weight.grad = drawn(f"gradient {step}", 30) * (1 + 20 * (step == 2))
        optimizer.step()
    return {
        "features": torch.cat(targets), "answers": torch.cat(answers).detach(), "loss": loss.detach()[None],
        "gradient": theirs.bottleneck[0].fc1.weight.grad, "map": maps.detach(), "optimizer": weight.detach(),
    }  # fmt: skip


def _copy(mine: nn.Module, other: nn.Module) -> None:
    """Copies the layers' weights, in the order of execution, and the biases that the peer has, too."""
    for one, two in zip(_layers(mine), _layers(other), strict=True):
        two.load_state_dict({name: one.state_dict()[name] for name in two.state_dict()})


def _layers(module: nn.Module) -> list[nn.Module]:
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.LayerNorm)]
    if isinstance(module, Block):  # which defines its two norms first
        layers = [layers[k] for k in (0, 2, 3, 1, 4, 5)]
    return layers


THEIRS: dict[str, Callable[[Any], Numbers]] = {name: globals()[f"their_{name}"] for name in OURS}


def relative_difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-12))


def some_of(values: Tensor) -> list[float]:
    """Returns evenly spaced numbers, and the mean of all."""
    flat = values.detach().flatten().double()
    index = torch.linspace(0, len(flat) - 1, min(KEPT, len(flat))).long()
    return [float(f"{value:.7g}") for value in [*flat[index].tolist(), float(flat.mean())]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--freeze", type=Path)
    args, worst, frozen = parser.parse_args(), 0.0, {}
    torch.set_num_threads(1)
    print("| method | result | largest difference / largest value |\n|---|---|---|")
    for name in OURS:
        model, mine = ours(name)
        with numbered_networks():
            peer = THEIRS[name](model)
        for result, value in mine.items():
            difference = relative_difference(value, peer[result])
            worst = max(worst, difference)
            print(f"| {name} | {result} | {difference:.1e} |", flush=True)
        frozen |= {f"{name} {result}": some_of(value) for result, value in peer.items()}
    if args.freeze:
        lines = [f"{json.dumps(key)}: {json.dumps(numbers)}" for key, numbers in frozen.items()]
        args.freeze.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"\n{'agrees' if worst <= BOUND else 'DIFFERS'}: {worst:.1e}, allowed {BOUND:g}")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
