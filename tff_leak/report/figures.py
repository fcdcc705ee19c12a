"""The pictures of a report: reconstructions, curves and progress.

Every function returns a `matplotlib.figure.Figure` made through matplotlib's object
interface, without pyplot and its global state. Backgrounds are transparent and the
text is of a grey that reads on white and on black, so that one picture serves a light
page, a dark page and print.
"""

import io
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure, ticker
from matplotlib.axes import Axes

from tff_leak import errors
from tff_leak.runtime.atomic import atomic_write_bytes

_INK = "#767c86"
_GRID = "#8f96a033"
# Okabe and Ito's colours, which stay apart for colour-blind readers, without the
# yellow and the black that vanish on a light or on a dark page.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = "osD^v"
_DPI = 160
_GAP = 0.06  # between pictures, as a share of their height
_PICTURE = 0.72  # width of one picture, inches
_NAMES_AT_LEFT = 1.12  # inches
_NAMES_ABOVE = 0.26  # inches
_WIDTH = 6.4  # of curves, inches
_LETTER = 0.072  # of a legend, inches
_LEGEND_LINE = 0.6  # with the space around it, inches


def reconstruction_grid(
    images: np.ndarray,
    nearest_private: np.ndarray,
    *,
    columns: int = 8,
    row_names: tuple[str, str] = ("nearest private", "reconstruction"),
    column_names: Sequence[str] | None = None,
    window: tuple[int, int] | None = None,
) -> figure.Figure:
    """The papers' figure: above each reconstruction the private image nearest in L1.

    Args:
      images: float [n, H, W, C] in [-1, 1], the reconstructions, n at least 1.
      nearest_private: float [n, H, W, C], the private image nearest to each.
      columns: The first so many are shown.
      row_names: What stands beside the upper and the lower row.
      column_names: What stands above each column, n texts, e.g. the classes.
      window: (h, w), rows and columns that the attacked classifier sees; the rest is
        cut off in both rows.

    Raises:
      InputError: If the two differ in shape or there is no image.
    """
    if images.shape != nearest_private.shape or images.ndim != 4 or not len(images):
        raise errors.InputError(
            f"Reconstructions {images.shape} and private images "
            f"{nearest_private.shape} do not pair; expected [n, H, W, C] twice, n at "
            "least 1; take private[similarity.nearest]."
        )
    rows = [_cut(nearest_private[:columns], window), _cut(images[:columns], window)]
    return _rows_of_pictures(rows, row_names, column_names, below=False)


def picture_rows(rows: Mapping[str, np.ndarray]) -> figure.Figure:
    """Rows of pictures with a name beside each.

    Args:
      rows: by name, float [n, H, W, C] in [-1, 1]; n at least 1 and the same in all,
        but for the last, which may be shorter.

    Raises:
      InputError: If there is no row, or rows differ in length or the pictures' shape.
    """
    images = [np.asarray(row, np.float32) for row in rows.values()]
    shapes = {row.shape for row in images[:-1]} or {images[-1].shape if images else ()}
    if not images or len(shapes) > 1 or not images[0].size:
        raise errors.InputError(
            f"Rows have shapes {[row.shape for row in images]}; expected at least one, "
            "all of one shape [n, H, W, C]; cut them to one length."
        )
    missing = len(images[0]) - len(images[-1])
    if missing < 0 or images[-1].shape[1:] != images[0].shape[1:]:
        raise errors.InputError(
            f"The last row has shape {images[-1].shape}; expected at most "
            f"{images[0].shape}; cut the rows to one length."
        )
    blank = np.full((missing, *images[0].shape[1:]), -1.0, np.float32)
    images[-1] = np.concatenate([images[-1], blank])
    return _rows_of_pictures(images, list(rows), None, below=False)


def progress_strip(
    rounds: Sequence[int], images: np.ndarray, *, window: tuple[int, int] | None = None
) -> figure.Figure:
    """Samples of one target, one a round, left to right.

    Args:
      rounds: The n rounds.
      images: float [n, H, W, C] in [-1, 1], one sample of each round, or
        [n, k, H, W, C] with k samples, which stand below each other.
      window: As in `reconstruction_grid`.

    Raises:
      InputError: If there are not as many images as rounds, or none.
    """
    images = np.asarray(images)
    if images.ndim == 4:
        images = images[:, np.newaxis]
    if images.ndim != 5 or len(images) != len(rounds) or not images.size:
        raise errors.InputError(
            f"{len(rounds)} rounds and images {images.shape} do not pair; expected "
            "one image or one row of samples a round, at least one round; keep a "
            "sample of each round that is named."
        )
    rows = [_cut(images[:, k], window) for k in range(images.shape[1])]
    names = [str(number) for number in rounds]
    return _rows_of_pictures(rows, ("round",), names, below=True)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    ylabel: str,
    *,
    xlabel: str = "round",
    levels: Mapping[str, float | None] | None = None,
    ylimits: tuple[float, float] | None = None,
    few: bool = False,
    logarithmic: bool = False,
) -> figure.Figure:
    """Figures over the rounds, e.g. accuracy, judge share, similarity or loss.

    Args:
      series: For each name its xs and ys, of one length; None and NaN leave a gap.
      ylabel: What is drawn, with its unit where it has one.
      xlabel: What the xs count.
      levels: Horizontal dashed lines by name, e.g. floor and reference; None is left
        out.
      ylimits: Lowest and highest y; None fits the data.
      few: Whether the xs are a handful of chosen values, not a count: points are
        marked, and named on the axis.
      logarithmic: Whether the x-axis is; all xs above 0.

    Raises:
      InputError: If there is no series, or one differs in length from its xs.
    """
    if not series:
        raise errors.InputError(
            "There is no curve to draw; expected at least one series; record a metric "
            "in at least one round."
        )
    drawn = figure.Figure(figsize=(_WIDTH, 3.4), layout="constrained")
    axes = drawn.add_subplot()
    for i, (name, (xs, ys)) in enumerate(series.items()):
        _draw_series(axes, i, name, xs, ys, marked=few)
    known = {name: y for name, y in (levels or {}).items() if y is not None}
    for i, (name, level) in enumerate(known.items()):
        axes.axhline(
            level,
            color=_INK,
            linestyle=((0, (6, 3)), (0, (1.5, 2)))[i % 2],
            linewidth=1.2,
            label=f"{name} {level:.2f}",
        )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if ylimits is not None:
        axes.set_ylim(*ylimits)
    _style(axes)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    if few:
        named = sorted({x for xs, _ in series.values() for x in xs})
        axes.set_xticks(named, [f"{x:g}" for x in named])
    if len(series) + len(known) > 1:
        longest = max(len(text) for text in axes.get_legend_handles_labels()[1])
        fitting = int(_WIDTH // (_LETTER * longest + _LEGEND_LINE))
        drawn.legend(
            loc="outside upper left",
            ncols=max(min(len(series) + len(known), fitting, 3), 1),
            frameon=False,
            labelcolor=_INK,
            fontsize=9,
        )
    return drawn


def frontier(
    points: Mapping[str, tuple[float, float, tuple[float, float] | None]],
    xlabel: str,
    ylabel: str,
) -> figure.Figure:
    """What a choice costs against what it gains, e.g. task accuracy against leakage.

    Right and low is good. A dashed line joins the points to which no other is
    preferable in both.

    Args:
      points: by name (x, y, the interval of y or None); y is 0 where nothing is lost
        and about 1 where all is. Intervals that go far beyond the points are cut.
      xlabel: of what should be large.
      ylabel: of what should be small.

    Raises:
      InputError: If there is no point.
    """
    if not points:
        raise errors.InputError(
            "There is no point to draw; expected at least one; let one run end well."
        )
    drawn = figure.Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = drawn.add_subplot()
    best = [points[name][:2] for name in undominated(points)]
    axes.step(*zip(*best, strict=True), where="pre", color=_INK, linestyle=(0, (6, 3)))
    for i, (name, (x, y, interval)) in enumerate(points.items()):
        bar = None if interval is None else [[y - interval[0]], [interval[1] - y]]
        axes.errorbar(
            [x],
            [y],
            yerr=bar,
            color=_COLOURS[i % len(_COLOURS)],
            marker=_MARKERS[i // len(_COLOURS) % len(_MARKERS)],
            markersize=7,
            capsize=3,
            linestyle="none",
            label=name,
        )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _style(axes)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6))
    ys = [0.0, 1.0, *(y for _, y, _ in points.values())]
    margin = 0.1 * (max(ys) - min(ys))
    axes.set_ylim(min(ys) - margin, max(ys) + margin)
    drawn.legend(
        loc="outside lower left", ncols=2, frameon=False, labelcolor=_INK, fontsize=8
    )
    return drawn


def undominated(points: Mapping[str, tuple[float, float, object]]) -> list[str]:
    """Names of the points (x, y, ...) to which no other is preferable, by their x.

    Another is preferable that has no smaller x and no larger y, and differs.
    """
    found = [
        name
        for name, (x, y, _) in points.items()
        if not any(
            other[0] >= x and other[1] <= y and other[:2] != (x, y)
            for other in points.values()
        )
    ]
    return sorted(found, key=lambda name: points[name][:2])


def png(drawn: figure.Figure) -> bytes:
    """The figure as a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    drawn.savefig(
        buffer,
        format="png",
        dpi=_DPI,
        transparent=True,
        metadata={"Software": None},
    )
    return buffer.getvalue()


def save(drawn: figure.Figure, path: str | os.PathLike) -> bytes:
    """Writes the figure as a PNG: beside `path` first, then renamed.

    A reader sees the old file or the whole new one, also when the program is killed.
    The directory is made where it does not exist.

    Returns:
      What was written, as of `png`, which takes longer than all else here.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = png(drawn)
    atomic_write_bytes(path, picture)
    return picture


def _cut(images: np.ndarray, window: tuple[int, int] | None) -> np.ndarray:
    height, width = window or images.shape[1:3]
    return images[:, :height, :width]


def _rows_of_pictures(
    rows: Sequence[np.ndarray],
    row_names: Sequence[str],
    column_names: Sequence[str] | None,
    *,
    below: bool,
) -> figure.Figure:
    """Rows [n, H, W, C] as one picture, with names at the left and above or below."""
    n, height, width, _ = rows[0].shape
    gap = max(1, round(_GAP * height))
    canvas = _tile(rows, gap)
    # Fixed margins, so that the pictures of two figures have one size.
    inches = np.array(canvas.shape[1::-1]) / width * _PICTURE
    margins = np.array([_NAMES_AT_LEFT, _NAMES_ABOVE if column_names else 0.02])
    size = inches + margins + [0.02, 0.02]
    drawn = figure.Figure(figsize=tuple(size))
    bottom = margins[1] if below else 0.02
    axes = drawn.add_axes((margins[0] / size[0], bottom / size[1], *(inches / size)))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    middles = [k * (width + gap) + (width - 1) / 2 for k in range(n)]
    axes.set_xticks(middles if column_names else [], (column_names or ())[:n])
    if below:
        # The one name stands in the line of the columns' names.
        axes.annotate(
            row_names[0],
            (0, 0),
            xytext=(-5, -3.5),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="top",
            color=_INK,
        )
        axes.set_yticks([])
    else:
        centres = [k * (height + gap) + (height - 1) / 2 for k in range(len(rows))]
        axes.set_yticks(centres, [name.replace(" ", "\n") for name in row_names])
        axes.xaxis.tick_top()
    axes.tick_params(length=0, colors=_INK, labelsize=10)
    axes.spines[:].set_visible(False)
    return drawn


def _tile(rows: Sequence[np.ndarray], gap: int) -> np.ndarray:
    """RGBA [rows, columns, 4] in [0, 1], with transparent gaps between pictures."""
    n, height, width, channels = rows[0].shape
    canvas = np.zeros(
        (len(rows) * (height + gap) - gap, n * (width + gap) - gap, 4), np.float32
    )
    for k, row in enumerate(rows):
        for i, image in enumerate(np.clip((np.asarray(row) + 1) / 2, 0, 1)):
            place = canvas[
                k * (height + gap) : k * (height + gap) + height,
                i * (width + gap) : i * (width + gap) + width,
            ]
            place[..., :3] = image if channels == 3 else image[..., :1]
            place[..., 3] = 1
    return canvas


def _draw_series(
    axes: Axes,
    position: int,
    name: str,
    xs: Sequence[float],
    ys: Sequence[float | None],
    marked: bool = False,
) -> None:
    if len(xs) != len(ys):
        raise errors.InputError(
            f"Series '{name}' has {len(xs)} xs and {len(ys)} ys; expected as many; "
            "give None for a round without a value."
        )
    values = np.array([np.nan if y is None else y for y in ys], np.float64)
    # A single point is no line; without a marker nothing would be seen.
    lonely = np.isfinite(values).sum() < 2
    marker = _MARKERS[position // len(_COLOURS) % len(_MARKERS)]
    axes.plot(
        xs,
        values,
        color=_COLOURS[position % len(_COLOURS)],
        linestyle=("-", "--", ":")[position // len(_COLOURS) % 3],
        marker=marker if lonely or marked else None,
        linewidth=1.8,
        label=name,
    )


def _style(axes: Axes) -> None:
    """Draws axes in the grey of the page, without a box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color=_GRID)
