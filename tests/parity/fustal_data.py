"""Parity of FuSTAL's training crop, snippet sampling and proposal filter with the original."""

from __future__ import annotations

import random

import numpy as np

from actloc_jax.data import grid
from actloc_jax.data.detection_samples import random_snippets, truncate, uniform_snippets
from actloc_jax.data.proposal_filter import Thresholds, filter_proposals, hull_iou, passed, prior_scores
from actloc_jax.data.proposals import ScoredSegments
from tests.parity.harness import Case, parity


@parity("fustal", "training_crop")
def check_training_crop(case: Case) -> None:
    """Length, start, surviving segments and labels, with the original's random numbers."""
    for name, setting in case.config.items():
        crop = truncate(
            setting["T"],
            case.arrays[f"{name}_in_segments"],
            random.Random(setting["python_random_seed"]).randint,
            max_length=setting["max_seq_len"],
            threshold=setting["trunc_thresh"],
            crop_ratio=setting["crop_ratio"],
        )
        assert (crop.start, crop.length) == (case.arrays[f"{name}_start"], case.arrays[f"{name}_length"]), name
        _close(case, crop.segments, case.arrays[f"{name}_segments"], name)
        labels = case.arrays[f"{name}_in_labels"][crop.kept]
        np.testing.assert_array_equal(labels, case.arrays[f"{name}_labels"], err_msg=name)


@parity("fustal", "generator_sampling")
def check_generator_sampling(case: Case) -> None:
    """Uniform rows, and random ones with the original's random numbers."""
    snippets = case.config["n_segments"]
    for name, expected in case.arrays.items():
        how, rows = name.split("_")
        if how == "uniform":
            found = uniform_snippets(int(rows), snippets)
        else:
            found = random_snippets(int(rows), snippets, np.random.RandomState(int(rows)))
        np.testing.assert_array_equal(found, expected, err_msg=name)


@parity("fustal", "proposal_filter")
def check_proposal_filter(case: Case) -> None:
    """IoU, IoU score, what is kept, and the labels of the student on its grid."""
    thresholds = Thresholds(case.config["iou_thresh"], case.config["score_thresh"])
    videos = [name.removesuffix("_segments_s") for name in case.arrays if name.endswith("_segments_s")]
    assert videos
    for video in videos:
        arrays = {
            name.removeprefix(f"{video}_"): array for name, array in case.arrays.items() if name.startswith(f"{video}_")
        }
        proposals = ScoredSegments(arrays["segments_s"], arrays["scores"], arrays["labels"])
        if "iou_matrix" in arrays:
            overlaps = hull_iou(proposals.segments)
            np.fill_diagonal(overlaps, 0)
            _close(case, overlaps, arrays["iou_matrix"], video)
        _close(case, prior_scores(proposals.segments), arrays["iou_score"], video)
        supported, confident = passed(proposals, thresholds)
        np.testing.assert_array_equal(supported & confident, arrays["keep"], err_msg=video)
        names = [str(label) for label in range(proposals.labels.max(initial=0) + 1)]
        kept, report = filter_proposals({video: proposals}, names, thresholds)
        assert report.kept.sum() == arrays["keep"].sum() == len(kept[video])
        np.testing.assert_array_equal(kept[video].labels, arrays["out_labels"], err_msg=video)
        positions = _student_grid(case, video).to_grid(kept[video].segments)
        _close(case, positions, arrays["out_segments_grid"], video)


def _student_grid(case: Case, video: str) -> grid.Grid:
    """The grid that the case states; the cases of real proposals state only the frame rate of each video."""
    settings = case.config | case.config.get("videos", {}).get(video, {})
    published = grid.thumos14_i3d()
    return grid.Grid(
        settings.get("stride", published.stride), settings.get("num_frames", published.window), settings["fps"]
    )


def _close(case: Case, found: np.ndarray, expected: np.ndarray, name: str) -> None:
    tolerance = case.meta["tolerance"]
    np.testing.assert_allclose(found, expected, rtol=tolerance["rtol"], atol=tolerance["atol"], err_msg=name)
