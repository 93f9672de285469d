"""Options of the data readers, the rendered product and the segmentation of panels."""

from dataclasses import dataclass, make_dataclass
from typing import Any

from omegaconf import II, MISSING

from anomalib_lite.errors import UserError
from anomalib_lite.settings.fields import MOTIONS, choice, setting

LAYOUTS = "anomalib_lite.data.layouts"
CATEGORIES = "folder that contains the categories"
CATEGORY = "one category, or a list that is read as one data set"


@dataclass
class Images:
    """Options of every reader."""

    _target_: str = MISSING
    root: str = setting(MISSING, "folder of the data set")
    template: str | None = setting(None, "image file of one golden (defect-free) product")
    shots: int | None = setting(None, "few-shot: number of OK training images; null: all not held out", least=1)
    shots_seed: int = setting(II("oc.select:seed,0"), "seed that selects the shots", least=0)
    bits: int | None = setting(None, "bit depth of 16-bit images; null: detected from the OK images", least=8, most=16)


@dataclass
class Reader(Images):
    """Options of readers that split off the held-out images."""

    val_share: float = setting(0.2, "share of OK training images held out to set the threshold", above=0, below=1)
    split_seed: int = setting(0, "seed that selects the held-out images", least=0)


def _public(name: str, reader: str, usual: str = "", root: str = CATEGORIES, base: type = Reader, **more: Any) -> type:
    """Makes the options of a public data set.

    usual: its category by default, if it has any. base: `Images` if it comes with held-out images.
    """
    options = {"_target_": f"{LAYOUTS}.{reader}", "root": setting(MISSING, root)}
    options |= {"category": setting(usual, CATEGORY)} if usual else {}
    fields: list[Any] = [(key, Any if key == "category" else str, value) for key, value in (options | more).items()]
    # named after this module, so that jobs on other machines find it when they unpickle their configuration
    return make_dataclass(name, fields, bases=(base,), namespace={"__module__": __name__})


TEST = setting("test_public", "test split; test_private and test_private_mixed have no labels")
SIZES = setting("realiad_1024", "folder of the images in root; its name tells their size")
WHOLE = setting("bottle", f"{CATEGORY}; null: root itself contains train/ and test/")
MVTecAD = _public("MVTecAD", "mvtec_ad", category=WHOLE)
MVTecAD2 = _public("MVTecAD2", "mvtec_ad_2", "can", base=Images, test=TEST)
MVTecLOCO = _public("MVTecLOCO", "mvtec_loco", "breakfast_box", base=Images)
BTAD = _public("BTAD", "btad", "01")
MPDD = _public("MPDD", "mpdd", "bracket_black")
VisA = _public("VisA", "visa", "candle", "folder that contains split_csv/ and the categories")
REAL_IAD = "folder that contains realiad_jsons/ and the folder of images"
RealIAD = _public("RealIAD", "real_iad", "audiojack", REAL_IAD, images=SIZES)
MTD = _public("MTD", "mtd", root="folder that contains train/good, test/ and ground_truth/")
KSDD = _public("KSDD", "ksdd", root="folder that contains kos01/, kos02/, ...")
KSDD2 = _public("KSDD2", "ksdd2", root="folder that contains train/ and test/")


@dataclass
class Folder(Reader):
    _target_: str = "anomalib_lite.data.folder.read"
    root: str = setting(".", "folder that the paths below are relative to")
    ok: Any = setting(None, "OK images: a folder and its subfolders, a file, or a pattern like 'line1/**/ok/*.png'")
    nok: Any = setting(None, "NOK images, for testing only; the name of an image's folder is its defect type")
    mask: Any = setting(None, "masks of NOK images, matched by file name: STEM or STEM_mask")
    test_ok: Any = setting(None, "OK images for testing only; null: test_ok_share of the OK images")
    manifest: str | None = setting(None, "CSV file with columns crop, label, defect, mask, instead of the patterns")
    test_ok_share: float = setting(0.2, "share of the OK images used for testing only", least=0, below=1)


@dataclass
class DeepPCB(Reader):
    _target_: str = "anomalib_lite.data.deeppcb.read"
    root: str = setting(MISSING, "folder that contains trainval.txt and test.txt")
    artifacts: str = setting(II("paths.artifacts"), "folder for simulated OK pairs and for masks made from the boxes")
    test_list: str = choice("list of pairs to measure on; use trainval to choose settings", "test", "trainval")
    val_share: float = setting(0.5, "share of simulated OK pairs held out to set the threshold", above=0, below=1)


@dataclass
class PanelsConfig:
    """How the built-in product is rendered; the folder's name is a hash of these values."""

    size: int = setting(256, "side of a crop in px", least=32)
    seed: int = setting(0, "seed of the rendering", least=0)
    n_train: int = setting(200, "number of OK training images, including held-out ones", least=3)
    n_test_good: int = setting(60, "number of OK test images", least=0)
    n_per_defect: int = setting(12, "number of test images with each defect", least=0)
    severity: list[float] = setting([0.1, 0.9], "range that a defect's severity is drawn from", least=0, most=1)
    jitter: float = setting(1.0, "factor on the random shift, rotation and perspective of products", least=0)
    defects: list[str] | None = setting(None, "names of the defects to render; null: all ten")


@dataclass
class Panels(PanelsConfig, Reader):
    _target_: str = "anomalib_lite.data.panels.read"
    root: str = setting(II("paths.artifacts"), "folder in which the images are rendered on first use")
    template: str | None = setting("rendered", "rendered: a picture of the perfect product; an image file; or null")


@dataclass
class SegmentOptions:
    """How products are found in photographs of panels (conf/panels)."""

    max_objects: int = setting(8, "largest number of products in one panel", least=1)
    min_score: float = setting(0.4, "smallest correlation with the template after alignment", above=0, below=1)
    max_angle: float = setting(4.0, "largest rotation of a product in degrees, either way", least=0, most=180)
    angle_step: float = setting(2.0, "step between the angles that are searched, in degrees", above=0)
    min_scale: float = setting(1.0, "smallest size of a product relative to the template", above=0)
    max_scale: float = setting(1.0, "largest size of a product relative to the template", above=0)
    motion: str = choice("motion model of the final alignment", *MOTIONS)

    def __post_init__(self) -> None:
        if self.max_scale < self.min_scale:
            raise UserError(f"max_scale ({self.max_scale:g}) must be at least min_scale ({self.min_scale:g}).")


@dataclass
class SheetConfig:
    """Photographs of panels that the demo renders."""

    width: int = setting(1600, "width of a photograph in px", least=64)
    height: int = setting(1200, "height of a photograph in px", least=64)
    rows: int = setting(2, "rows of products in a panel", least=1)
    columns: int = setting(4, "columns of products in a panel", least=1)
    fill: float = setting(0.82, "side of a product as a share of its grid cell", above=0, most=1)
    shift: float = setting(0.04, "largest shift of a product from its position, in product sides", least=0)
    angle: float = setting(3.0, "largest rotation of a product in degrees", least=0)
    brightness: float = setting(0.2, "largest relative change of a panel's brightness", least=0, below=1)
    nok_share: float = setting(0.1, "share of products with a defect", least=0, most=1)
    perspective: float = setting(0.012, "largest relative size difference between near and far side", least=0)

    @property
    def product_size(self) -> int:
        """Side of a product in px."""
        return int(self.fill * min(self.width / self.columns, self.height / self.rows))

    def __post_init__(self) -> None:
        if self.product_size < 32:
            raise UserError(f"Products of a panel need at least 32 px, but have {self.product_size}.")
