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
from anomalib_lite.export.resize import Resize
from anomalib_lite.registration.template import Alignment

OUTPUTS = ("map", "score", "nok")
FORMATS = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}
ABOUT = "anomalib_lite"  # key of the metadata in the file
OPSET = 20
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
    if [view for view in model.views.views if not view.identity]:
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
    """Writes the graph to a file, for OpenVINO with a second file of weights. Raises UserError if it does not fit.

    Args:
        graph: On the CPU.
        file: Its suffix chooses one of FORMATS.
        precision: fp32, fp16 or int8; torch only has fp32. For int8 the graph's networks must be quantised already.
        about: Metadata of the file, JSON-ready.
        batch: Batch size; None: any.
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
