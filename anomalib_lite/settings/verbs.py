"""Options of each verb. Fields of type Any without help hold the chosen option of the group conf/<field>/."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from anomalib_lite.settings.fields import choice, pixels, pixels_or_native, setting

SIZE = "size of the model's input in px; one number, or [height, width]"
RESIZE = "how images get image_size; letterbox: keep the aspect ratio; none: accept no other size"
OWN = "null: the run's threshold"
PRECISION = "fp16: half-precision weights; int8: 8-bit convolutions, with refitted statistics and threshold"
TOLERANCE = "null: 1e-4 for fp32, 0.02 for fp16, 1 for int8"
TYPES = [
    "print_blurred", "print_smeared", "print_missing", "structure_broken", "structure_bent", "structure_missing",
    "structure_extra", "scratch", "stain",
]  # fmt: skip


@dataclass
class Paths:
    runs: str = setting("runs", "folder for the run folders; ~ is your home folder, as in all values")
    artifacts: str = setting("artifacts", "folder for results that runs share: rendered data, generators, teachers")


@dataclass
class Verb:
    """Options of all verbs."""

    paths: Paths = field(default_factory=Paths)


@dataclass
class Fitting(Verb):
    """Options of verbs that train on images."""

    data: Any = None
    backbone: Any = None
    trainer: Any = None
    seed: int = setting(0, "seed of all random draws", least=0, below=2**32)
    image_size: Any = setting(256, SIZE, rule=pixels)
    threads: int | None = setting(None, "number of CPU threads; null: one per core", least=1)


@dataclass
class Detecting(Fitting):
    """Options of verbs that fit a detector."""

    detector: Any = None
    augment: Any = None
    tta: Any = None
    tiling: Any = None
    scoring: Any = None
    resize: str = choice(RESIZE, "stretch", "letterbox", "none")
    batch_size: int = setting(16, "images per batch", least=1)
    ram_limit_mb: float = setting(4000, "image sets up to this size in MB are decoded once and kept in memory", least=0)


@dataclass
class Trained(Verb):
    """Options of verbs that use a finished run."""

    run: Any = setting(MISSING, "folder of a finished training")
    trust: Any = setting([], "your packages whose code the run may load, as [mine, ours]; pt2 allows torch files")


@dataclass
class Judging(Trained):
    """Options of verbs that judge images with a run."""

    threshold: float | None = setting(None, f"score above which an image is NOK; {OWN}")
    false_alarm_rate: float | None = setting(None, f"flagged share of OK images to allow; {OWN}", above=0, below=1)
    category: str | None = setting(None, "category whose threshold is used; null: the data's, or the threshold for all")


@dataclass
class Train(Detecting):
    mode: Any = None
    generator: Any = None
    teacher: Any = None
    defects: Any = None
    tracking: Any = None
    image_size: Any = setting(256, f"{SIZE}; native: that of the images, which must agree", rule=pixels_or_native)
    experiment_name: str = setting("default", "name of a group of runs: folder below runs/, group in W&B")
    keep: str = choice("epoch to keep; best: with the lowest loss on held-out OK images", "last", "best")
    validate: bool = setting(
        False, "validate on half of the held-out images with synthetic defects; the rest sets the threshold"
    )
    roi: str | None = setting(None, "mask image in the photographs' shape: only white pixels are inspected")
    ignore: str | None = setting(None, "mask image in the photographs' shape: white pixels are not inspected")
    start_from: str | None = setting(
        None, "folder of a finished run: add the images of data=... to it and calibrate it again, without training"
    )
    missed: Any = setting(None, "NOK images that a run missed, as paths or patterns: lowers the threshold to flag them")
    contamination: float = setting(
        0.0, "share of OK images that may be NOK: the images least like the others are left out", least=0, most=0.5
    )
    trust: Any = setting([], "your packages whose code the run of start_from may load")
    force: bool = setting(False, "repeat a finished run")


@dataclass
class Review(Detecting):
    contamination: float = setting(0.1, "share of largest scores left out of the second fit", least=0, most=0.5)
    worst: int = setting(30, "number of images shown in worst.png", least=1)
    output: str = setting("review", "output folder")


@dataclass
class Generate(Fitting):
    mode: Any = None
    generator: Any = None
    tracking: Any = None
    output: str = setting("generated", "output folder, with a subfolder for each configuration")
    experiment_name: str = setting("default", "group in Weights & Biases")
    force: bool = setting(False, "train and generate again, even if it was done before")


@dataclass
class Evaluate(Judging):
    data: Any = None
    run: Any = setting(MISSING, "folder of a finished training, or several: a list, a pattern, or a folder of runs")
    sets: Any = setting(None, "data sets by name: {NAME: {data: mtd, root: DIR}, own: null}; null: the run's data")
    output: str | None = setting(None, "output folder; null: <run>/evaluation-<name>[-<hash of data and threshold>]")
    report: bool = setting(True, "write figures/ and report.html, too")


@dataclass
class Answering(Judging):
    """Options of verbs that judge unlabelled images."""

    template: str | None = setting(None, "golden product's image, for detectors that use one; null: the run's template")
    roi: str | None = setting(None, "mask image: only white pixels are inspected, within the training's region")
    ignore: str | None = setting(None, "mask image: white pixels are not inspected")


@dataclass
class Predict(Answering):
    run: str = setting(MISSING, "folder of a finished training, or a file of `export`")
    images: Any = setting(MISSING, "a file, a folder or a glob pattern, or a list of them")
    output: str = setting("predictions", "output folder")
    overlays: bool = setting(True, "write overlays/*.png (heat maps, one scale) and defects/*.png (outlines by type)")
    maps: bool = setting(True, "write maps/*.tiff: anomaly maps as 32-bit float, at the detector's resolution")
    json: bool = setting(False, "print only one line of JSON per image to stdout; same as --json")
    watch: bool = setting(False, "watch the folders `images`, and judge new images until Ctrl-C or SIGTERM")
    settle: float = setting(2.0, "s that a file in a watched folder must stay unchanged before it is read", least=0)


@dataclass
class Export(Trained):
    format: str = choice("file format", "onnx", "openvino", "torch")
    precision: str = choice(PRECISION, "fp32", "fp16", "int8")
    category: str | None = setting(None, "category whose threshold the file holds; null: the threshold for all")
    batch: int | None = setting(None, "batch size of the file; null: any, for openvino 1", least=1)
    output: str | None = setting(None, "output folder; null: <run>/export-<format>-<precision>[-<category>]")
    limit: int = setting(200, "largest number of images on which file and run are compared", least=1)
    tolerance: float | None = setting(None, f"largest relative difference of maps and scores; {TOLERANCE}", above=0)


@dataclass
class Serve(Answering):
    host: str = setting("127.0.0.1", "address to listen on; other addresses than 127.0.0.1 need a token")
    port: int = setting(8766, "port to listen on; 0: any free port", least=0, most=65535)
    queue: int = setting(64, "largest number of concurrent requests; more are told to retry later (503)", least=1)
    max_mb: float = setting(32, "largest upload in MiB", above=0)
    max_megapixels: float = setting(64, "largest image in million pixels", above=0)


@dataclass
class Submit(Verb):
    runs: Any = setting(MISSING, "finished runs, one per object: folders, patterns, or a folder of runs")
    root: str = setting(MISSING, "folder of MVTec AD 2 that contains the objects")
    output: str = setting("submission", "output folder")
    trust: Any = setting([], "your packages whose code a run may load")


@dataclass
class Segment(Verb):
    panels: Any = None
    images: Any = setting(MISSING, "photographs of panels: a file, a folder or a glob pattern, or a list of them")
    template: str = setting(MISSING, "image of one good product, or of a panel together with template_box")
    template_box: list[int] | None = setting(None, "[x, y, width, height] of the product, px; null: the image", least=0)
    bits: int | None = setting(None, "bit depth of 16-bit photographs; null: detected from them", least=8, most=16)
    output: str = setting("segmented", "output folder for crops/, overview/ and manifest.csv")
    workers: int | None = setting(None, "number of panels processed in parallel; null: one per core", least=1)
    force: bool = setting(False, "replace earlier crops; their labels are kept under other names")


@dataclass
class Annotate(Verb):
    crops: str = setting("segmented/manifest.csv", "manifest of segment, or folder of crops; gets labels.csv, masks/")
    template: str | None = setting(None, "image of the perfect product, shown for comparison; null: the last OK crop")
    types: list[str] = setting(TYPES, "names of the defect types for the keys 1 to 9")
    scores: str | None = setting(None, "run folder or its predictions.csv, for suggestions and sorting by score")
    host: str = setting("127.0.0.1", "address that the page is served on")
    port: int = setting(8765, "port of the page; 0: any free port", least=0, most=65535)
    allow_remote: bool = setting(False, "allow a host that other machines can reach")
    open_browser: bool = setting(True, "open the page in the browser")


@dataclass
class Demo(Verb):
    output: str = setting("demo", "output folder")
    n_panels: int = setting(52, "number of photographs", least=1)
    seed: int = setting(7, "seed of the photographs", least=0)
    sheet: Any = None
    workers: int | None = setting(None, "number of panels processed in parallel; null: one per core", least=1)
    force: bool = setting(False, "delete an earlier demo with its whole folder, and render it again")


@dataclass
class Sweep(Verb):
    file: str = setting(MISSING, "sweep file, e.g. experiments/sweeps/grid.yaml")
    trials: int | None = setting(None, "trials in all, with earlier starts; null: run_cap, or the whole grid", least=1)
    parallel: int = setting(1, "number of trials that run in parallel", least=1)
    seed: int = setting(0, "seed for choosing the trials; the trainings have their own", least=0)
    train: list[str] = setting([], "overrides of every trial: the arguments after -- on the command line")
    dry: bool = setting(False, "check the file and list the trials, without running them")


@dataclass
class Weights(Verb):
    name: str | None = setting(None, "backbone of conf/backbone, or any name in timm; null: list the backbones")


@dataclass
class Compare(Verb):
    runs: Any = setting(MISSING, "run folders, folders of runs, patterns, or folders in runs/multirun; one or a list")
    output: str | None = setting(None, "output folder; null: comparison/ in the folder that contains all runs")
    metrics: list[str] | None = setting(None, "columns of runs.csv to compare; null: [image_auroc, pixel_auroc, aupro]")
    factors: list[str] | None = setting(
        None, "groups or settings to compare; null: all that differ, except seeds, data, paths and tracking"
    )
    reference: str | None = setting(None, "compares all with this one, e.g. 'augment=none tta=none'; null: all pairs")
    margin: float = setting(0.01, "runs whose image AUROCs surely differ by less count as equivalent", above=0)
    resamples: int = setting(5000, "number of bootstrap resamples", least=100)
