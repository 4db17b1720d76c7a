"""Figures of unsupervised segmentation: what is drawn where, in which colour, and that no text overlaps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from actloc_jax.plotting import clusters
from actloc_jax.plotting.confusion import contingency
from actloc_jax.plotting.timeline import Row

NAMES = ["background", "take", "pour", "stir"]
LONG_NAMES = [f"connect_wire_{index}_to_motherboard" for index in range(22)]


def bars_of(axes):
    """(row, label) -> spans (start, end) and colour of every collection of bars."""
    found = {}
    for collection in axes.collections:
        if ": " in collection.get_label():
            boxes = [path.get_extents() for path in collection.get_paths()]
            found[tuple(collection.get_label().split(": "))] = (
                [(box.x0, box.x1) for box in boxes],
                tuple(collection.get_facecolor()[0]),
                collection.get_hatch(),
            )
    return found


def assert_no_overlap(figure, texts):
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second), (first, second)
    width, height = figure.get_size_inches() * figure.dpi
    for box in boxes:
        assert -1 <= box.x0 <= box.x1 <= width + 1
        assert -1 <= box.y0 <= box.y1 <= height + 1


def test_rename_keeps_unmatched_clusters_apart_from_classes():
    labels = np.array([0, 2, 1, -1, 5])
    np.testing.assert_array_equal(clusters.rename_clusters(labels, {0: 3, 1: 0, 9: 2}, 4), [3, 6, 0, -1, 9])


def test_colours_of_more_labels_than_published_repeat():
    assert clusters.published_colour(41, 48) == clusters.published_colour(1, 48)
    assert clusters.published_colour(-1, 5) == (0, 0, 0, 1)


def test_bars_show_clusters_as_their_matched_classes():
    truth = np.repeat([-1, 1, 3], [10, 20, 30])
    predicted = np.repeat([7, 2, 0], [10, 25, 25])  # 2 -> take, 0 -> stir, 7 unmatched
    figure = clusters.segmentation_bars(
        truth, [Row("ASOT", predicted)], {2: 1, 0: 3}, NAMES, title="clip", frame_rate=10.0, classes=[0]
    )
    bars = bars_of(figure.axes[0])
    spans = {key: value[0] for key, value in bars.items()}
    assert spans == {
        ("ground truth", "not evaluated"): [(0, 1)],
        ("ground truth", "take"): [(1, 3)],
        ("ground truth", "stir"): [(3, 6)],
        ("ASOT", "cluster 7"): [(0, 1)],
        ("ASOT", "take"): [(1, 3.5)],
        ("ASOT", "stir"): [(3.5, 6)],
    }
    colours = {key: value[1] for key, value in bars.items()}
    assert colours["ground truth", "not evaluated"] == (0, 0, 0, 1)
    assert colours["ASOT", "take"] == colours["ground truth", "take"] == clusters.published_colour(1, 3)
    assert colours["ASOT", "stir"] == clusters.published_colour(2, 3), "third of background, take, stir"
    assert bars["ASOT", "cluster 7"][2], "unmatched clusters are hatched"
    red, green, blue, _ = colours["ASOT", "cluster 7"]
    assert red == green == blue
    legend = [text.get_text() for text in figure.legends[0].texts]
    assert legend == ["take", "stir", "cluster 7", "not evaluated"]
    assert figure.axes[0].get_xlabel() == "time (s)"
    assert figure.axes[0].get_title(loc="left") == "clip"


def test_bars_of_unknown_rate_count_frames_and_mark_every_border():
    labels = np.array([0, 0, 1, 1, 1, 0])
    figure = clusters.segmentation_bars(labels, [Row("a", labels)], {0: 0, 1: 1}, NAMES, frame_rate=0)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "frame"
    assert axes.get_xlim() == (0, 6)
    borders = [c for c in axes.collections if ": " not in c.get_label()]
    assert [[segment[0][0] for segment in lines.get_segments()] for lines in borders] == [[2, 5], [2, 5]]
    assert all(0 < lines.get_linewidth()[0] <= 0.8 for lines in borders)


def test_bars_need_a_prediction():
    with pytest.raises(ValueError, match="at least one row"):
        clusters.segmentation_bars(np.zeros(3, int), [], {}, NAMES, frame_rate=1.0)


@pytest.mark.parametrize("count", [6, 22])
def test_texts_of_bars_do_not_overlap(count):
    truth = np.repeat(np.arange(count), 30)
    predicted = np.roll(truth, 11)
    figure = clusters.segmentation_bars(
        truth, [Row("before transport", predicted[::-1]), Row("ASOT", predicted)],
        {k: k for k in range(count - 3)}, LONG_NAMES[:count], frame_rate=15.0,
    )  # fmt: skip
    axes = figure.axes[0]
    assert_no_overlap(figure, [*axes.texts, *axes.get_yticklabels(), *figure.legends[0].texts, axes.xaxis.label])


def test_assignment_map_lays_clusters_over_time():
    scores = np.zeros([30, 3])
    scores[:20, 1], scores[20:, 2] = 1.0, 0.5
    figure = clusters.assignment_map(scores, title="clip", boundaries=[20], frame_rate=10.0)
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), scores.T)
    assert axes.images[0].get_extent() == [0, 3, 2.5, -0.5]
    assert [line.get_xdata()[0] for line in axes.lines] == [2.0]
    assert to_rgba(axes.lines[0].get_color()) == to_rgba("#c4473d")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cluster 0", "cluster 1", "cluster 2"]
    assert figure.axes[-1].get_ylabel() == "assignment"


def test_long_videos_are_averaged_and_no_frame_is_skipped():
    scores = np.zeros([5292, 2])
    scores[4321, 1] = 1.0
    (image,) = clusters.assignment_map(scores, frame_rate=15.0).axes[0].images
    shown = np.asarray(image.get_array())
    assert shown.shape[1] <= 1200
    assert shown[1].max() >= 1 / 5
    column = shown[1].argmax() / shown.shape[1]
    assert column == pytest.approx(4321 / 5292, abs=1e-3)


def test_before_and_after_share_time_and_colours():
    before, after = np.full([20, 22], 0.04), np.eye(22)[np.arange(20)]
    figure = clusters.assignment_before_after(
        before, after, title="clip", frame_rate=0, cluster_names=LONG_NAMES, names=("affinity", "transport")
    )
    first, second = figure.axes[:2]
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 1)
    assert first.get_shared_x_axes().joined(first, second)
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == ("affinity", "transport")
    np.testing.assert_array_equal(first.images[0].get_array(), before.T)
    np.testing.assert_array_equal(second.images[0].get_array(), after.T)
    assert_no_overlap(figure, [*first.get_yticklabels(), *second.get_yticklabels(), second.xaxis.label])


def test_pairwise_similarity_is_the_cosine():
    embedding = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]])
    axes = clusters.pairwise_similarity(embedding, boundaries=[2], title="clip").axes[0]
    expected = [[1, 0, -1, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(axes.images[0].get_array(), expected, atol=1e-12)
    assert axes.lines[0].get_xdata()[0] == 2
    assert axes.lines[1].get_ydata()[0] == 2


@pytest.mark.parametrize(("count", "written"), [(12, 144), (13, 0)])
def test_cluster_similarity_writes_values_of_few_clusters(count, written):
    rng = np.random.default_rng(0)
    figure = clusters.cluster_similarity(rng.normal(size=[count, 5]), LONG_NAMES[:count])
    axes = figure.axes[0]
    assert len(axes.texts) == written
    assert_no_overlap(figure, [*axes.texts, *axes.get_yticklabels()])
    np.testing.assert_allclose(np.diag(axes.images[0].get_array()), 1)


def test_principal_plane_finds_the_largest_variances():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=[5, 5]))[0]
    embedding = rng.normal(size=[200, 5]) * [5.0, 0.1, 2.0, 0.1, 0.1] @ basis.T + 7
    mean, axes, shares = clusters.principal_plane(embedding)
    covariance = np.cov(embedding.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(mean, embedding.mean(axis=0))
    np.testing.assert_allclose(np.abs((axes * vectors[:, [-1, -2]]).sum(axis=0)), 1, atol=1e-9)
    np.testing.assert_allclose(shares, values[[-1, -2]] / values.sum())
    assert (axes[np.abs(axes).argmax(axis=0), [0, 1]] > 0).all(), "signs must not depend on the SVD"


def test_embedding_map_of_one_frame_or_one_channel():
    _, axes, shares = clusters.principal_plane(np.ones([1, 3]))
    assert shares.tolist() == [0, 0]
    assert np.isfinite(axes).all()
    clusters.embedding_map(np.arange(4.0)[:, None], np.zeros(4, int), np.ones([1, 1]), ["a"]).draw_without_rendering()


def test_embedding_map_colours_labels_and_names_centres():
    rng = np.random.default_rng(1)
    centres = np.array([[9.0, 0, 0], [-9.0, 0, 0], [0, 6.0, 0], [np.nan] * 3, [9.0, 0.01, 0]])
    labels = np.repeat([3, 1, -1], 20)
    embedding = np.repeat(centres[:3], 20, axis=0) + 0.1 * rng.normal(size=[60, 3])
    axes = clusters.embedding_map(embedding, labels, centres, NAMES, title="clip").axes[0]
    groups = {group.get_label(): group for group in axes.collections}
    assert list(groups) == ["not evaluated", "take", "stir", "cluster centre"]
    assert tuple(groups["stir"].get_facecolor()[0][:3]) == clusters.published_colour(1, 2)[:3]
    mean, plane, shares = clusters.principal_plane(embedding)
    np.testing.assert_allclose(groups["stir"].get_offsets(), (embedding[:20] - mean) @ plane)
    boxes = {text.get_text(): text.xy for text in axes.texts}
    assert set(boxes) == {"0, 4", "1", "2"}, "coinciding centres share a box, an empty cluster has none"
    np.testing.assert_allclose(boxes["1"], (centres[1] - mean) @ plane)
    np.testing.assert_allclose(boxes["0, 4"], (centres[[0, 4]].mean(axis=0) - mean) @ plane)
    assert f"{100 * shares[0]:.0f}%" in axes.get_xlabel()
    assert f"{100 * shares[1]:.0f}%" in axes.get_ylabel()


def test_texts_of_a_crowded_embedding_map_do_not_overlap():
    rng = np.random.default_rng(2)
    centres = rng.normal(size=[22, 8])
    labels = np.repeat(np.arange(22), 10)
    embedding = np.repeat(centres, 10, axis=0) + 0.3 * rng.normal(size=[220, 8])
    figure = clusters.embedding_map(embedding, labels, centres, LONG_NAMES)
    assert_no_overlap(figure, [*figure.axes[0].texts, *figure.legends[0].texts])


def test_contingency_puts_matched_clusters_on_the_diagonal():
    counts = np.array([[0, 0, 30, 10], [20, 5, 0, 0]])
    figure = contingency(counts, ["take", "pour"], ["a", "b", "c", "d"], matching={2: 0, 0: 1}, title="split")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["c", "a", "b", "d"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0, 0, 0.25], [0, 0.8, 0.2, 0]])
    assert [patch.get_xy() for patch in axes.patches] == [(-0.5, -0.5), (0.5, 0.5)]
    with pytest.raises(ValueError, match=r"2 class names and 1 cluster names need .*\(2, 1\), found \(2, 4\)"):
        contingency(counts, ["take", "pour"], ["a"], matching={})
