"""Exported files: the run's own numbers from pixels of any size, in every format, and what a file says of itself."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from anomalib_lite.backbones import build
from anomalib_lite.data.decode import read_image, resize_image
from anomalib_lite.detectors.learned import Networks
from anomalib_lite.engine.export import export_run
from anomalib_lite.engine.predict import open_run
from anomalib_lite.errors import UserError
from anomalib_lite.export.graph import Resize, write_graph
from anomalib_lite.export.quantise import quantise, quantise_learned
from anomalib_lite.export.session import Exported
from tests.commands import ran, read_json, read_rows, refused, trained
from tests.made import write_image, write_pixels

NET = ["backbone=timm", "backbone.name=test_efficientnet", "backbone.weights=none", "backbone.layers=[1,2,3]"]
REGION = ("image", "type", "grade", "area_px", "x", "y", "width", "height")


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run of seconds, with two views."""
    home = tmp_path_factory.mktemp("exported")
    asked = [a for a in tiny if "gaussian" not in a and a != "defects=none"]
    asked += [*NET, "tta=flips", f"paths.runs={home}/runs", f"paths.artifacts={home}/artifacts"]
    return trained(*asked, "detector=padim")


@pytest.fixture(scope="module")
def exported(run):
    assert "verdicts that changed: 0 " in ran("export", f"run={run}").out
    return run / "export-onnx-fp32/model.onnx"


Verdicts = dict[str, tuple[float, bool]]  # score and verdict by the image's folder and name


def verdicts(rows: Iterable[tuple[str, str, bool]]) -> Verdicts:
    return {"/".join(Path(image).parts[-2:]): (float(score), nok) for image, score, nok in rows}


def written(folder: Path) -> Verdicts:
    return verdicts((r["image"], r["score"], r["nok"] == "1") for r in read_rows(folder / "predictions.csv"))


def alike(found: Verdicts, known: Verdicts) -> None:
    assert found.keys() == known.keys()
    for name, (score, nok) in found.items():
        assert score == pytest.approx(known[name][0], rel=1e-4) and nok == known[name][1], name


def test_a_graph_resizes_as_opencv_does():
    """Both sides smaller, twice as large, of the model's size, larger, and one of each."""
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 1: free, 2: free},)
    picture = torch.zeros(2, 90, 100, 3, dtype=torch.uint8)
    graph = torch.export.export(Resize(40, 56), (picture,), dynamic_shapes=shapes, strict=False).module()
    rng, wrong, total = np.random.default_rng(0), 0, 0
    sizes = [(40, 56), (80, 112), (120, 168), (80, 56), (41, 57), (97, 211), (300, 400), (333, 59)]
    for height, width in [*sizes, (39, 55), (20, 28), (13, 200), (200, 30), (5, 5), (39, 300)]:
        pixels = rng.integers(0, 256, (2, height, width, 3), np.uint8)
        expected = np.stack([resize_image(one, 40, 56) for one in pixels]).astype(int)
        off = np.abs(graph(torch.from_numpy(pixels)).numpy() - expected)
        assert off.max() <= 1, (height, width)
        wrong, total = wrong + np.count_nonzero(off), total + off.size
    assert wrong <= 1e-4 * total


def test_training_evaluation_prediction_and_the_file_give_the_same_numbers(run, exported, tmp_path):
    """Also the same regions, of the same types. And the example beside the file, which decodes and resizes itself."""
    known = written(run)
    images = [row["image"] for row in read_rows(run / "predictions.csv")]
    regions: list[list[list[str]]] = []
    for name, source in (("run", run), ("file", exported), ("folder", exported.parent)):
        listed = f"images=[{','.join(images)}]"
        ran("predict", f"run={source}", listed, f"output={tmp_path}/{name}", "overlays=false")
        alike(written(tmp_path / name), known)
        regions.append([[row[k] for k in REGION] for row in read_rows(tmp_path / name / "defects.csv")])
    assert regions[0] and regions[0] == regions[1] == regions[2]
    data = open_run(run).run.config["data"]
    own = ["data=mvtec_ad", f"data.root={data['root']}", f"data.category={data['category']}"]
    for name, source, named in (("evaluated", run, []), ("evaluated file", exported, own)):
        ran("evaluate", f"run={source}", f"output={tmp_path}/{name}", "report=false", *named)
        alike(written(tmp_path / name), known)
        figures, expected = (read_json(folder / "metrics.json") for folder in (tmp_path / name, run))
        for figure in ("image_auroc", "pixel_auroc", "aupro", "image_false_alarm_rate", "image_detection_rate"):
            assert figures[figure] == pytest.approx(expected[figure], abs=1e-6)
    assert "add e.g. data=folder" in refused("evaluate", f"run={exported}", f"output={tmp_path}/none", "report=false")
    command = [sys.executable, exported.parent / "predict.py", exported, *images]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    said = [line.split("\t") for line in lines]
    alike(verdicts((name, score, verdict == "NOK") for name, score, verdict, _ in said), known)
    deep = write_pixels(tmp_path / "deep.png", cv2.imread(images[0]).astype(np.uint16) * 257)
    told = subprocess.run([*command[:3], deep], capture_output=True, text=True, check=True).stdout.split("\t")
    assert told[1:3] == said[0][1:3], "16 bits"


def test_the_example_in_cpp_compiles_and_gives_the_same_score(exported, tmp_path):
    """Against the headers and libraries of OpenVINO's own package."""
    openvino = Path(pytest.importorskip("openvino").__file__).parent
    compiler, library = shutil.which("g++"), next(openvino.glob("libs/libopenvino.so.*"), None)
    if compiler is None or library is None:
        pytest.skip("no g++" if compiler is None else "this package of OpenVINO brings no libopenvino.so to link with")
    program, picture = tmp_path / "predict", write_image(tmp_path / "image.ppm", 5, (70, 90), mark=True)
    linked = [f"-I{openvino}/include", f"-L{library.parent}", f"-l:{library.name}", f"-Wl,-rpath,{library.parent}"]
    source = exported.parent / "predict.cpp"
    subprocess.run([compiler, "-std=c++17", str(source), *linked, "-o", program], check=True)
    said = subprocess.run([program, exported, picture], capture_output=True, text=True, check=True).stdout.split()
    _, score, nok = Exported(exported).run(read_image(picture)[None])
    assert float(said[0]) == pytest.approx(float(score[0]), rel=1e-4) and said[1] == ("NOK" if nok[0] else "OK")


def test_a_file_says_what_it_is(run, exported):
    about = Exported(exported).about
    assert about["threshold"] == read_json(run / "threshold.json") and "probability of at most" in about["promise"]
    assert about["data"]["fingerprint"] == read_json(run / "data.json")["fingerprint"]
    assert about["data"]["learned"].keys() == read_json(run / "data.json")["learned"].keys(), "they test nothing"
    assert (about["detector"], about["size"], about["precision"]) == ("PaDiM", [48, 48], "fp32")
    assert about["version"] and "MIT" in about["licence"]
    assert str(run.parent) not in json.dumps(about), "no paths of this machine"
    assert str(Path(__file__).parents[2]).encode() not in exported.read_bytes()


@pytest.mark.parametrize(
    ("kind", "precision", "batch"), [("openvino", "fp16", None), ("onnx", "int8", 2), ("torch", "fp32", None)]
)
def test_other_formats_and_precisions(run, exported, tmp_path, kind, precision, batch):
    """They stay near the run; a file of a fixed batch judges any number; half precision halves the file."""
    for left in (tmp_path / "template.png", tmp_path / "inspector/left.json"):  # by the export of another run
        left.parent.mkdir(exist_ok=True)
        left.touch()
    file, found = export_run(open_run(run), tmp_path, kind, precision, batch, tolerance=10)
    assert not (tmp_path / "template.png").exists() and not (tmp_path / "inspector/left.json").exists()
    allowed = {"fp32": 1e-5, "fp16": 0.05, "int8": 2.0}[precision]  # of a network of random weights
    assert max(found.map_difference, found.score_difference) <= allowed
    heatmap, score, nok = Exported(file, trusted=["pt2"]).run(np.zeros((3, 64, 64, 3), np.uint8))
    assert heatmap.shape == (3, 48, 48) and score.shape == nok.shape == (3,)
    if precision == "fp16":
        assert file.with_suffix(".bin").stat().st_size < 0.6 * exported.stat().st_size


class Alone(torch.nn.Module):
    """A model of one part, with an example of its inputs."""

    def __init__(self, name: str, part: torch.nn.Module, **inputs: torch.Tensor) -> None:
        super().__init__()
        self.add_module(name, part)
        self.example = lambda batch: inputs
        self.eval()

    def predict_batch(self, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        return self(*inputs)


def test_the_networks_of_8_bits_are_the_files(tmp_path):
    """With all that ONNX Runtime makes faster: floats left among 8 bits would be rounded by it, channels all alike."""

    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(images, size=128, mode="bicubic").clamp(0, 1)

    class Looker(Alone):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return self.backbone(image)

    networks = Looker("backbone", build("tf_efficientnet_lite0", [1, 2, 3], "bundled").frozen(), image=images[:2])
    quantise(networks, [(image,) for image in images[2:, None]])
    write_graph(networks, tmp_path / "model.onnx", "int8", {}, batch=2)
    graph = onnx.load(tmp_path / "model.onnx").graph
    maker = {name: node.op_type for node in graph.node for name in node.output}
    assert {maker.get(node.input[1]) for node in graph.node if node.op_type == "Conv"} == {"DequantizeLinear"}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "run.onnx"), 3
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options)
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node)
    assert kinds["QLinearConv"] > 5 * kinds["Conv"], "and most are computed in 8 bits, not only stored"
    for found, known in zip(session.run(None, {"image": images[:2].numpy()}), networks(images[:2]), strict=True):
        assert np.linalg.norm(found - known.detach().numpy()) < 0.1 * np.linalg.norm(known.detach().numpy())


def test_networks_that_learned_from_drawn_defects_are_computed_in_8_bits(tmp_path):
    generator = torch.Generator().manual_seed(0)
    looks = {n: 3 * torch.randn(1, c, s, s, generator=generator) for n, c, s in (("fine", 24, 32), ("deep", 40, 16))}

    class Judge(Alone):
        def forward(self, fine: torch.Tensor, deep: torch.Tensor) -> list[torch.Tensor]:
            return [self.networks([fine, deep], number) for number in range(3)]

    judge = Judge("networks", Networks({"fine": 24, "deep": 40}), **looks)
    exact = torch.cat(judge(**looks))
    quantise_learned(judge, [tuple(looks.values())])
    rounded = torch.cat(judge(**looks))
    assert 0 < (rounded - exact).norm() < 0.1 * (exact - exact.mean()).norm()
    write_graph(judge, tmp_path / "model.onnx", "int8", {}, batch=1)
    graph = onnx.load(tmp_path / "model.onnx").graph
    maker = {name: node.op_type for node in graph.node for name in node.output}
    kinds = Counter(maker.get(node.input[1]) for node in graph.node if node.op_type == "Conv")
    assert kinds["DequantizeLinear"] == 3 * 4, "each network's two first convolutions, its second and its last"
    found = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {n: v.numpy() for n, v in looks.items()})
    assert np.linalg.norm(np.concatenate(found) - rounded.numpy()) < 0.02 * np.linalg.norm(rounded.numpy())


def test_a_file_that_differs_does_not_stay(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Resize, "_area", lambda self, pixels: self._linear(pixels))  # what a peer's export got wrong
    with pytest.raises(UserError, match="does not reproduce the run"):
        export_run(open_run(run), tmp_path, "torch", "fp32")
    assert not list(tmp_path.iterdir())
    (tmp_path / "model.pt2").write_text("an earlier one")
    with pytest.raises(UserError, match="does not reproduce the run"):
        export_run(open_run(run), tmp_path, "torch", "fp32")
    assert (tmp_path / "model.pt2").read_text() == "an earlier one"


def test_what_cannot_be_is_refused(run, exported, tmp_path):
    trained = open_run(run)
    lowered = open_run(run)
    lowered.run.config["missed"] = ["passed.png"]
    boxed = replace(trained, judge=replace(trained.judge, resize="letterbox"))
    for asked, kind, precision, reason in (
        (trained, "torch", "int8", "precision=fp32"),
        (open_run(exported), "onnx", "fp32", "already an exported file"),
        (boxed, "onnx", "fp32", "resize=stretch"),
        (lowered, "onnx", "int8", "missed"),
    ):
        with pytest.raises(UserError, match=reason):
            export_run(asked, tmp_path, kind, precision)
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(exported.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        open_run(torn)


class Planted:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, ("planted",)


def test_a_planted_file_runs_nothing_and_reads_nothing(tmp_path, monkeypatch):
    """torch's files can hold pickles; ONNX can name weights in other files, which are none of its folder's."""
    monkeypatch.chdir(tmp_path)
    torch.save(Planted(), tmp_path / "model.pt2")
    with pytest.raises(UserError, match=r"may run code[\s\S]*trust=pt2"):
        open_run(tmp_path / "model.pt2")
    assert not (tmp_path / "planted").exists()
    secret, folder = tmp_path / "secret.bin", tmp_path / "sent"
    folder.mkdir()
    secret.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (folder / "link.bin").symlink_to(secret)
    for place in (str(secret), "../secret.bin", "link.bin"):
        weight = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (("location", place), ("offset", "0"), ("length", "16")):
            weight.external_data.add(key=key, value=value)
        heatmap = onnx.helper.make_tensor_value_info("map", 1, [4])
        nodes = [onnx.helper.make_node("Identity", ["w"], ["map"])]
        model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [heatmap], [weight]))
        model.ir_version, model.opset_import[0].version = 10, 20
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match="External data path"):
            open_run(folder)
