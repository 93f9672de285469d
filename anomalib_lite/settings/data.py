"""The readers, and how panels are segmented."""

from dataclasses import dataclass
from typing import Any

from omegaconf import II, MISSING

from anomalib_lite.errors import UserError
from anomalib_lite.settings.fields import setting

LAYOUTS = "anomalib_lite.data.layouts"
CATEGORIES = "the folder that holds the categories"
CATEGORY = "one, or a list read as one data set"


@dataclass
class Images:
    """What every reader takes."""

    _target_: str = MISSING
    root: str = setting(MISSING, "the folder")
    template: str | None = setting(None, "image file of one golden product")
    shots: int | None = setting(None, "learn from so few OK images; null: all that are not held out", least=1)
    shots_seed: int = setting(II("oc.select:seed,0"), "which ones", least=0)
    bits: int | None = setting(None, "that 16-bit images use; null: read from the OK images", least=8, most=16)


@dataclass
class Reader(Images):
    """What those take that hold images out themselves."""

    val_share: float = setting(0.2, "of the OK training images, held out for the threshold", above=0, below=1)
    split_seed: int = setting(0, "which ones", least=0)


@dataclass
class Categories(Reader):
    root: str = setting(MISSING, CATEGORIES)
    category: Any = setting(MISSING, CATEGORY)


@dataclass
class MVTecAD(Categories):
    _target_: str = f"{LAYOUTS}.mvtec_ad"
    category: Any = setting("bottle", f"{CATEGORY}; null: root itself holds train and test")


@dataclass
class BTAD(Categories):
    _target_: str = f"{LAYOUTS}.btad"
    category: Any = setting("01", CATEGORY)


@dataclass
class MPDD(Categories):
    _target_: str = f"{LAYOUTS}.mpdd"
    category: Any = setting("bracket_black", CATEGORY)


@dataclass
class VisA(Categories):
    _target_: str = f"{LAYOUTS}.visa"
    root: str = setting(MISSING, "the folder that holds split_csv/ and the categories")
    category: Any = setting("candle", CATEGORY)


@dataclass
class RealIAD(Categories):
    _target_: str = f"{LAYOUTS}.real_iad"
    root: str = setting(MISSING, "the folder that holds realiad_jsons/ and the images")
    category: Any = setting("audiojack", CATEGORY)
    images: str = setting("realiad_1024", "folder of the images, by their size")


@dataclass
class MTD(Reader):
    _target_: str = f"{LAYOUTS}.mtd"
    root: str = setting(MISSING, "the folder that holds train/good, test/ and ground_truth/")


@dataclass
class KSDD(Reader):
    _target_: str = f"{LAYOUTS}.ksdd"
    root: str = setting(MISSING, "the folder that holds kos01/ and so on")


@dataclass
class KSDD2(Reader):
    _target_: str = f"{LAYOUTS}.ksdd2"
    root: str = setting(MISSING, "the folder that holds train/ and test/")


@dataclass
class HeldOut(Images):
    """Of data sets in which images are held out already."""

    root: str = setting(MISSING, CATEGORIES)
    category: Any = setting(MISSING, CATEGORY)


@dataclass
class MVTecAD2(HeldOut):
    _target_: str = f"{LAYOUTS}.mvtec_ad_2"
    category: Any = setting("can", CATEGORY)
    test: str = setting("test_public", "test_private and test_private_mixed have no labels")


@dataclass
class MVTecLOCO(HeldOut):
    _target_: str = f"{LAYOUTS}.mvtec_loco"
    category: Any = setting("breakfast_box", CATEGORY)


@dataclass
class Folder(Reader):
    _target_: str = "anomalib_lite.data.folder.read"
    root: str = setting(".", "the paths below are relative to it")
    ok: Any = setting(None, "OK images: a folder with all below it, a file, or a pattern such as 'line1/**/ok/*.png'")
    nok: Any = setting(None, "NOK images for testing; each one's folder names its defect type")
    mask: Any = setting(None, "masks of NOK images, paired by stem (or stem_mask)")
    test_ok: Any = setting(None, "OK images for testing alone; null: test_ok_share of the OK images")
    manifest: str | None = setting(None, "a CSV with crop, label, defect, mask instead of the patterns")
    test_ok_share: float = setting(0.2, "of the OK images, kept for testing", least=0, below=1)


@dataclass
class DeepPCB(Reader):
    _target_: str = "anomalib_lite.data.deeppcb.read"
    root: str = setting(MISSING, "the folder that holds trainval.txt and test.txt")
    artifacts: str = setting(II("paths.artifacts"), "simulated OK pairs and masks of the boxes are written below it")
    test_list: str = setting(
        "test", "the pairs that are measured on; settings are chosen on trainval", choices=("test", "trainval")
    )
    val_share: float = setting(0.5, "of the simulated OK pairs, held out for the threshold", above=0, below=1)


@dataclass
class PanelsConfig:
    """What of the built-in product is rendered; its folder's name is a hash of these values."""

    size: int = setting(256, "px of a crop's side", least=32)
    seed: int = setting(0, "of the rendering", least=0)
    n_train: int = setting(200, "OK images, the held-out ones included", least=3)
    n_test_good: int = setting(60, "OK images to test on", least=0)
    n_per_defect: int = setting(12, "images with each defect", least=0)
    severity: list[float] = setting([0.1, 0.9], "range that each defect's is drawn from", least=0, most=1)
    jitter: float = setting(1.0, "scale of shift, turn and perspective between products", least=0)
    defects: list[str] | None = setting(None, "names of defects; null: all ten")


@dataclass
class Panels(PanelsConfig, Reader):
    _target_: str = "anomalib_lite.data.panels.read"
    root: str = setting(II("paths.artifacts"), "rendered below it on first use")
    template: str | None = setting("rendered", "the perfect product's picture, another file, or null")


@dataclass
class SegmentOptions:
    """conf/panels: how products are found in photographs of panels."""

    max_objects: int = setting(8, "products in one panel", least=1)
    min_score: float = setting(0.4, "correlation with the template after alignment", above=0, below=1)
    max_angle: float = setting(4.0, "degrees to either side", least=0, most=180)
    angle_step: float = setting(2.0, "degrees", above=0)
    min_scale: float = setting(1.0, "size against the template's", above=0)
    max_scale: float = setting(1.0, "size against the template's", above=0)
    motion: str = setting("affine", "what alignment may change", choices=("none", "translation", "euclidean", "affine"))

    def __post_init__(self) -> None:
        if self.max_scale < self.min_scale:
            raise UserError(f"max_scale ({self.max_scale:g}) must not be below min_scale ({self.min_scale:g}).")


@dataclass
class SheetConfig:
    """The demo's photographs."""

    width: int = setting(1600, "px of a photograph", least=64)
    height: int = setting(1200, "px of a photograph", least=64)
    rows: int = setting(2, "of products", least=1)
    columns: int = setting(4, "of products", least=1)
    fill: float = setting(0.82, "a product's side against the room that each has", above=0, most=1)
    shift: float = setting(0.04, "of a product from its place, in product sides, at most", least=0)
    angle: float = setting(3.0, "of a product, in degrees, at most", least=0)
    brightness: float = setting(0.2, "change of a panel's light, at most", least=0, below=1)
    nok_share: float = setting(0.1, "of the products", least=0, most=1)
    perspective: float = setting(0.012, "how much larger a panel's nearer side is, at most", least=0)

    @property
    def product_size(self) -> int:
        """px of a product's side."""
        return int(self.fill * min(self.width / self.columns, self.height / self.rows))

    def __post_init__(self) -> None:
        if self.product_size < 32:
            raise UserError(f"The products of a panel need at least 32 pixels, and these get {self.product_size}.")
