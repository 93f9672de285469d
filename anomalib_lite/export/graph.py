"""The exported graph, from pixels of any size to map, score and verdict, and its file formats."""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anomalib_lite.detectors.model import Model
from anomalib_lite.detectors.template import TemplateComparison
from anomalib_lite.errors import UserError
from anomalib_lite.registration.template import Alignment

OUTPUTS = ("map", "score", "nok")
FORMATS = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}
ABOUT = "anomalib_lite"  # key of the metadata in the file
OPSET = 20
UNIT = 2048  # OpenCV's fixed-point unit of bilinear weights
SMALL = 4096  # elements; fp16 keeps smaller tensors in single precision, and means, as they are subtracted


class Deployed(nn.Module):
    """A model from uint8 RGB pixels (N, H, W, 3) of any size to map (N, h, w), score (N,) and nok (N,).

    nok is True where the score is above the threshold or NaN. A model that compares with a template has a second
    input, float32 (N, h, w, 4) at the model's size: the template aligned with each image, RGB in [0, 1], and a channel
    that is 1 where the aligned template has pixels. The alignment uses OpenCV, which a graph cannot contain.

    Raises UserError if the model computes something that a graph cannot express.
    """

    limit: Tensor

    def __init__(self, model: Model, size: Sequence[int], threshold: float) -> None:
        super().__init__()
        self.size, self.resize, self.model = tuple(size), Resize(*size), deepcopy(model)
        self.compares, self.alignment = _comparison(self.model)
        for module in self.model.modules():  # an exported graph cannot branch on tensors
            if freeze := getattr(module, "freeze_selection", None):
                freeze()
        self.register_buffer("limit", torch.tensor(threshold, dtype=torch.float32))

    def forward(self, pixels: Tensor, template: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        image = self.resize(pixels).permute(0, 3, 1, 2) / 255
        anomaly_map, score = self.model(image, None if template is None else template.permute(0, 3, 1, 2))
        return anomaly_map[:, 0], score, ~(score <= self.limit)

    def example(self, batch: int | None) -> dict[str, Tensor]:
        """Returns inputs for tracing, of a size that differs from the model's."""
        count = batch or 2
        pixels = torch.zeros(count, self.size[0] * 2 + 2, self.size[1] * 2 + 6, 3, dtype=torch.uint8)
        return {"pixels": pixels} | ({"template": torch.ones(count, *self.size, 4)} if self.compares else {})


def _comparison(model: Model) -> tuple[bool, Alignment | None]:
    """Returns whether the model compares with a template, and the alignment it uses; expects aligned templates then."""
    comparisons = [m for m in model.modules() if isinstance(m, TemplateComparison)]
    if not comparisons:
        return False, None
    if not all(view.identity for view in model.views.views):
        raise UserError(
            "A detector that compares with a template aligns it with each view of test-time augmentation, which an "
            "exported graph cannot do: train with tta=none."
        )
    for comparison in comparisons:
        comparison.laid_over = True
    return True, comparisons[0].alignment


def write_graph(
    graph: Deployed, file: Path, precision: str, about: Mapping[str, Any], batch: int | None = None
) -> None:
    """Writes the graph, on the CPU, in the format of the file's suffix, for OpenVINO with a second file of weights.

    precision: fp32, fp16 or int8; torch only has fp32, and for int8 the networks must be quantised already. about:
    metadata, JSON-ready. batch: None: any. Raises UserError if the graph does not fit into the file.
    """
    text = json.dumps(about)
    if file.suffix == ".pt2":
        if precision != "fp32":
            raise UserError("format=torch only has single precision: use precision=fp32, or format=onnx.")
        torch.export.save(_program(graph, batch), file, extra_files={ABOUT: text})
        return
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        source = Path(folder) / "model.onnx"
        _write_onnx(graph, source, batch, text, precision)
        if file.suffix == ".xml":
            _write_openvino(source, file, text, half=precision == "fp16")
        else:
            if precision == "fp16":
                _halve(source)
            source.replace(file)


def _program(graph: Deployed, batch: int | None) -> torch.export.ExportedProgram:
    dynamic, example = torch.export.Dim.DYNAMIC, graph.example(batch)
    first = {} if batch else {0: dynamic}
    shapes = {name: first | ({1: dynamic, 2: dynamic} if name == "pixels" else {}) for name in example}
    torch.compiler.reset()  # else torch.cond reuses cached branches of an earlier graph, with its batch size
    with torch.no_grad(), _quiet():
        return torch.export.export(graph.eval(), (), example, dynamic_shapes=shapes, strict=False)


def _write_onnx(graph: Deployed, file: Path, batch: int | None, about: str, precision: str) -> None:
    import onnx  # importing it takes half a second

    program = _program(graph, batch)
    with _quiet():
        program_onnx = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            output_names=list(OUTPUTS),
            external_data=False,
            optimize=precision != "int8",  # it would turn small 8-bit weights back into floats
        )
    if program_onnx is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    from onnxscript.optimizer import fold_constants

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of each node that it does not fold
    # folds all constants but 8-bit weights, so that ONNX Runtime can fuse quantisation limits with convolutions
    keep, limits = {"DequantizeLinear": False}, {"input_size_limit": 1 << 30, "output_size_limit": 1 << 30}
    fold_constants(program_onnx.model, should_fold=lambda node: keep.get(node.op_type), **limits)
    try:
        model = program_onnx.model_proto
        for node in _nodes(model.graph):  # removes source locations, which hold paths of this machine
            node.ClearField("metadata_props")
        onnx.helper.set_model_props(model, {ABOUT: about})
        onnx.save(model, file)
    except ValueError as error:  # protobuf's limit
        raise UserError(f"The graph exceeds the 2 GB limit of an ONNX file ({error}): use format=torch.") from error


def _nodes(graph: Any) -> Iterator[Any]:
    """Yields the nodes of an ONNX graph and of its branches."""
    for node in graph.node:
        yield node
        for branch in (attribute.g for attribute in node.attribute if attribute.HasField("g")):
            yield from _nodes(branch)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporters, which log each step and warn of deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _halve(file: Path) -> None:
    """Stores large weights in half precision; the runtime casts them back once, when it loads the file."""
    import onnx

    model = onnx.load(file)
    casts = []
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < SMALL or weight.name.endswith("mean"):
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = weight.name
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, file)


def _write_openvino(source: Path, file: Path, about: str, half: bool) -> None:
    import openvino as ov

    model = ov.convert_model(source)
    for node in model.get_ops():
        if node.get_type_name() == "Log":
            found = _logarithm(node.input_value(0))
            for use in node.output(0).get_target_inputs():
                use.replace_source_output(found)
    model.set_rt_info(about, ABOUT)
    ov.save_model(model, file, compress_to_fp16=half)


def _logarithm(x: Any) -> Any:
    """Computes log(x) from roots and an exponential, because OpenVINO's own kernel is not vectorised.

    The error is at most 2e-6 between 1e-5 and 1e6, and 1e-3 down to 1e-9.
    """
    from openvino import opset13 as op

    def number(value: float) -> Any:
        return op.constant(np.float32(value))

    root = x
    for _ in range(4):
        root = op.sqrt(root)
    part = op.divide(op.subtract(root, number(1)), op.add(root, number(1)))  # tanh of a 32nd of the logarithm
    square = op.multiply(part, part)
    series = op.add(op.multiply(square, op.add(op.multiply(square, number(32 / 5)), number(32 / 3))), number(32))
    near = op.multiply(part, series)
    back = op.exp(near)  # from here one step of Halley's method
    step = op.divide(op.multiply(op.subtract(x, back), number(2)), op.add(x, back))
    return op.add(near, step).output(0)


class Resize(nn.Module):
    """Resizes uint8 (N, H, W, 3) to float32 (N, height, width, 3) of whole numbers, like `data.decode.resize_image`.

    Reproduces OpenCV: INTER_AREA where both sides shrink, else INTER_LINEAR in fixed-point arithmetic. About one value
    in 100,000 differs by 1, because OpenCV sums areas in another order. Each output gathers only the rows and columns
    it needs, with indices computed in integers from the input's shape, so the graph accepts any size.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, pixels: Tensor) -> Tensor:
        same = (pixels.shape[1] == self.height) & (pixels.shape[2] == self.width)
        return torch.cond(same, self._whole, self._resized, (pixels,))

    def _whole(self, pixels: Tensor) -> Tensor:
        """Returns the pixels unchanged; the selection tells the exporter their size."""
        return pixels.index_select(1, torch.arange(self.height)).index_select(2, torch.arange(self.width)).float()

    def _resized(self, pixels: Tensor) -> Tensor:
        shrinks = (pixels.shape[1] >= self.height) & (pixels.shape[2] >= self.width)
        return torch.cond(shrinks, self._area, self._linear, (pixels,))

    def _area(self, pixels: Tensor) -> Tensor:
        count, height, width = pixels.shape[:3]
        y, down = _areas(height, self.height)
        x, across = _areas(width, self.width)
        rows = pixels.index_select(1, y.flatten()).float().view(count, self.height, y.shape[1], width * 3)
        rows = (down[:, None] @ rows).view(count * self.height, width, 3)
        columns = rows.index_select(1, x.flatten()).view(count, self.height, self.width, x.shape[1], 3)
        mean = (across[:, None] @ columns)[..., 0, :]
        halved = (down[0, 0] == 0.5) & (across[0, 0] == 0.5)  # OpenCV's shortcut for halves rounds x.5 up
        return torch.where(halved, torch.floor(mean + 0.5), torch.round(mean))

    def _linear(self, pixels: Tensor) -> Tensor:
        y, down = _pairs(pixels.shape[1], self.height, inside=False)
        x, across = _pairs(pixels.shape[2], self.width, inside=True)
        corners = pixels.index_select(1, y.flatten()).index_select(2, x.flatten()).float()
        corners = corners.view(pixels.shape[0], self.height, 2, self.width, 2, 3)
        rows = torch.floor((corners * across[:, :, None]).sum(4) / 16)
        both = torch.floor(rows * down[:, :, None, None] / 65536).sum(2)
        return torch.floor((both + 2) / 4)


def _areas(size: int, target: int) -> tuple[Tensor, Tensor]:
    """Returns the indices and weights, both (target, K), of the `size` pixels that each of `target` pixels averages."""
    k, i = torch.arange((size + target - 1) // target + 1), torch.arange(target)[:, None]
    first = i * size // target
    begin = i * size - first * target  # offset within the first pixel, in units of 1 / target pixel
    share = torch.minimum((k + 1) * target, begin + size) - torch.maximum(k * target, begin)
    return (first + k).clamp_max(size - 1), share.clamp_min(0).float() / size


def _pairs(size: int, target: int, inside: bool) -> tuple[Tensor, Tensor]:
    """Returns the indices of the two of `size` pixels around each of `target` pixels, and their weights x 2048.

    inside: whether to clamp weights at the border, which OpenCV does for columns but not for rows.
    """
    middle = (2 * torch.arange(target) + 1) * size + target  # in units of 1 / (2 target) pixel, counted from -1
    first = middle // (2 * target) - 1
    part = torch.round((middle - (first + 1) * 2 * target).float() * (UNIT / (2 * target)))
    if inside:
        part = torch.where((first < 0) | (first >= size - 1), 0.0, part)
    return torch.stack([first, first + 1], 1).clamp(0, size - 1), torch.stack([UNIT - part, part], 1)
