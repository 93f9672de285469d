"""What takes part in a training: modes, augmentation, teachers, generators, the trainer, tracking, defects."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import II, MISSING

from anomalib_lite.settings.fields import pixels, setting

HISTAUGAN, SINGAN = "anomalib_lite.generators.histaugan", "anomalib_lite.generators.singan"


@dataclass
class Mode:
    name: str = setting("no_template", "whether the golden image takes part", choices=("no_template", "template"))
    colours: str | None = setting(
        None, "how a template's are first matched to the OK images'", choices=("histogram", "reinhard", "none")
    )
    weights: dict[str, float] = setting({"real": 9, "generated": 1}, "in the loss, by origin; only ratios count")
    generated: float | None = setting(None, "weight of any generated image against 1 for a real one, instead", least=0)

    @property
    def with_template(self) -> bool:
        return self.name == "template"


@dataclass
class Augment:
    _target_: str = "anomalib_lite.augment.transforms.Augment"
    _convert_: str = "all"
    transforms: Any = setting([], "kornia's, in this order, each with its arguments; geometry moves mask and template")
    restyle: float = setting(0.0, "probability of another colour and light by generator=histaugan", least=0, most=1)
    weight: float = setting(1.0, "factor of a changed image's weight in the loss", least=0)
    seed: int = setting(II("seed"), "with the training step it decides every change", least=0)


@dataclass
class Task:
    _target_: str = "anomalib_lite.backbones.finetuning.CutPaste"


@dataclass
class Teacher:
    """A fine-tuned one."""

    _target_: str = "anomalib_lite.backbones.finetuning.Settings"
    task: Any = setting(Task, "what the backbone learns")
    epochs: int = setting(5, "of the fine-tuning", least=0)
    head_epochs: int = setting(0, "at the beginning, in which the head learns alone", least=0)
    batch_size: int = setting(16, "images", least=1)
    batches: int | None = setting(16, "in an epoch, at most, of other images each time; null: all", least=1)
    optimizer: Any = setting(MISSING, "of torch")
    scheduler: Any = setting(None, "of the learning rate; null: constant")
    hidden: list[int] = setting([512, 128], "widths of the head's hidden layers", least=1)
    dropout: float = setting(0.0, "share", least=0, below=1)
    unfreeze: int | None = setting(None, "n: the last n blocks of the backbone learn; null: all", least=0)
    held_out: float = setting(0.15, "of the images, to measure the accuracy on", above=0, below=1)
    seed: int = setting(0, "the teacher's own: a multirun over seed shares one teacher", least=0)
    nok: Any = setting(None, "NOK images that take part: files, folders or patterns below data.root; no test images")
    nok_weight: float = setting(10, "of them", least=0)


@dataclass
class StructureGuard:
    enabled: bool = setting(True, "whether images whose structure is damaged are dropped")
    quantile: float = setting(0.01, "share of undamaged images that may be lost: higher is stricter", above=0, below=1)


@dataclass
class NoGenerator:
    """What is drawn from any generator."""

    _target_: str = "anomalib_lite.engine.build.nothing"
    count: int | None = setting(None, "images; null: as many as there are OK training images", least=1)
    seed: int = setting(0, "the generator's own: a multirun over seed shares one trained generator", least=0)
    structure_guard: StructureGuard = field(default_factory=StructureGuard)


@dataclass
class Generator(NoGenerator):
    _target_: str = MISSING
    accelerator: str = setting(II("trainer.accelerator"), "the trainer's")
    precision: str = setting(II("trainer.precision"), "the trainer's")


@dataclass
class Architecture:
    _target_: str = f"{HISTAUGAN}.Architecture"
    channels: int = setting(8, "of the first layer; the content has four times as many", least=1)
    attributes: int = setting(4, "numbers that say colour and light; too many are filled with texture", least=1)
    content_blocks: int = setting(4, "residual blocks of the content's encoder", least=0)
    decoder_blocks: int = setting(3, "residual blocks of the decoder", least=0)
    discriminator_channels: int = setting(16, "of the first layer", least=1)
    discriminator_layers: int = setting(4, "halvings: fewer judge smaller patches", least=1)
    attribute_init: float | None = setting(None, "std of the attribute encoder's first weights; null: He's", above=0)


@dataclass
class LossWeights:
    """The official ones, but for latent_regression, which is 10 there (preset=paper)."""

    _target_: str = f"{HISTAUGAN}.LossWeights"
    adversarial: float = setting(1.0, "weight", least=0)
    domain_discriminator: float = setting(1.0, "weight", least=0)
    domain_generator: float = setting(5.0, "weight", least=0)
    content_confusion: float = setting(1.0, "weight", least=0)
    self_reconstruction: float = setting(10.0, "weight", least=0)
    cross_cycle: float = setting(10.0, "weight", least=0)
    content_l2: float = setting(0.01, "weight", least=0)
    attribute_kl: float = setting(0.01, "weight", least=0)
    latent_regression: float = setting(1.0, "weight; more forces colours that no product has", least=0)


@dataclass
class GANSchedule:
    _target_: str = f"{HISTAUGAN}.Schedule"
    epochs: int = setting(25, "of the training", least=1)
    decay_epoch: int = setting(20, "the rates fall to a tenth every so many epochs", least=1)
    batch: int = setting(2, "images", least=1)
    learning_rate: float = setting(1e-3, "Adam's", above=0)
    discriminator_rate: float = setting(0.5, "the image discriminators' rate, as a factor", above=0)
    content_rate: float = setting(0.04, "the content discriminator's, as a factor", above=0)
    weight_decay: float = setting(1e-4, "Adam's", least=0)
    checkpoint_every: int = setting(1, "epochs", least=1)


def finetuning_schedule() -> GANSchedule:
    """Rates of the discriminators as the official code has them."""
    return GANSchedule(epochs=10, decay_epoch=10, learning_rate=1e-4, discriminator_rate=1.0, content_rate=0.4)


@dataclass
class HistAuGAN(Generator):
    _target_: str = f"{HISTAUGAN}.HistAuGAN"
    size: Any = setting(128, "px of the images; one number, or [height, width]", rule=pixels)
    crop: Any = setting(96, "px of what a training step sees, a multiple of 4")
    architecture: Any = setting(Architecture, "of the networks")
    losses: Any = setting(LossWeights, "of the training")
    schedule: Any = setting(GANSchedule, "of the training")
    flip: bool = setting(True, "half of the crops are mirrored, left to right")
    template_probability: float = setting(0.1, "that a training step draws the template", least=0, below=1)
    template_share: float = setting(0.5, "of the samples that get the template's domain", least=0, most=1)
    sampling: str = setting(
        "statistics", "of attributes: the domain's mean and spread, N(0, I), or those of one of its images",
        choices=("statistics", "random", "encoded"),
    )  # fmt: skip
    finetune: str | None = setting(
        None, "on crops of the template, after a training on OK images alone", choices=("standard", "blockwise")
    )
    finetuning: Any = setting(finetuning_schedule, "of the fine-tuning")
    start_from: str | None = setting(None, "folder of a finished GAN of one domain to fine-tune; null trains one")


@dataclass
class Shape:
    _target_: str = f"{SINGAN}.Shape"
    max_size: int = setting(128, "px, the long side at the finest scale", least=8)
    min_size: int = setting(25, "px, the short side at the coarsest scale", least=8)
    factor: float = setting(0.75, "from scale to scale; raised so that the scales land exactly", above=0, below=1)
    width: int = setting(16, "channels at the four coarsest scales, doubled every fourth scale", least=1)
    max_width: int = setting(16, "channels, at most", least=1)
    noise: float = setting(0.1, "of the finer scales, as a share of what the scales below leave open", least=0)


@dataclass
class ScaleSchedule:
    _target_: str = f"{SINGAN}.Schedule"
    iterations: int = setting(400, "at each scale, each of so many steps:", least=1)
    critic_steps: int = setting(1, "of the critic", least=1)
    generator_steps: int = setting(1, "of the generator", least=1)
    learning_rate: float = setting(5e-4, "Adam's", above=0)
    beta1: float = setting(0.5, "Adam's", least=0, below=1)
    decay_at: float = setting(0.8, "share of the iterations after which the learning rate is a tenth", above=0, most=1)
    penalty: float = setting(0.1, "weight of the gradient penalty", least=0)
    reconstruction: float = setting(10.0, "weight of the reconstruction", least=0)


@dataclass
class SinGAN(Generator):
    _target_: str = f"{SINGAN}.SinGAN"
    images: int = setting(1, "OK images that get a pyramid of their own, spread over the set", least=1)
    start_scale: int = setting(3, "samples are new from this scale on; 0: all is new", least=0)
    stretch: list[float] = setting([1.0, 1.0], "height and width of the samples relative to the image", above=0)
    shape: Any = setting(Shape, "of the pyramid")
    schedule: Any = setting(ScaleSchedule, "of the training")


@dataclass
class Trainer:
    """The arguments of Lightning's Trainer that are set most; any other works as +trainer.NAME=VALUE."""

    _target_: str = "lightning.Trainer"
    _partial_: bool = True
    accelerator: str = setting("cpu", "cpu | gpu | cuda | mps | auto")
    devices: Any = setting(1, "how many, or which")
    strategy: Any = setting("auto", "of several devices")
    precision: Any = setting("32-true", "32-true | bf16-mixed | 16-mixed")
    gradient_clip_val: float | None = setting(None, "of the gradient's norm, at most", least=0)
    accumulate_grad_batches: int = setting(1, "batches", least=1)
    sync_batchnorm: bool = setting(False, "batch statistics of all devices")
    deterministic: Any = setting(None, "true: slower, and the same on every start on a GPU")
    callbacks: Any = setting(None, "more of them: a list of {_target_: ...}")
    logger: Any = setting(None, "more of them, beside what tracking asks for: a list of {_target_: ...}")


@dataclass
class Tracking:
    kind: str = setting(
        MISSING, "wandb: Weights & Biases, too; csv: files in the run folder; none: no page either",
        choices=("wandb", "csv", "none"),
    )  # fmt: skip


@dataclass
class WandB(Tracking):
    project: str = setting("anomalib_lite", "its name there")
    group: str | None = setting(II("oc.select:experiment_name,null"), "of the run there")
    mode: str | None = setting(None, "null: online where a key is set", choices=("online", "offline"))
    artifacts: bool = setting(True, "the model and the report, too; false: numbers, curves and images alone")


DRAWN = "mask image, or boxes [[x, y, width, height], ...] in shares"


@dataclass
class Regions:
    """As shares, so that they hold at every resolution."""

    core: float = setting(0.5, "of a peak above the usual level of OK images' maps: its bounds", least=0, below=1)
    zone: float = setting(0.3, "the same, of the surroundings searched for the defect's own outline", least=0, below=1)
    min_area: float = setting(0.0002, "of the picture", least=0, below=1)
    merge: float = setting(0.02, "of the shorter side: pieces this near are one defect", least=0)


@dataclass
class Extent:
    share: float = setting(0.4, "of the strongest change, above which a pixel belongs to the defect", least=0, most=1)
    close: float = setting(0.012, "of the shorter side: gaps that are closed", least=0)
    close_text: float = setting(0.035, "the same in text, whose letters stand apart", least=0)


@dataclass
class DefectLayout:
    foreground: str = setting("otsu", "otsu | grabcut | none | a mask image")
    edge_width: float = setting(0.012, "of the shorter side, to each side of the contour", least=0)
    text: Any = setting("auto", f"auto (what can be read on the good product) | none | a {DRAWN}")
    text_margin: float = setting(0.016, "of the shorter side", least=0)
    areas: dict[str, Any] = setting({}, f"more areas by a name of yours: a {DRAWN}")


@dataclass
class Evidence:
    """Points for a measure: none at `zero`, all at `full`."""

    zero: float = MISSING
    full: float = MISSING
    points: float = MISSING


@dataclass
class DefectType:
    title: str | None = None
    colour: str = "#6f7680"
    areas: dict[str, float] = setting({}, "points for the share of a defect that lies there")
    evidence: dict[str, Evidence] = setting({}, "points for measures: none at zero, all at full")


@dataclass
class Term:
    """m / (m + half), with its weight."""

    half: float = setting(MISSING, "measure that counts half", above=0)
    weight: float = setting(MISSING, "in the mean", above=0)


@dataclass
class Severity:
    measures: dict[str, Term] = setting({}, "severity = weighted mean of m / (m + half)")
    by_type: dict[str, dict[str, Term]] = setting({}, "the same for single types")
    major_from: float = setting(0.35, "severity", above=0, most=1)
    critical_from: float = setting(0.55, "severity", above=0, most=1)
    reject: dict[str, int | None] = setting(
        {"minor": 1, "major": 1, "critical": 1}, "so many of a grade, or worse, reject a product; null: none do"
    )


@dataclass
class Defects:
    regions: Regions = field(default_factory=Regions)
    extent: Extent = field(default_factory=Extent)
    layout: DefectLayout = field(default_factory=DefectLayout)
    alignment: str = setting(
        "affine", "of the good product with each picture", choices=("none", "translation", "euclidean", "affine")
    )
    scale_mm_per_px: float | None = setting(None, "of the photographs on disk; gives mm and mm2", above=0)
    types: dict[str, DefectType] = setting({}, "by name; the one with most points wins")
    severity: Severity = field(default_factory=Severity)
    names: dict[str, str] = setting({}, "a data set's own defect names -> types, for the confusion matrix")
