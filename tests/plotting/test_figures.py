"""Confusion matrix and training curves."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.plotting.confusion import confusion
from actloc_jax.plotting.curves import running_mean, series, training_curves


def test_confusion_rows_are_normalised_and_written_in_percent():
    counts = np.array([[30, 10, 0], [0, 0, 0], [1, 0, 999]])
    figure = confusion(counts, ["take", "open", "pour"], title="split 1")
    axes = figure.axes[0]
    shares = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(shares, [[0.75, 0.25, 0], [np.nan] * 3, [0.001, 0, 0.999]])
    cells = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "75", (0, 1): "25", (2, 2): "100"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["take", "open", "pour"]
    assert axes.get_ylabel() == "ground truth"
    assert axes.get_title() == "split 1"
    assert len(axes.patches) == 1, "the class without ground truth is hatched"


@pytest.mark.parametrize("classes", [11, 19, 48])
def test_confusion_labels_stay_inside_the_figure(classes):
    names = [f"action_number_{index}" for index in range(classes)]
    figure = confusion(np.eye(classes), names)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for artist in (*axes.get_xticklabels(), *axes.get_yticklabels(), axes.yaxis.label, axes.xaxis.label):
        box = artist.get_window_extent()
        assert box.x0 >= 0, artist
        assert box.y0 >= 0, artist
    pitch = axes.get_window_extent().height / classes
    assert pitch > axes.get_yticklabels()[0].get_window_extent().height, "labels of neighbouring rows overlap"


def test_confusion_needs_fitting_names():
    with pytest.raises(ValueError, match=r"2 class names need counts of shape \(2, 2\), found \(3, 3\)"):
        confusion(np.eye(3), ["a", "b"])


def rows(stage, steps, steps_per_epoch=10):
    for step in range(1, steps + 1):
        yield {
            "time": 0.0, "stage": stage, "step": step, "epoch": -(-step // steps_per_epoch),
            "train/loss": 1.0 / step, "train/ce": None if step == 3 else 0.5 / step, "train/grad_norm": 1.0,
            "train/count/labels": 3.0,
            "learning_rate/heads": 1e-3, **({"test/tst/F1@50": 80.0} if step % steps_per_epoch == 0 else {}),
        }  # fmt: skip


def test_curves_have_a_column_per_stage_and_a_panel_per_kind():
    figure = training_curves([*rows("backbone", 8), *rows("refiner", 40)], title="tst_gtea")
    assert [axes.get_ylabel() for axes in figure.axes[:10:2]] == [
        "training loss", "evaluation", "count", "learning rate", "gradient norm",
    ]  # fmt: skip
    assert [axes.get_title() for axes in figure.axes[:2]] == ["backbone", "refiner"]
    losses = {line.get_label(): line for line in figure.axes[1].lines}
    assert set(losses) == {"loss", "ce"}
    np.testing.assert_allclose(losses["loss"].get_xydata()[-1], [40, 1 / 40])
    assert np.isnan(losses["ce"].get_ydata()[2]), "a value that was not finite must leave a gap"
    assert [line.get_label() for line in figure.axes[5].lines] == ["labels"]
    (evaluation,) = figure.axes[3].lines
    assert evaluation.get_label() == "tst/F1@50"
    np.testing.assert_array_equal(evaluation.get_xdata(), [10, 20, 30, 40])
    assert figure.axes[0].get_yscale() == "linear", "losses from 1 to 1/16"
    assert figure.axes[1].get_yscale() == "log"


def test_epochs_stand_above_the_steps():
    figure = training_curves(list(rows("refiner", 40)))
    figure.draw_without_rendering()
    (top,) = figure.axes[0].child_axes
    assert top.get_xlabel() == "epoch"
    np.testing.assert_allclose(np.array(figure.axes[0].get_xlim()) / 10, top.get_xlim())


def test_long_losses_get_their_running_mean():
    figure = training_curves(list(rows("refiner", 400)))
    assert [line.get_label()[0] for line in figure.axes[0].lines] == ["_", "l", "_", "c"]
    noisy = np.tile([0.0, 2.0], 50)
    np.testing.assert_allclose(running_mean(noisy, 10)[5:-5], 1.0)
    np.testing.assert_allclose(running_mean(np.array([1.0, np.nan, 1.0]), 3), 1.0)


def test_series_of_a_scalar_that_some_rows_lack():
    steps, values = series([{"step": 1, "a": 2.0}, {"step": 2}, {"step": 3, "a": None}], "a")
    np.testing.assert_array_equal(steps, [1, 3])
    np.testing.assert_array_equal(values, [2.0, np.nan])


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="no logged scalars"):
        training_curves([])
