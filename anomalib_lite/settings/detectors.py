"""Options of detectors, backbones, test-time augmentation, tiling and scoring."""

from dataclasses import dataclass
from typing import Any

from omegaconf import II, MISSING

from anomalib_lite.settings.fields import MOTIONS, choice, setting

PACKAGE = "anomalib_lite.detectors"
SHRINKAGE = "0: one covariance per position; 1: one for all positions; auto: by the number of images"
RIDGE = "share of the mean variance added to the covariance's diagonal"
CACHE = "MB for cached backbone features of the training images; 0: compute them in each epoch"
LEVELS = "indices of the backbone's layers to use, 1 and 2: stride 8 and 16; null: all"
STRIDE = "px between feature positions; null: stride of the finest layer in use"
TURNS = "rotated copies of each image, if there are few; 1: none"
FEW = "largest number of training images for which rotated copies are used"
FUSION = ("product", "sum")
STEPS = "training steps, replacing epochs and rounded up to whole epochs; 0: see epochs"
POOL = "radius in positions of the average over neighbouring features; 0: none"
SEPARATE, COSINE = "use one bank per layer, and average their maps", "compare features by 1 - cosine similarity"
BANK = "number of patches in the memory bank; up to 1.0: share of the candidates"
OPTIMIZER, SCHEDULER = "torch optimizer", "learning-rate scheduler; null: constant rate"
FUSED = "how the layers' maps are combined if gaussian is null"
FOLDED = "n: every n-th training image is held out, and gets synthetic defects to choose by"
POSITIONS = "px between feature positions"
CORESETS = ("greedy", "random", "thinned")
CHOSEN = "how the bank is chosen"
AUTO = "auto: the rule that finds synthetic defects best"
SCOPES = "global: for all positions together; none: in fixed units"
PERCENTILE = "percentile of OK pixels for the pixel threshold (SuperADD: 95); null: by false_alarm_rate"
SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.4, "momentum": 0.9, "weight_decay": 1e-4}
ADAM_W = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 2e-3, "weight_decay": 1e-5}
ADAM = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 5e-3, "betas": [0.5, 0.999]}
ONE_CYCLE = {
    "_target_": "torch.optim.lr_scheduler.OneCycleLR", "_partial_": True, "max_lr": II("detector.optimizer.lr"),
    "pct_start": 0.1, "cycle_momentum": False,
}  # fmt: skip
LATE_DROP = {"_target_": f"{PACKAGE}.efficientad.late_drop", "_partial_": True, "share": 0.8}


def _share_or_auto(value: Any) -> str:
    return "" if value == "auto" or (not isinstance(value, str) and 0 <= value <= 1) else "auto or from 0 to 1"


def _bank(value: int | float) -> str:
    whole = isinstance(value, int)
    return "" if (value >= 1 if whole else 0 < value <= 1) else "a number of patches, or a share of them up to 1.0"


@dataclass
class Backbone:
    _target_: str = "anomalib_lite.backbones.build"
    name: str = setting(MISSING, "name of the network in timm")
    layers: Any = setting([1, 2, 3], "feature levels of timm (for a ViT blocks, from 0), or names of modules")
    weights: str = setting("timm", "bundled (EfficientNet-Lite) | timm (download) | none | path of a state dict")
    mean: list[float] | None = setting(None, "mean for input normalisation; null: as in the weights' training")
    std: list[float] | None = setting(None, "std for input normalisation; null: as in the weights' training", above=0)
    norm: bool = setting(False, "apply a vision transformer's final norm to the features of each layer")


@dataclass
class Residual:
    _target_: str = f"{PACKAGE}.residual.ResidualModel"
    groups: Any = setting(MISSING, "lists of layer indices; each list shares one Gaussian")
    shrinkage: int | float | str = setting("auto", SHRINKAGE, rule=_share_or_auto)
    ridge: float = setting(0.01, RIDGE, least=0)
    fusion: str = choice("how the groups' maps are combined", *FUSION)


@dataclass
class SelectedResidual:
    _target_: str = f"{PACKAGE}.residual.SelectedResidualModel"
    choose: str = setting("auto", "auto: the candidate that finds synthetic defects best; or a candidate's name")
    candidates: Any = setting(
        {"levels": Residual(groups=[[0], [1], [2]]), "joint": Residual(groups=[[1, 2]])},
        "levels: one Gaussian per layer, for aligned products; joint: one for coarse layers, for textures",
    )
    folds: int = setting(5, FOLDED, least=2)
    synthetic: int = setting(160, "number of synthetic defects that the choice is made on", least=1)
    seed: int = setting(0, "seed of the synthetic defects", least=0)


@dataclass
class Whitening:
    _target_: str = f"{PACKAGE}.statistics.Whitening"
    _partial_: bool = True
    shrinkage: float = setting(0.01, "share of the mean variance added to each eigenvalue", above=0)


@dataclass
class STFPM:
    _target_: str = f"{PACKAGE}.stfpm.STFPM"
    epochs: int = setting(5, "epochs of the student's training", least=0)
    optimizer: Any = setting(SGD, OPTIMIZER)
    scheduler: Any = setting(None, SCHEDULER)
    whitening: Any = setting(Whitening, "whitening of the teacher's features; null: normalised raw features (paper)")
    gaussian: Any = setting(SelectedResidual, "model of the residual; null: distance of teacher and student (paper)")
    fusion: str = choice(FUSED, *FUSION)
    cache_mb: float = setting(2048, CACHE, least=0)


@dataclass
class ReverseDistillation:
    _target_: str = f"{PACKAGE}.reverse_distillation.ReverseDistillation"
    epochs: int = setting(15, "epochs of the decoder's training", least=0)
    optimizer: Any = setting(ADAM, OPTIMIZER)
    scheduler: Any = setting(ONE_CYCLE, "learning-rate scheduler; null: constant (paper), needs many more epochs")
    blocks: int = setting(2, "residual blocks per level of the decoder", least=1)
    gaussian: Any = setting(SelectedResidual, "model of the residual; null: distance of teacher and decoder (paper)")
    fusion: str = setting("sum", FUSED, choices=FUSION)
    cache_mb: float = setting(2048, CACHE, least=0)


@dataclass
class SimpleNet:
    _target_: str = f"{PACKAGE}.simplenet.SimpleNet"
    epochs: int = setting(20, "training epochs; the one that finds synthetic defects best is kept", least=0)
    optimizer: Any = setting(ADAM_W, OPTIMIZER)
    scheduler: Any = setting(None, SCHEDULER)
    levels: list[int] | None = setting([1, 2], LEVELS, least=0)
    stride: int = setting(8, POSITIONS, least=1)
    whitening: Any = setting(Whitening, "whitening of features before noise is added; null: raw features (paper)")
    noise: float = setting(0.5, "std of the noise, relative to the std of whitened features", above=0)
    hidden: int = setting(256, "width of the discriminator", least=1)
    adaptor_lr: float = setting(1e-5, "learning rate of the feature adaptor; optimizer is the discriminator's", least=0)
    folds: int = setting(5, FOLDED, least=2)
    synthetic: int = setting(80, "number of synthetic defects that the epoch is chosen on", least=1)
    seed: int = setting(II("seed"), "seed of the noise and the synthetic defects", least=0)
    cache_mb: float = setting(2048, CACHE, least=0)


@dataclass
class Dinomaly:
    _target_: str = f"{PACKAGE}.dinomaly.Dinomaly"
    epochs: int = setting(20, "epochs of the decoder's training", least=0)
    steps: int = setting(0, STEPS, least=0)
    optimizer: Any = setting({"_target_": f"{PACKAGE}.dinomaly.StableAdamW", "_partial_": True, "lr": 2e-3}, OPTIMIZER)
    scheduler: Any = setting(ONE_CYCLE | {"final_div_factor": 0.4}, SCHEDULER)
    groups: int = setting(2, "number of groups of consecutive layers, each reconstructed as a whole", least=1)
    depth: int = setting(4, "blocks of the decoder; 8 in the paper", least=1)
    stride: int | None = setting(None, STRIDE, least=1)
    dropout: float = setting(0.2, "dropout probability in the bottleneck", least=0, below=1)
    discard: float = setting(0.9, "share of best reconstructed positions, whose gradient is reduced", least=0, below=1)
    easy: float = setting(0.1, "factor on the gradient of these positions", least=0, most=1)
    ramp: float = setting(0.1, "share of the training in which discard rises from 0", least=0, most=1)
    gaussian: Any = setting(None, "model of the residual, as in stfpm; null: the map is 1 - cosine (paper)")
    fusion: str = setting("sum", "how the groups' maps are combined if gaussian is null", choices=FUSION)
    seed: int = setting(II("seed"), "seed of the dropout", least=0)
    cache_mb: float = setting(2048, CACHE, least=0)


@dataclass
class EfficientAD:
    _target_: str = f"{PACKAGE}.efficientad.EfficientAD"
    epochs: int | None = setting(None, "epochs of the training; null: 260 steps, however few images there are", least=0)
    steps: int = setting(0, STEPS, least=0)
    optimizer: Any = setting(ADAM | {"lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 1e-5}, OPTIMIZER)
    scheduler: Any = setting(LATE_DROP, SCHEDULER)
    levels: list[int] | None = setting([1, 2], LEVELS, least=0)
    stride: int = setting(8, f"{POSITIONS}, 8 or 4", rule=lambda v: "" if v in (4, 8) else "4 or 8")
    width: int = setting(24, "channels of the student; 128 in the paper", least=1)
    inner: int = setting(32, "channels of the autoencoder; 64 in the paper", least=2)
    hard: float = setting(0.999, "share of smallest differences left out of the student's loss", least=0, below=1)
    penalty: str | None = setting(None, "folder of unrelated images, e.g. ImageNet, for the penalty; null: none")
    distill: int = setting(0, "steps to distil the backbone into a small teacher (PDN); 0: use the backbone", least=0)
    folds: int = setting(10, "n: every n-th training image is held out, and sets the scale of the maps", least=2)
    seed: int = setting(II("seed"), "seed of all random draws", least=0)
    cache_mb: float = setting(2048, CACHE, least=0)


@dataclass
class Fusion:
    _target_: str = f"{PACKAGE}.fusion.Fusion"
    members: Any = setting({}, "models whose maps are fused, by name; ~detector.members.NAME removes one")
    learned: bool = setting(True, "add a member of networks trained on synthetic defects")
    use: list[str] | None = setting(None, "names of the members to choose from, e.g. [deep, learned]; null: all")
    how: str = choice(f"how the members' maps are fused; {AUTO}", "auto", "max", "lse", "sum", "soft")
    channels: int = setting(160, "channels kept of the finest layer, and of the other layers together", least=1)
    compare: Any = setting(None, "comparison with the template; null: none")
    drawn: list[int] = setting([160, 500], "fewest and most synthetic defects; in between, two per OK image", least=1)
    cache_mb: float = setting(1024, "MB for the training data of members and networks", above=0)
    seed: int = setting(II("seed"), "seed of all random draws", least=0)


@dataclass
class PaDiM:
    _target_: str = f"{PACKAGE}.padim.PaDiM"
    levels: list[int] | None = setting([1, 2], LEVELS, least=0)
    stride: int = setting(8, POSITIONS, least=1)
    channels: int | None = setting(160, "number of randomly selected feature channels (paper); null: all", least=1)
    shrinkage: int | float | str = setting("auto", SHRINKAGE, rule=_share_or_auto)
    ridge: float = setting(0.01, RIDGE, least=0)
    seed: int = setting(II("seed"), "seed of the selected channels", least=0)


@dataclass
class PatchCore:
    _target_: str = f"{PACKAGE}.patchcore.PatchCore"
    levels: list[int] | None = setting([1, 2], LEVELS, least=0)
    stride: int | None = setting(8, STRIDE, least=1)
    pool: int = setting(1, POOL, least=0)
    whitening: Any = setting(None, "null: raw features; or {_target_: ...Whitening, _partial_: true, shrinkage: 0.01}")
    separate: bool = setting(False, SEPARATE)
    bank: int | float = setting(4000, BANK, rule=_bank)
    coreset: str = choice(f"{CHOSEN}; greedy: k-centre coverage; thinned: fewer where patches are dense", *CORESETS)
    candidates_mb: float = setting(256, "MB for the candidate patches that the bank is chosen from", above=0)
    projection: int = setting(64, "dimensions of the random projection for choosing the coreset", least=1)
    reweight: int = setting(0, "neighbours b in the paper's reweighting of scores; 9 in the paper; 0: none", least=0)
    cosine: bool = setting(False, COSINE)
    radius: int | None = setting(None, "positions within which nearest patches are searched; null: all", least=0)
    density: int = setting(0, "neighbours whose mean distance is subtracted (LDKNN: 9); 0: none", least=0)
    turns: int = setting(1, TURNS, least=1)
    few: int = setting(16, FEW, least=0)
    seed: int = setting(II("seed"), "seed of the candidates and the projection", least=0)


@dataclass
class SubspaceAD:
    _target_: str = f"{PACKAGE}.subspace.SubspaceAD"
    levels: list[int] | None = setting([1, 2], LEVELS, least=0)
    stride: int | None = setting(None, STRIDE, least=1)
    merge: str = choice("how layers are combined; mean (paper) needs layers of the same width", "stack", "mean")
    share: float = setting(0.99, "share of the variance that the principal components explain", above=0, below=1)
    turns: int = setting(30, TURNS, least=1)
    few: int = setting(16, FEW, least=0)


@dataclass
class AnomalyDINO(PatchCore):
    _target_: str = f"{PACKAGE}.anomalydino.AnomalyDINO"
    stride: int | None = setting(None, STRIDE, least=1)
    pool: int = setting(0, POOL, least=0)
    bank: int | float = setting(1.0, BANK, rule=_bank)
    coreset: str = setting("random", f"{CHOSEN} if smaller than the candidates", choices=CORESETS)
    cosine: bool = setting(True, COSINE)
    turns: int = setting(8, TURNS, least=1)
    mask: str = choice("set the map to 0 on the background; auto: if OK images have one", "auto", "on", "off")
    threshold: float | None = setting(None, "product: first component above it (paper: 10); null: std / 2", above=0)


@dataclass
class SuperADD(PatchCore):
    _target_: str = f"{PACKAGE}.superadd.SuperADD"
    stride: int | None = setting(None, STRIDE, least=1)
    pool: int = setting(0, POOL, least=0)
    separate: bool = setting(True, SEPARATE)
    bank: int | float = setting(100_000, "number of patches in each layer's memory bank", rule=_bank)
    coreset: str = setting("thinned", CHOSEN, choices=CORESETS)
    candidates_mb: float = setting(1024, "MB for the candidate patches that the banks are chosen from", above=0)
    brightness: list[float] = setting([0.8, 1.2], "range of random brightness factors of training images", above=0)


@dataclass
class Alignment:
    _target_: str = "anomalib_lite.registration.template.Alignment"
    motion: str = choice("motion model of the whole template", *MOTIONS)
    reach: int = setting(4, "largest additional shift of parts in px; 0: none", least=0)
    window: int = setting(49, "side of the parts in px", least=3)
    light: bool = setting(True, "match mean and std of the template's colours to the image")


@dataclass
class Blur:
    _target_: str = "anomalib_lite.scoring.GaussianBlur"
    sigma: float = setting(4.0, "standard deviation of the Gaussian blur in px", least=0)


@dataclass
class NormalDifference:
    _target_: str = f"{PACKAGE}.template_terms.NormalDifference"
    _partial_: bool = True
    scope: str = choice(f"where normal differences are estimated; {SCOPES}", "position", "global", "none")
    shrinkage: float = setting(0.1, "weight of the global variance in each position's variance", least=0, most=1)
    smooth: int = setting(1, "radius in positions over which mean and variance are averaged", least=0)


@dataclass
class Template:
    _target_: str = f"{PACKAGE}.template.TemplateComparison"
    alignment: Any = setting(Alignment, "alignment of the template; null: images are already aligned with it")
    reach: list[int] | None = setting([2, 1, 1], "search radius in positions by layer; null: only pixels", least=0)
    tolerance: int | None = setting(2, "search radius in px for pixels; null: compare only features", least=0)
    pixel_weight: float = setting(1.0, "weight of the pixels' map, with 1 for each layer's", least=0)
    pixel_blur: Any = setting(lambda: Blur(sigma=1.0), "blur of both pictures before comparing pixels; null: none")
    normal: Any = setting(NormalDifference, "model of the differences between OK images and their template")


@dataclass
class View:
    """Test-time augmentation."""

    _target_: str = "anomalib_lite.augment.tta.TestTimeAugmentation"
    views: Any = setting([{}], "flip: none | horizontal | vertical | both; brightness, contrast, saturation: factors")
    reduce: str = choice("how the maps of all views are combined", "mean", "max")


@dataclass
class NoTiling:
    _target_: str = "anomalib_lite.engine.build.nothing"


@dataclass
class Tiling:
    _target_: str = f"{PACKAGE}.tiling.Tiling"
    size: int = setting(512, "side of a tile in px", least=32)
    overlap: int = setting(64, "overlap of neighbouring tiles in px; a quarter at each border is unused", least=0)
    full: bool = setting(False, "also use the whole image, shrunk to one tile")
    statistics: str = choice("shared by all tiles, or own: for products at a fixed position", "shared", "own")
    limit_mb: float = setting(2000, "largest memory for the tiles' own statistics in MB", above=0)


@dataclass
class Score:
    _target_: str = "anomalib_lite.scoring.MaxScore"


@dataclass
class TopKScore:
    _target_: str = "anomalib_lite.scoring.TopKScore"
    pixels: int | float = setting(0.01, "number of largest pixels to average, or a share of the map below 1", above=0)


@dataclass
class Scoring:
    blur: Any = setting(Blur, "smoothing of the map")
    score: Any = setting(Score, "image score: the largest pixel of the smoothed map")
    false_alarm_rate: float = setting(0.05, "share of OK images that may be flagged", above=0, below=1)
    pixel_percentile: float | None = setting(None, PERCENTILE, above=0, below=100)
    pixel_factor: float = setting(1.421, "factor on that percentile", above=0)
    aupro_limit: float = setting(0.3, "false-positive rate up to which AUPRO is integrated", above=0, most=1)


@dataclass
class TopK(Scoring):
    score: Any = setting(TopKScore, "mean of the largest pixels: more robust, but less sensitive to tiny defects")


SCORES = {  # detector -> option of the group scoring; others: max
    "patchcore_local": "topk", "subspace": "topk", "anomalydino": "topk", "superadd": "topk_fine", "dinomaly": "topk",
}  # fmt: skip
