"""Timelines: the bars are the segments, time is in seconds, the legend holds the classes that occur."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection

from actloc_jax.plotting.svg import timeline_svg
from actloc_jax.plotting.timeline import Row, clock, label_runs, published_file_name, time_ticks, timeline

NAMES = ["background", "take", "open", "pour", "close"]
TRUTH = np.repeat([0, 1, 2, 1], [30, 15, 45, 10])  # 100 frames
ANSWER = np.repeat([0, 3, -1, 2], [30, 10, 20, 40])


def bars(figure):
    """Per row: (start, end, colour) of every bar in seconds."""
    collections = [c for c in figure.axes[0].collections if isinstance(c, PolyCollection)]
    return [
        [(path.vertices[:, 0].min(), path.vertices[:, 0].max(), tuple(colour))
         for path, colour in zip(collection.get_paths(), collection.get_facecolors(), strict=True)]
        for collection in collections
    ]  # fmt: skip


def texts(figure):
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_one_bar_per_segment_at_its_seconds():
    figure = timeline([Row("truth", TRUTH), Row("ours", ANSWER)], NAMES, frame_rate=10.0)
    truth, ours = bars(figure)
    np.testing.assert_allclose([bar[:2] for bar in truth], [(0, 3), (3, 4.5), (4.5, 9), (9, 10)])
    np.testing.assert_allclose([bar[:2] for bar in ours], [(0, 3), (3, 4), (6, 10)])
    assert truth[1][2] == truth[3][2] != truth[2][2], "a class must have one colour"
    assert truth[2][2] == ours[2][2], "also across rows"


def test_names_notes_title_legend_and_unit():
    figure = timeline(
        [Row("ground truth", TRUTH), Row("ours", ANSWER, note="Acc 40.0")], NAMES, frame_rate=10.0, title="S1_Tea"
    )
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["background", "take", "open", "pour"], "classes that do not occur must not be listed"
    assert {"S1_Tea", "ground truth", "ours", "Acc 40.0", "time (s)"} <= set(texts(figure))
    assert figure.axes[-1].get_xlim() == (0.0, 10.0)


def test_wide_bars_carry_their_class_and_narrow_ones_do_not():
    figure = timeline([Row("truth", np.repeat([1, 2], [995, 5]))], NAMES, frame_rate=15.0)
    inside = [text.get_text() for text in figure.axes[0].texts]
    assert inside == ["take"]


def test_long_videos_are_told_in_minutes():
    figure = timeline([Row("truth", np.zeros(15 * 600, int))], NAMES, frame_rate=15.0)
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert labels == [f"{minute}:00" for minute in range(11)]
    assert "time (min:s)" in texts(figure)


def test_confidence_shares_the_time_axis():
    figure = timeline([Row("truth", TRUTH)], NAMES, frame_rate=10.0, confidence={"ours": np.linspace(0, 1, 100)})
    curve = figure.axes[1].lines[0]
    np.testing.assert_allclose(curve.get_xdata()[[0, -1]], [0.05, 9.95])
    assert figure.axes[1].get_xlim() == figure.axes[0].get_xlim() == (0.0, 10.0)


@pytest.mark.parametrize("classes", [11, 19, 48])
def test_legend_stays_inside_the_figure(classes):
    names = [f"action_with_a_name_{index}" for index in range(classes)]
    figure = timeline([Row("truth", np.repeat(np.arange(classes), 3))], names, frame_rate=1.0)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y1 <= figure.axes[0].get_window_extent().y0
    assert len(figure.legends[0].get_texts()) == classes


def test_published_style_draws_lines_in_the_published_colours():
    figure = timeline([Row("Ground Truth", TRUTH), Row("TST", ANSWER)], NAMES, frame_rate=10.0, style="published")
    first, second = figure.axes
    assert [list(line.get_xdata()) for line in first.lines] == [[0, 30], [30, 45], [45, 90], [90, 100]]
    assert len(second.lines) == 3
    np.testing.assert_allclose(first.lines[1].get_color(), [128 / 255, 0, 0])  # class 1
    assert tuple(figure.get_size_inches()) == (15, 2.5)
    assert published_file_name("gtea", 1, "S1_Tea") == "gtea_s1_S1_Tea.png"


@pytest.mark.parametrize(
    ("rows", "style", "message"),
    [
        ([], "default", "at least one row"),
        ([Row("ours", np.array([5]))], "default", "Row 'ours' holds class 5, but there are 5 class names"),
        ([Row("ours", np.array([0]))], "fancy", "Unknown timeline style 'fancy'"),
    ],
)
def test_errors_say_what_is_wrong(rows, style, message):
    with pytest.raises(ValueError, match=message):
        timeline(rows, NAMES, frame_rate=1.0, style=style)


def test_empty_rows_draw_nothing():
    figure = timeline([Row("ours", np.zeros(0, int))], NAMES, frame_rate=1.0)
    assert bars(figure) == [[]]
    assert "<rect" not in timeline_svg([Row("ours", np.zeros(0, int))], NAMES, frame_rate=1.0)


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=50))
def test_runs_are_maximal_and_rebuild_the_labels(labels):
    borders, runs = label_runs(np.array(labels))
    np.testing.assert_array_equal(np.repeat(runs, np.diff(borders)), labels)
    assert (np.diff(borders) > 0).all()
    assert (np.diff(runs) != 0).all()


@given(st.floats(0.2, 50000))
def test_ticks_are_round_few_and_inside(duration):
    ticks = time_ticks(duration)
    assert 2 <= len(ticks) <= 15
    assert ticks[0] == 0
    assert ticks[-1] <= duration + 1e-6
    assert len({clock(tick, duration) for tick in ticks}) == len(ticks), "two ticks read the same"


def test_svg_has_a_bar_with_a_tooltip_per_segment_and_escapes_names():
    svg = timeline_svg([Row("<ours>", ANSWER)], [*NAMES[:3], "p<o>ur", "close"], frame_rate=10.0,
                       confidence=np.ones(100))  # fmt: skip
    assert svg.count("<rect") == 3
    assert "<title>p&lt;o&gt;ur  3.00 to 4.00 s</title>" in svg
    assert "&lt;ours&gt;" in svg
    assert svg.count("<polyline") == 1
    assert re.search(r'<rect x="720.00" y="0" width="400.00"', svg), "frames 60 to 100 of 100 lie at 60% to 100%"
