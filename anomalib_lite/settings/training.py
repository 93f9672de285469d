"""Options of a training's parts: mode, augmentation, teacher, generator, trainer, tracking, defects."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import II, MISSING

from anomalib_lite.settings.fields import MOTIONS, choice, pixels, setting

HISTAUGAN, SINGAN = "anomalib_lite.generators.histaugan", "anomalib_lite.generators.singan"
COLOURS, FINETUNE = ("histogram", "reinhard", "none"), ("standard", "blockwise")
STYLES = "by mean and std of the domain, from N(0, I), or those of its images"
TRACKING = "wandb: Weights & Biases and files; csv: files in the run folder; none: files without the report"
DRAWN = "mask image, or boxes [[x, y, width, height], ...] as shares of the image"
REJECT: dict[str, int | None] = {"minor": 1, "major": 1, "critical": 1}


@dataclass
class Mode:
    name: str = choice("whether the golden image is used", "no_template", "template")
    colours: str | None = setting(None, "how the template's colours are matched to the OK images", choices=COLOURS)
    weights: dict[str, float] = setting({"real": 9, "generated": 1}, "loss weights by origin; only ratios matter")
    generated: float | None = setting(None, "loss weight of a generated image (real: 1); null: see weights", least=0)

    @property
    def with_template(self) -> bool:
        return self.name == "template"


@dataclass
class Augment:
    _target_: str = "anomalib_lite.augment.transforms.Augment"
    _convert_: str = "all"
    transforms: Any = setting([], "list of kornia's transforms; geometric ones also move mask and template")
    restyle: float = setting(0.0, "probability of new colours and light by generator=histaugan", least=0, most=1)
    weight: float = setting(1.0, "factor on the loss weight of augmented images", least=0)
    seed: int = setting(II("seed"), "seed of the random changes", least=0)


@dataclass
class Task:
    _target_: str = "anomalib_lite.backbones.finetuning.CutPaste"


@dataclass
class Teacher:
    """How the backbone is fine-tuned."""

    _target_: str = "anomalib_lite.backbones.finetuning.Settings"
    task: Any = setting(Task, "classification task that the backbone is fine-tuned on")
    epochs: int = setting(5, "epochs of the fine-tuning", least=0)
    head_epochs: int = setting(0, "first epochs, in which only the head is trained", least=0)
    batch_size: int = setting(16, "images per batch", least=1)
    batches: int | None = setting(16, "largest number of batches per epoch, randomly drawn; null: all", least=1)
    optimizer: Any = setting(MISSING, "torch optimizer")
    scheduler: Any = setting(None, "learning-rate scheduler; null: constant rate")
    hidden: list[int] = setting([512, 128], "widths of the head's hidden layers", least=1)
    dropout: float = setting(0.0, "dropout probability in the head", least=0, below=1)
    unfreeze: int | None = setting(None, "number of last backbone blocks to train; null: all", least=0)
    held_out: float = setting(0.15, "share of the images on which the accuracy is measured", above=0, below=1)
    seed: int = setting(0, "seed of the fine-tuning; runs with different `seed` share one teacher", least=0)
    nok: Any = setting(None, "NOK images to train on, none of them test images: paths or patterns below data.root")
    nok_weight: float = setting(10, "loss weight of these NOK images", least=0)


@dataclass
class StructureGuard:
    enabled: bool = setting(True, "drop generated images with a damaged structure")
    quantile: float = setting(0.01, "share of intact images that may be dropped: higher is stricter", above=0, below=1)


@dataclass
class NoGenerator:
    """Options of all generators."""

    _target_: str = "anomalib_lite.engine.build.nothing"
    count: int | None = setting(None, "number of images to generate; null: the number of OK training images", least=1)
    seed: int = setting(0, "seed of the generator; runs with different `seed` share one generator", least=0)
    structure_guard: StructureGuard = field(default_factory=StructureGuard)


@dataclass
class Generator(NoGenerator):
    _target_: str = MISSING
    accelerator: str = setting(II("trainer.accelerator"), "device to train the generator on")
    precision: str = setting(II("trainer.precision"), "numerical precision of the generator's training")


@dataclass
class Architecture:
    _target_: str = f"{HISTAUGAN}.Architecture"
    channels: int = setting(8, "channels of the first layer; the content has four times as many", least=1)
    attributes: int = setting(4, "length of the style vector (colour, light); too long, it encodes texture", least=1)
    content_blocks: int = setting(4, "residual blocks of the content encoder", least=0)
    decoder_blocks: int = setting(3, "residual blocks of the decoder", least=0)
    discriminator_channels: int = setting(16, "channels of the discriminators' first layer", least=1)
    discriminator_layers: int = setting(4, "downsampling layers; fewer judge smaller patches", least=1)
    attribute_init: float | None = setting(None, "std of the style encoder's initial weights; null: He's", above=0)


@dataclass
class LossWeights:
    """Weights of the official code, except latent_regression, which is 10 there (preset=paper)."""

    _target_: str = f"{HISTAUGAN}.LossWeights"
    adversarial: float = setting(1.0, "weight of the GAN loss on generated images", least=0)
    domain_discriminator: float = setting(1.0, "weight of the discriminators' domain classification", least=0)
    domain_generator: float = setting(5.0, "weight of generating images of the wanted domain", least=0)
    content_confusion: float = setting(1.0, "weight of hiding the domain from the content discriminator", least=0)
    self_reconstruction: float = setting(10.0, "weight of reconstructing an image from its own codes", least=0)
    cross_cycle: float = setting(10.0, "weight of reconstruction after swapping styles twice", least=0)
    content_l2: float = setting(0.01, "weight of the content code's squared norm", least=0)
    attribute_kl: float = setting(0.01, "weight of the style code's divergence from N(0, I)", least=0)
    latent_regression: float = setting(1.0, "weight of recovering drawn styles; more gives unreal colours", least=0)


@dataclass
class GANSchedule:
    _target_: str = f"{HISTAUGAN}.Schedule"
    epochs: int = setting(25, "epochs of the training", least=1)
    decay_epoch: int = setting(20, "epochs after which the learning rates drop to a tenth, repeatedly", least=1)
    batch: int = setting(2, "images per batch", least=1)
    learning_rate: float = setting(1e-3, "learning rate of Adam", above=0)
    discriminator_rate: float = setting(0.5, "factor on the image discriminators' learning rate", above=0)
    content_rate: float = setting(0.04, "factor on the content discriminator's learning rate", above=0)
    weight_decay: float = setting(1e-4, "weight decay of Adam", least=0)
    checkpoint_every: int = setting(1, "epochs between checkpoints", least=1)


def finetuning_schedule() -> GANSchedule:
    """Returns a schedule with the discriminators' learning rates of the official code."""
    return GANSchedule(epochs=10, decay_epoch=10, learning_rate=1e-4, discriminator_rate=1.0, content_rate=0.4)


@dataclass
class HistAuGAN(Generator):
    _target_: str = f"{HISTAUGAN}.HistAuGAN"
    size: Any = setting(128, "size of the images in px; one number, or [height, width]", rule=pixels)
    crop: Any = setting(96, "size of the training crops in px, a multiple of 4")
    architecture: Any = setting(Architecture, "sizes of the networks")
    losses: Any = setting(LossWeights, "weights of the losses")
    schedule: Any = setting(GANSchedule, "schedule of the training")
    flip: bool = setting(True, "mirror half of the training crops, left to right")
    template_probability: float = setting(0.1, "probability that a training step draws the template", least=0, below=1)
    template_share: float = setting(0.5, "share of generated images in the template's domain", least=0, most=1)
    sampling: str = choice(f"drawn styles: {STYLES}", "statistics", "random", "encoded")
    finetune: str | None = setting(None, "fine-tune on crops of the template after the OK images", choices=FINETUNE)
    finetuning: Any = setting(finetuning_schedule, "schedule of the fine-tuning")
    start_from: str | None = setting(None, "folder of a finished one-domain GAN to fine-tune; null: train one")


@dataclass
class Shape:
    _target_: str = f"{SINGAN}.Shape"
    max_size: int = setting(128, "long side at the finest scale in px", least=8)
    min_size: int = setting(25, "short side at the coarsest scale in px", least=8)
    factor: float = setting(0.75, "size ratio of neighbouring scales; raised to end at min_size", above=0, below=1)
    width: int = setting(16, "channels at the four coarsest scales, doubled every four scales", least=1)
    max_width: int = setting(16, "largest number of channels", least=1)
    noise: float = setting(0.1, "noise of finer scales, relative to the error of the coarser reconstruction", least=0)


@dataclass
class ScaleSchedule:
    _target_: str = f"{SINGAN}.Schedule"
    iterations: int = setting(400, "iterations at each scale", least=1)
    critic_steps: int = setting(1, "steps of the critic per iteration", least=1)
    generator_steps: int = setting(1, "steps of the generator per iteration", least=1)
    learning_rate: float = setting(5e-4, "learning rate of Adam", above=0)
    beta1: float = setting(0.5, "beta1 of Adam", least=0, below=1)
    decay_at: float = setting(0.8, "share of iterations after which the learning rate is a tenth", above=0, most=1)
    penalty: float = setting(0.1, "weight of the gradient penalty", least=0)
    reconstruction: float = setting(10.0, "weight of the reconstruction loss", least=0)


@dataclass
class SinGAN(Generator):
    _target_: str = f"{SINGAN}.SinGAN"
    images: int = setting(1, "number of OK images to train a pyramid on, evenly spread over the set", least=1)
    start_scale: int = setting(3, "coarsest scale that is generated; coarser ones are the image; 0: all", least=0)
    stretch: list[float] = setting([1.0, 1.0], "height and width of the samples relative to the image", above=0)
    shape: Any = setting(Shape, "sizes of the pyramid")
    schedule: Any = setting(ScaleSchedule, "schedule of the training")


@dataclass
class Trainer:
    """Common arguments of Lightning's Trainer; any other works as +trainer.NAME=VALUE."""

    _target_: str = "lightning.Trainer"
    _partial_: bool = True
    accelerator: str = setting("cpu", "type of device: cpu | gpu | cuda | mps | auto")
    devices: Any = setting(1, "number of devices, or a list of their indices")
    strategy: Any = setting("auto", "how several devices are used, e.g. ddp_spawn")
    precision: Any = setting("32-true", "numerical precision: 32-true | bf16-mixed | 16-mixed")
    gradient_clip_val: float | None = setting(None, "largest gradient norm; null: no clipping", least=0)
    accumulate_grad_batches: int = setting(1, "batches whose gradients are accumulated for one step", least=1)
    sync_batchnorm: bool = setting(False, "share batch-norm statistics between devices")
    deterministic: Any = setting(None, "true: slower, but every run on a GPU gives the same result")
    callbacks: Any = setting(None, "additional Lightning callbacks: a list of {_target_: ...}")
    logger: Any = setting(None, "loggers in addition to tracking: a list of {_target_: ...}")


@dataclass
class Tracking:
    kind: str = setting(MISSING, TRACKING, choices=("wandb", "csv", "none"))


@dataclass
class WandB(Tracking):
    project: str = setting("anomalib_lite", "project in Weights & Biases")
    group: str | None = setting(II("oc.select:experiment_name,null"), "group of the run in Weights & Biases")
    mode: str | None = setting(None, "null: online if an API key is set", choices=("online", "offline"))
    artifacts: bool = setting(True, "upload model and report, too; false: only metrics, curves and images")


@dataclass
class Regions:
    """How regions of a map are found; sizes are shares of the picture, so they hold at every resolution."""

    core: float = setting(0.5, "a region ends at this share of its peak height above OK levels", least=0, below=1)
    zone: float = setting(0.3, "same share for the larger zone in which the outline is searched", least=0, below=1)
    min_area: float = setting(0.0002, "smallest area of a region, as a share of the picture", least=0, below=1)
    merge: float = setting(0.02, "pieces nearer than this share of the shorter side are one defect", least=0)


@dataclass
class Extent:
    share: float = setting(0.4, "a pixel is part of the defect above this share of the largest change", least=0, most=1)
    close: float = setting(0.012, "width of gaps to close, as a share of the shorter side", least=0)
    close_text: float = setting(0.035, "the same within text, where letters have gaps", least=0)


@dataclass
class DefectLayout:
    foreground: str = setting("otsu", "how the product is found: otsu | grabcut | none | a mask image")
    edge_width: float = setting(0.012, "width of edge areas on each side of a contour / shorter side", least=0)
    text: Any = setting("auto", f"where text is: auto (OCR of the good product) | none | a {DRAWN}")
    text_margin: float = setting(0.016, "margin around text, as a share of the shorter side", least=0)
    areas: dict[str, Any] = setting({}, f"your own areas, NAME: a {DRAWN}")


@dataclass
class Evidence:
    """Points for a measure, rising linearly from none at `zero` to all at `full`."""

    zero: float = MISSING
    full: float = MISSING
    points: float = MISSING


@dataclass
class DefectType:
    title: str | None = None
    colour: str = "#6f7680"
    areas: dict[str, float] = setting({}, "AREA: points, times the share of the defect in that area")
    evidence: dict[str, Evidence] = setting({}, "MEASURE: points, rising from none at zero to all at full")


@dataclass
class Term:
    """One term m / (m + half) of the severity, where m is the measure."""

    half: float = setting(MISSING, "value of the measure at which the term is 0.5", above=0)
    weight: float = setting(MISSING, "weight in the mean", above=0)


@dataclass
class Severity:
    measures: dict[str, Term] = setting({}, "terms: the severity is their weighted mean of m / (m + half)")
    by_type: dict[str, dict[str, Term]] = setting({}, "TYPE: terms that replace `measures` for this type")
    major_from: float = setting(0.35, "smallest severity of a major defect", above=0, most=1)
    critical_from: float = setting(0.55, "smallest severity of a critical defect", above=0, most=1)
    reject: dict[str, int | None] = setting(REJECT, "number of defects of a grade or worse that reject; null: never")


@dataclass
class Defects:
    regions: Regions = field(default_factory=Regions)
    extent: Extent = field(default_factory=Extent)
    layout: DefectLayout = field(default_factory=DefectLayout)
    alignment: str = choice("how the good product is aligned with each picture", *MOTIONS)
    scale_mm_per_px: float | None = setting(None, "mm per px of the image files, for sizes in mm and mm2", above=0)
    types: dict[str, DefectType] = setting({}, "NAME: rule; a defect has the type with the most points")
    severity: Severity = field(default_factory=Severity)
    names: dict[str, str] = setting({}, "the data set's defect name: type, for the confusion matrix")
