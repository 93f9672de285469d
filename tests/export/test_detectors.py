"""Every detector as its configuration makes it gives the same maps, scores and verdicts as an exported graph."""

from dataclasses import asdict

import pytest

from anomalib_lite.data.images import ImageSet, to_pixels
from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.detectors.model import Model
from anomalib_lite.errors import UserError
from anomalib_lite.export.graph import Deployed, write_graph
from anomalib_lite.export.session import Exported
from tests.detectors.test_configured import DETECTORS, SMALL, configured, fitted
from tests.made import write_image

SIZE = (64, 64)
TWO = "tta.views=[{},{flip:horizontal}]"
TILES = ["tiling.size=40", "tiling.overlap=8"]
VIT = ["backbone.name=test_vit", "backbone.layers=[1,2]", "detector.levels=null"]
CASES = [
    ("patchcore", ["backbone.name=test_resnet"], "model.onnx", 2),
    ("anomalydino", [*VIT], "model.onnx", None),
    ("dinomaly", ["backbone.name=test_vit", "backbone.layers=[1,2]"], "model.onnx", None),
    ("padim", ["tiling=grid", *TILES], "model.onnx", None),
    ("patchcore", ["tiling=grid_and_full", *TILES], "model.onnx", None),
    *(("padim", [TWO], name, batch) for name in ("model.xml", "model.pt2") for batch in (1, 3)),
    ("fusion", [], "model.pt2", None),
    *((detector, [], "model.onnx", None) for detector in DETECTORS),
    *((detector, [TWO], "model.onnx", None) for detector in DETECTORS if "template" not in detector),
]
QUICK = [("padim", [TWO], "model.pt2", 3), ("fusion", [], "model.pt2", None)]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Six OK images, and three with a bright square; the first is the template of all."""
    folder = tmp_path_factory.mktemp("images")
    files = [write_image(folder / f"{i}.png", i, SIZE, mark=i >= 6) for i in range(9)]
    return [Sample(file, OK, template=files[0]) for file in files]


def made(detector: str, extra: list[str], images: ImageSet) -> Model:
    """Fitted to the images, on a backbone of random weights."""
    small = ["preset=smoke", "image_size=64", *SMALL.get(detector, [])]
    net = ["backbone=timm", "backbone.name=test_efficientnet", "backbone.weights=none", "backbone.layers=[1,2,3]"]
    return fitted(configured(f"detector={detector}", *small, *net, *extra), images).eval()


@pytest.mark.parametrize(
    ("detector", "extra", "name", "batch"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_an_exported_graph_gives_the_models_numbers(samples, tmp_path, detector, extra, name, batch):
    model = made(detector, extra, ImageSet(samples[:6], SIZE))
    batch_of_all = ImageSet(samples, SIZE)[list(range(len(samples)))]
    heatmap, score = model.predict_batch(batch_of_all)
    assert float(heatmap.max()) > float(heatmap.min()), "a map that knows nothing would prove nothing"
    graph = Deployed(model, SIZE, float(score.sort().values[[5, 6]].mean()))
    compares = {"compares": graph.compares, "alignment": asdict(graph.alignment) if graph.alignment else None}
    write_graph(graph, tmp_path / name, "fp32", {"size": SIZE, "batch": batch, "template": compares}, batch)
    file = Exported(tmp_path / name, 1, trusted=["pt2"])
    found = file.run(to_pixels(batch_of_all.image), file.aligned_templates(batch_of_all.image, batch_of_all.template))
    assert abs(found[0] - heatmap[:, 0].numpy()).max() <= 1e-4 * float(heatmap.max() - heatmap.min())
    assert abs(found[1] - score.numpy()).max() <= 1e-4 * float(score.max() - score.min())
    assert found[2].tolist() == (score > graph.limit).tolist()


def test_what_no_graph_can_hold_is_refused(samples):
    for detector, extra, reason in (
        ("anomalydino", ["detector.mask=on"], "train with detector.mask=off"),
        ("template", [TWO], "train with tta=none"),
    ):
        with pytest.raises(UserError, match=reason):
            Deployed(made(detector, extra, ImageSet(samples[:6], SIZE)), SIZE, 0.0)
