"""What each verb takes beside its groups. A group's field holds what conf/<group>/ chose."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from anomalib_lite.settings.fields import pixels, pixels_or_native, setting


@dataclass
class Paths:
    runs: str = setting("runs", "folder that run folders are written to; ~ is the home folder, here as in all values")
    artifacts: str = setting("artifacts", "folder of what several runs share: rendered data, generators, teachers")


@dataclass
class Verb:
    """What all verbs share."""

    paths: Paths = field(default_factory=Paths)


@dataclass
class Fitting(Verb):
    """What all that learn from images share."""

    data: Any = None
    backbone: Any = None
    trainer: Any = None
    seed: int = setting(0, "of everything that is drawn at random", least=0, below=2**32)
    image_size: Any = setting(256, "px; one number, or [height, width]", rule=pixels)
    threads: int | None = setting(None, "of the CPU; null: as many as the machine has cores", least=1)


@dataclass
class Detecting(Fitting):
    """What all that fit a detector share."""

    detector: Any = None
    augment: Any = None
    tta: Any = None
    tiling: Any = None
    scoring: Any = None
    resize: str = setting(
        "stretch", "to image_size; letterbox keeps the aspect, none refuses other sizes",
        choices=("stretch", "letterbox", "none"),
    )  # fmt: skip
    batch_size: int = setting(16, "images", least=1)
    ram_limit_mb: float = setting(4000, "MB; image sets that fit are decoded once and kept", least=0)


@dataclass
class Trained(Verb):
    """What all that take a finished run share."""

    run: Any = setting(MISSING, "folder of a finished training")
    trust: Any = setting(
        [], "packages of your own whose code the run may name, e.g. [mine, ours]; pt2: torch's files may be read"
    )


@dataclass
class Judging(Trained):
    """What all that judge images by it share."""

    threshold: float | None = setting(None, "score above which an image is NOK; null: the run's own")
    false_alarm_rate: float | None = setting(
        None, "take the threshold that promises this rate instead of the run's own", above=0, below=1
    )
    category: str | None = setting(
        None, "whose threshold judges, in a run of several categories; null: the data's, or that of all"
    )


@dataclass
class Train(Detecting):
    mode: Any = None
    generator: Any = None
    teacher: Any = None
    defects: Any = None
    tracking: Any = None
    image_size: Any = setting(
        256, "px; one number, [height, width], or native: as the first image is, and all must be", rule=pixels_or_native
    )
    experiment_name: str = setting("default", "groups runs: folder below runs/, group in Weights & Biases")
    keep: str = setting(
        "last", "the epoch that is kept; best: of the lowest loss on held-out OK images", choices=("last", "best")
    )
    validate: bool = setting(
        False, "true: half of the held-out images judge the run by pasted defects, the others set the threshold"
    )
    roi: str | None = setting(None, "image file, of the photographs' shape: white is inspected, all else is not")
    ignore: str | None = setting(None, "likewise: white is not inspected")
    start_from: str | None = setting(
        None, "folder of a finished run, to which data=... adds images; its other settings hold, nothing is trained"
    )
    missed: Any = setting(
        None, "NOK photographs that were passed: the threshold is lowered until it finds them; files, folders, patterns"
    )
    contamination: float = setting(
        0.0, "share of OK images that may be NOK: that many, the least like the rest, are left out", least=0, most=0.5
    )
    trust: Any = setting([], "packages of your own whose code the run of start_from may name")
    force: bool = setting(False, "true: run again although the run folder says it is done")


@dataclass
class Review(Detecting):
    contamination: float = setting(0.1, "share that is left out when all are judged a second time", least=0, most=0.5)
    worst: int = setting(30, "images that are shown", least=1)
    output: str = setting("review", "folder to write to")


@dataclass
class Generate(Fitting):
    mode: Any = None
    generator: Any = None
    tracking: Any = None
    output: str = setting("generated", "folder in which each configuration gets one of its own")
    experiment_name: str = setting("default", "group in Weights & Biases")
    force: bool = setting(False, "true: train and draw again although it has been done")


@dataclass
class Evaluate(Judging):
    data: Any = None
    run: Any = setting(MISSING, "folder of a finished training; a list, a glob or a folder of runs: all of them")
    sets: Any = setting(
        None, "several data sets by a name of yours: {NAME: {data: mtd, root: DIR}}; null is each run's own data"
    )
    output: str | None = setting(None, "folder to write to; null: <run>/evaluation-<name>")
    report: bool = setting(True, "figures/ and report.html, too; false: the numbers alone")


@dataclass
class Answering(Judging):
    """Of images that nobody has labelled."""

    template: str | None = setting(
        None, "image file of the golden product, for detectors that compare with it; null: the run's own"
    )
    roi: str | None = setting(None, "image file: white is inspected, of what the training inspected")
    ignore: str | None = setting(None, "likewise: white is not inspected")


@dataclass
class Predict(Answering):
    run: str = setting(MISSING, "folder of a finished training, or what `export` wrote")
    images: Any = setting(MISSING, "a file, a folder or a glob pattern, or a list of them")
    output: str = setting("predictions", "folder to write to")
    overlays: bool = setting(
        True, "overlays/*.png: heat map, on one scale tied to the threshold; defects/*.png: outlines by type"
    )
    maps: bool = setting(True, "maps/*.tiff: the anomaly map, 32-bit float, at the detector's resolution")
    json: bool = setting(False, "true, or --json: a line of JSON an image on stdout, and nothing else there")
    watch: bool = setting(False, "true: images are folders, and what comes into them is judged until Ctrl-C or SIGTERM")
    settle: float = setting(2.0, "s that a file of a watched folder must stay unchanged before it is read", least=0)


@dataclass
class Export(Trained):
    format: str = setting("onnx", "of the file", choices=("onnx", "openvino", "torch"))
    precision: str = setting(
        "fp32", "fp16: weights of half the size; int8: convolutions in 8 bits, statistics and threshold fitted anew",
        choices=("fp32", "fp16", "int8"),
    )  # fmt: skip
    batch: int | None = setting(None, "images that are judged at once; null: any number, of openvino one", least=1)
    output: str | None = setting(None, "folder to write to; null: <run>/export-<format>-<precision>")
    limit: int = setting(200, "held-out OK and test images that the file is held against, at most", least=1)
    tolerance: float | None = setting(
        None, "largest difference of maps and scores, over their range; null: 1e-4 for fp32, 0.02 fp16, 1 int8", above=0
    )


@dataclass
class Serve(Answering):
    host: str = setting("127.0.0.1", "address to listen at; with another than this machine's own a token is needed")
    port: int = setting(8766, "0: any free one", least=0, most=65535)
    queue: int = setting(64, "requests under way at once; one more is told to come again", least=1)
    max_mb: float = setting(32, "MiB of an upload", above=0)
    max_megapixels: float = setting(64, "million pixels of an image", above=0)


@dataclass
class Submit(Verb):
    runs: Any = setting(MISSING, "finished runs, one an object: folders, globs, or a folder of runs")
    root: str = setting(MISSING, "the folder of MVTec AD 2 that holds the objects")
    output: str = setting("submission", "folder to write to")
    trust: Any = setting([], "packages of your own whose code a run may name")


@dataclass
class Segment(Verb):
    panels: Any = None
    images: Any = setting(MISSING, "photographs of panels: a file, a folder or a glob pattern, or a list of them")
    template: str = setting(MISSING, "one good product: an image file, or one of the panels together with template_box")
    template_box: list[int] | None = setting(
        None, "[x, y, width, height] in the template's picture, px; null takes all of it", least=0
    )
    output: str = setting("segmented", "folder to write crops/, overview/ and manifest.csv to")
    workers: int | None = setting(None, "panels at a time; null: one a core", least=1)
    force: bool = setting(False, "true: write over an earlier manifest and its crops")


@dataclass
class Annotate(Verb):
    crops: str = setting(
        "segmented/manifest.csv", "segment's manifest, or a folder of crops; labels.csv and masks/ are written there"
    )
    template: str | None = setting(None, "the perfect product's picture, to compare with; null: the last OK crop")
    types: list[str] = setting(
        [
            "print_blurred", "print_smeared", "print_missing", "structure_broken", "structure_bent",
            "structure_missing", "structure_extra", "scratch", "stain",
        ],
        "names of defect types, for the keys 1 to 9",
    )  # fmt: skip
    scores: str | None = setting(None, "a run folder or its predictions.csv: suggestions, and the order by anomaly")
    host: str = setting("127.0.0.1", "address that the page is served at")
    port: int = setting(8765, "0: any free one", least=0, most=65535)
    allow_remote: bool = setting(False, "true: a host that other machines can reach is accepted")
    open_browser: bool = setting(True, "true: the page opens by itself")


@dataclass
class Demo(Verb):
    output: str = setting("demo", "folder to make")
    n_panels: int = setting(52, "photographs", least=1)
    seed: int = setting(7, "of the photographs", least=0)
    sheet: Any = None
    workers: int | None = setting(None, "panels at a time; null: one a core", least=1)
    force: bool = setting(False, "true: delete an earlier demo with all that is in its folder, and make it anew")


@dataclass
class Sweep(Verb):
    file: str = setting(MISSING, "the sweep file, e.g. experiments/sweeps/grid.yaml")
    trials: int | None = setting(
        None, "how many in all, those of earlier starts included; null: the file's run_cap, or all of a grid", least=1
    )
    parallel: int = setting(1, "trials at once", least=1)
    seed: int = setting(0, "of what is drawn; the trainings have their own", least=0)
    train: list[str] = setting([], "overrides of every trial: what stands behind -- on the command line")
    dry: bool = setting(False, "true: check the file, list the trials, and run nothing")


@dataclass
class Weights(Verb):
    name: str | None = setting(None, "a backbone of conf/backbone, or any name of timm; null: list the backbones")


@dataclass
class Compare(Verb):
    runs: Any = setting(MISSING, "run folders, folders that hold them, globs, folders of runs/multirun; one or a list")
    output: str | None = setting(None, "folder to write to; null: comparison, in the folder that holds all of them")
    metrics: list[str] | None = setting(None, "names of columns of runs.csv; null: [image_auroc, pixel_auroc, aupro]")
    factors: list[str] | None = setting(
        None, "groups or settings to compare; null: all that differ, apart from seeds, data, paths and tracking"
    )
    reference: str | None = setting(
        None, "a setting that all others are held against, e.g. 'augment=none tta=none'; null: all pairs"
    )
    margin: float = setting(
        0.01, "of image AUROC: a difference of two runs that surely lies within it is practically none", above=0
    )
    resamples: int = setting(5000, "of the bootstrap", least=100)
