"""Shared parts of figures and pages: colours, empty figures in one style, saving as PNG or inline SVG."""

import functools
import io
import re
from pathlib import Path

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from anomalib_lite.runs.atomic import atomic_path

# Blue and orange can be distinguished by colour-blind people and in grey print. In a page each colour becomes the style
# sheet's variable of that name, so that one drawing serves the light and the dark scheme.
INK, MUTED, GRID, PAPER = "#22262b", "#6f7680", "#e4e6e9", "#fffffe"
OK, NOK, OK_PALE, NOK_PALE = "#2f6fb0", "#d1571b", "#bcd3ea", "#f3cdb6"
THIRD, FOURTH, FIFTH = "#3d8b6f", "#8a63a8", "#a3802a"
SERIES = (OK, NOK, THIRD, FOURTH, FIFTH, MUTED)
_VARIABLES = {
    INK: "ink", MUTED: "muted", GRID: "line", PAPER: "paper", OK: "ok", NOK: "nok", OK_PALE: "ok-pale",
    NOK_PALE: "nok-pale", THIRD: "third", FOURTH: "fourth", FIFTH: "fifth",
}  # fmt: skip


@functools.cache
def template(name: str) -> jinja2.Template:
    """Loads a template from the folder `templates`; inserted values are escaped."""
    loader = jinja2.PackageLoader("anomalib_lite.report")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


def figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Creates an empty figure with one axes; sizes in inches."""
    drawing, [axis] = grid(1, width, height)
    return drawing, axis


def grid(count: int, width: float, height: float, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """Creates an empty figure with `count` axes, each width x height inches, up to `columns` per row."""
    columns = min(count, columns)
    rows = -(-count // columns)
    drawing = Figure(figsize=(width * columns, height * rows), layout="constrained", facecolor=PAPER)
    axes = list(drawing.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        _quieten(axis)
    for axis in axes[count:]:
        axis.set_axis_off()
    return drawing, axes[:count]


def place(drawing: Figure, left: float, bottom: float, top: float = 0.02, gap: float = 0.0) -> None:
    """Sets the margins and the gaps between axes in inches, because matplotlib takes a tenth of a second to compute
    them, and a comparison has dozens of figures.
    """
    (width, height), spec = drawing.get_size_inches(), drawing.axes[0].get_gridspec()
    assert spec is not None  # true for all figures made by `grid`
    drawing.set_layout_engine(None)  # "none" would keep the current margins
    across = (width - left - 0.1 - gap * (spec.ncols - 1)) / spec.ncols
    down = (height - bottom - top - (bottom + top) * (spec.nrows - 1)) / spec.nrows
    drawing.subplots_adjust(
        left / width, bottom / height, 1 - 0.1 / width, 1 - top / height, gap / across, (bottom + top) / down
    )


def entitle(axis: Axes, words: str) -> None:
    axis.set_title(words, color=INK, fontsize=10.5, loc="left", pad=8, parse_math=False)


def whole_numbers(axis: Axis) -> None:
    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))


def save_png(drawing: Figure, path: Path, dpi: int = 120) -> Path:
    """Writes the figure atomically and returns the path."""
    canvas = FigureCanvasAgg(drawing)
    _settle(drawing)
    drawing.set_dpi(dpi)
    with atomic_path(path) as temporary:
        # print_png, because savefig draws twice. Level 1 compresses ten times as fast, and a few per cent less.
        canvas.print_png(temporary, pil_kwargs={"compress_level": 1})
    return path


def to_svg(drawing: Figure) -> str:
    """Returns the figure as an <svg> element for an HTML page, with text as text and the page's colour variables."""
    canvas = FigureCanvasSVG(drawing)
    _settle(drawing)
    drawing.patch.set_alpha(0)
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "anomalib_lite"}):
        canvas.print_svg(buffer, metadata=nothing)
    body = buffer.getvalue().partition("<svg")[2].partition(">")[2]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # inline, it would style the whole page
    width, height = drawing.get_size_inches() * 72
    return f'<svg viewBox="0 0 {width:.1f} {height:.1f}" role="img">' + re.sub(r"<[^<>]*>", _clean, body)


def _clean(tag: re.Match[str]) -> str:
    # keeps the ids that markers, clips and the dots of a scatter plot refer to
    text = re.sub(r' id="(?![mp][0-9a-f]{8}|C[0-9a-f]+_[0-9a-f]+_)[^"]*"', "", tag.group())
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text


def _settle(drawing: Figure) -> None:
    # Computes the layout once; otherwise every save would compute it again.
    engine = drawing.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.execute(drawing)
        drawing.set_layout_engine("none")


def _quieten(axis: Axes) -> None:
    axis.set_facecolor("none")
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set(color=MUTED, linewidth=0.8)
    axis.tick_params(colors=MUTED, labelcolor=MUTED, labelsize=8.5, width=0.8, length=3)
    axis.tick_params(which="minor", length=0)
    axis.grid(True, color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.xaxis.label.set(color=MUTED, fontsize=9)
    axis.yaxis.label.set(color=MUTED, fontsize=9)
