import io

import numpy as np
import PIL.Image
import pytest

from tff_leak import errors
from tff_leak.report import figures


def decoded(drawn):
    """RGBA [height, width, 4] of a figure, as a reader of the PNG sees it."""
    picture = PIL.Image.open(io.BytesIO(figures.png(drawn)))
    assert picture.format == "PNG"
    return np.asarray(picture.convert("RGBA"))


def share_of(pixels, colour):
    """Share of the pixels that are opaque and of one RGB colour."""
    wanted = np.array([*colour, 255])
    return (np.abs(pixels.astype(int) - wanted).max(axis=-1) <= 1).mean()


def test_grid_shows_private_above_and_reconstruction_below():
    reconstructions = np.full((3, 8, 8, 1), 1.0)
    private = np.full((3, 8, 8, 1), -1.0)
    pixels = decoded(figures.reconstruction_grid(reconstructions, private))
    middle = len(pixels) // 2
    assert share_of(pixels[:middle], (0, 0, 0)) > 0.4
    assert share_of(pixels[:middle], (255, 255, 255)) == 0
    assert share_of(pixels[middle:], (255, 255, 255)) > 0.4
    assert share_of(pixels[middle:], (0, 0, 0)) == 0


def test_grid_keeps_colours_and_cuts_what_is_not_seen():
    red = np.full((1, 8, 8, 3), -1.0)
    red[..., 0] = 1
    spoilt = red.copy()
    spoilt[:, 6:] = 0.0  # Grey rows that the attacked classifier cannot see.
    pixels = decoded(figures.reconstruction_grid(spoilt, spoilt, window=(6, 8)))
    assert share_of(pixels, (255, 0, 0)) > 0.3
    assert share_of(pixels, (127, 127, 127)) < 0.001
    whole = decoded(figures.reconstruction_grid(spoilt, spoilt))
    assert share_of(whole, (127, 127, 127)) > 0.05


def test_grids_of_one_shape_have_one_size_and_show_the_first_columns():
    images = np.zeros((12, 8, 8, 1))
    eight = decoded(figures.reconstruction_grid(images, images))
    named = figures.reconstruction_grid(images, images, row_names=("real", "control"))
    assert decoded(named).shape == eight.shape
    three = decoded(figures.reconstruction_grid(images, images, columns=3))
    assert three.shape[1] < eight.shape[1]


def test_rows_of_pictures_keep_their_order_and_a_short_last_one_is_filled_up():
    white, black = np.full((3, 8, 8, 1), 1.0), np.full((3, 8, 8, 1), -1.0)
    pixels = decoded(figures.picture_rows({"one": white, "two": black}))
    middle = len(pixels) // 2
    assert share_of(pixels[:middle], (255, 255, 255)) > 0.4
    assert share_of(pixels[middle:], (255, 255, 255)) == 0
    short = decoded(figures.picture_rows({"one": white, "two": white[:1]}))
    assert short.shape == pixels.shape
    assert share_of(short[middle:], (255, 255, 255)) > 0.1
    assert share_of(short[middle:], (0, 0, 0)) > 0.2


@pytest.mark.parametrize(
    "rows",
    [
        {},
        {"one": np.zeros((0, 8, 8, 1))},
        {"one": np.zeros((2, 8, 8, 1)), "two": np.zeros((3, 8, 8, 1))},
        {"one": np.zeros((2, 8, 8, 1)), "two": np.zeros((2, 9, 9, 1))},
    ],
)
def test_rows_that_do_not_fit_are_refused(rows):
    with pytest.raises(errors.InputError, match="expected at"):
        figures.picture_rows(rows)


def test_progress_strip_has_a_column_a_round_and_a_row_a_sample():
    rng = np.random.default_rng(0)
    one = decoded(figures.progress_strip([1, 5], rng.uniform(-1, 1, (2, 8, 8, 1))))
    three = decoded(figures.progress_strip([1, 5], rng.uniform(-1, 1, (2, 3, 8, 8, 1))))
    assert three.shape[1] == one.shape[1]
    assert three.shape[0] > 2 * one.shape[0]


def test_curves_draw_series_and_levels_and_leave_gaps():
    drawn = figures.curves(
        {"attack": ([1, 2, 3, 4], [0.1, None, 0.5, 0.75]), "once": ([2], [0.3])},
        "similarity",
        levels={"floor": 0.25, "reference": None},
        ylimits=(0, 1),
    )
    (axes,) = drawn.axes
    attack, once, floor = axes.lines
    np.testing.assert_array_equal(attack.get_ydata(), [0.1, np.nan, 0.5, 0.75])
    assert once.get_marker() == "o"  # A line of one point could not be seen.
    assert list(floor.get_ydata()) == [0.25, 0.25]
    (legend,) = drawn.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["attack", "once", "floor 0.25"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("similarity", "round")
    assert decoded(drawn).size > 0


def test_background_is_transparent_and_png_is_repeatable():
    def drawn():
        return figures.curves({"a": ([1, 2], [0, 1])}, "loss")

    assert decoded(drawn())[0, 0, 3] == 0
    assert figures.png(drawn()) == figures.png(drawn())


def test_save_is_atomic_and_leaves_nothing_beside(tmp_path, monkeypatch):
    path = tmp_path / "figures" / "loss.png"
    drawn = figures.curves({"a": ([1, 2], [0, 1])}, "loss")
    saved = figures.save(drawn, path)
    assert path.read_bytes() == saved == figures.png(drawn)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        figures.save(figures.curves({"b": ([1, 2], [1, 0])}, "loss"), path)
    monkeypatch.undo()
    assert path.read_bytes() == figures.png(drawn)
    assert list(path.parent.iterdir()) == [path]


def test_a_few_chosen_values_are_named_on_the_axis():
    series = {"best": ([100, 10000], [0.1, 0.2]), "ascent": ([10, 100], [0.3, 0.4])}
    drawn = figures.curves(series, "recovered", few=True, logarithmic=True)
    (axes,) = drawn.axes
    assert axes.get_xscale() == "log"
    assert list(axes.get_xticks()) == [10, 100, 10000]
    names = [tick.get_text() for tick in axes.get_xticklabels()]
    assert names == ["10", "100", "10000"]
    assert [line.get_marker() for line in axes.lines] == ["o", "o"]
    (axes,) = figures.curves(series, "recovered").axes
    assert axes.get_xscale() == "linear"
    assert [line.get_marker() for line in axes.lines] == ["None", "None"]


def test_many_series_with_long_names_stay_apart_and_inside():
    series = {f"embeddings, d = {2**n}, control": ([n], [0.1 * n]) for n in range(9)}
    drawn = figures.curves(series, "recovered", levels={"floor": 0.0}, few=True)
    decoded(drawn)
    (axes,), [legend] = drawn.axes, drawn.legends
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines[:9]}
    assert len(looks) == 9
    place = legend.get_window_extent()
    assert 0 <= place.x0 and place.x1 <= drawn.bbox.x1
    # Short names are in three columns as before.
    few = figures.curves({name: ([1, 2], [0, 1]) for name in "abcd"}, "loss")
    assert few.legends[0]._ncols == 3


def test_bad_input():
    images = np.zeros((2, 8, 8, 1))
    with pytest.raises(errors.InputError, match="do not pair"):
        figures.reconstruction_grid(images, images[:1])
    with pytest.raises(errors.InputError, match="do not pair"):
        figures.progress_strip([1], images)
    with pytest.raises(errors.InputError, match="no curve"):
        figures.curves({}, "loss")
    with pytest.raises(errors.InputError, match="3 xs and 2 ys"):
        figures.curves({"a": ([1, 2, 3], [1, 2])}, "loss")


def test_the_frontier_is_what_no_other_point_beats():
    points = {
        "bare": (0.9, 0.8, None),
        "cheap": (0.9, 0.3, None),
        "strong": (0.6, 0.0, None),
        "worse": (0.6, 0.2, None),
        "twin": (0.6, 0.0, None),
    }
    assert figures.undominated(points) == ["strong", "twin", "cheap"]


def test_the_frontier_joins_points_and_cuts_long_intervals():
    points = {
        "none": (0.9, 0.8, (0.7, 0.9)),
        "noise": (0.6, 0.1, (-20.0, 20.2)),
        "keys": (0.8, 0.3, None),
    }
    drawn = figures.frontier(points, "task accuracy", "recovered")
    [axes] = drawn.axes
    assert -0.2 < axes.get_ylim()[0] < 0 and 1 < axes.get_ylim()[1] < 1.2
    line = axes.lines[0]
    assert list(line.get_xdata()) == [0.6, 0.8, 0.9]
    assert list(line.get_ydata()) == [0.1, 0.3, 0.8]
    [legend] = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == list(points)
    assert decoded(drawn).any()


def test_a_frontier_needs_a_point():
    with pytest.raises(errors.InputError, match="no point to draw"):
        figures.frontier({}, "x", "y")
