"""Proposal files and the filter: what is read, what survives, and what is said when nothing does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from actloc_jax.data.proposal_filter import Thresholds, filter_proposals, passed, prior_scores
from actloc_jax.data.proposals import ScoredSegments, fit_problems, read_proposals, write_proposals

CLASSES = ("clap", "jump")


def scored(rows):
    table = np.array(rows, np.float64).reshape(-1, 4)
    return ScoredSegments(table[:, :2], table[:, 2], table[:, 3].astype(np.int32))


VIDEOS = {
    # two that support each other in spite of their classes, one alone, one that is not confident
    "a": scored([[0, 10, 0.9, 0], [1, 10, 0.8, 1], [50, 60, 0.9, 0], [0, 9, 0.1, 0]]),
    "b": scored([]),
    "c": scored([[5, 6, -0.25, 1]]),
}


@pytest.mark.parametrize("name", ["p.json", "p.json.gz"])
def test_what_is_written_is_read_back_in_order(tmp_path, name):
    write_proposals(tmp_path / name, VIDEOS, CLASSES, method="test", extra={"version": "1.3"})
    read = read_proposals(tmp_path / name, CLASSES)
    assert read.method == "test"
    assert list(read.videos) == list(VIDEOS)
    for video, expected in VIDEOS.items():
        for field in ("segments", "scores", "labels"):
            np.testing.assert_array_equal(getattr(read.videos[video], field), getattr(expected, field))
            assert getattr(read.videos[video], field).dtype == getattr(expected, field).dtype
    if name == "p.json":
        content = json.loads((tmp_path / name).read_text())
        assert content["version"] == "1.3"
        assert content["results"]["c"] == [{"label": "jump", "score": -0.25, "segment": [5.0, 6.0]}]


def test_nothing_is_written_for_values_that_json_lacks(tmp_path):
    with pytest.raises(ValueError, match="the scored segments of a hold NaN"):
        write_proposals(tmp_path / "p.json", {"a": scored([[0, np.nan, 1, 0]])}, CLASSES)
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_data_set(tmp_path):
    path = tmp_path / "p.json"
    write_proposals(path, VIDEOS, CLASSES)
    with pytest.raises(
        ValueError, match=r"label 'jump' of 2 proposals .first in a. is not among the 1 classes .*another"
    ):
        read_proposals(path, ("clap",))
    read = read_proposals(path, CLASSES)
    (problem,) = fit_problems(read, {"x": 10.0, "y": 10.0}, path=path)
    assert problem.severity == "error"
    assert "3 videos (a, b, c), none of which is among the 2 videos of this split (x, y)" in problem.message
    problems = fit_problems(read, {"a": 40.0, "x": 10.0}, path=path)
    assert [problem.severity for problem in problems] == ["warning"] * 3
    text = "\n".join(map(str, problems))
    assert "no proposals for 1 of 2 videos (x)" in text
    assert "2 videos (b, c) are not of this split: left out" in text
    assert "video a: 1 proposals begin after its end at 40.00 s, e.g. [50.00, 60.00]" in text
    assert not fit_problems(read, {"a": 100.0, "b": np.inf, "c": np.inf}, path=path)
    turned = read_proposals(path, CLASSES)
    turned.videos["a"].segments[0] = [3, 2]
    assert "1 proposals end before they start" in str(fit_problems(turned, dict.fromkeys("abc", 99.0), path=path)[0])


def test_bad_files(tmp_path):
    path = tmp_path / "p.json"
    with pytest.raises(FileNotFoundError, match="expected scored segments"):
        read_proposals(path, CLASSES)
    path.write_text('{"database": {}}')
    with pytest.raises(ValueError, match=r"holds annotations \('database'\); expected scored segments"):
        read_proposals(path, CLASSES)
    path.write_text('{"results": {"a": [{"label": "clap", "score": "high", "segment": [0, 1]}], "b": 3, "c": []}}')
    with pytest.raises(ValueError, match=r"(?s)2 problems.*video a has .*high.*video b has 3"):
        read_proposals(path, CLASSES)


def test_prior_is_the_sum_of_ious_with_all_others():
    proposals = VIDEOS["a"]
    expected = [9 / 10 + 9 / 10, 9 / 10 + 8 / 10, 0, 9 / 10 + 8 / 10]
    np.testing.assert_allclose(prior_scores(proposals.segments), expected, rtol=1e-6)
    np.testing.assert_allclose(prior_scores(proposals.segments, proposals.labels), [9 / 10, 0, 0, 9 / 10], rtol=1e-6)
    assert prior_scores(np.zeros([0, 2])).shape == (0,)


def test_thresholds_are_reached_by_the_prior_and_exceeded_by_the_score():
    pair = scored([[0, 6, 0.4, 0], [4, 10, 0.5, 0]])  # IoU 2 / 10
    supported, confident = passed(pair, Thresholds(prior=0.2, score=0.4))
    assert supported.tolist() == [True, True]
    assert confident.tolist() == [False, True]


def test_pooled_and_per_class_filters_and_their_report():
    kept, report = filter_proposals(VIDEOS, CLASSES)
    assert {video: proposals.segments.tolist() for video, proposals in kept.items()} == {
        "a": [[0, 10], [1, 10]],
        "b": [],
        "c": [],
    }
    assert (report.videos, report.kept_videos) == (3, 1)
    assert report.proposals.tolist() == [3, 2]
    assert report.kept.tolist() == [1, 1]
    assert report.removed_by_prior.tolist() == [1, 0]
    assert report.removed_by_score.tolist() == [1, 0]
    assert report.removed_by_both.tolist() == [0, 1]
    assert report.describe() == (
        "2 of 5 proposals and 1 of 3 videos survive; removed: 1 only by the IoU score < 0.2, 1 only by the confidence "
        "<= 0.4, 1 by both"
    )
    assert report.table().splitlines()[1].split() == ["clap", "3", "1", "1", "1", "0"]
    report.require_some()
    kept, report = filter_proposals(VIDEOS, CLASSES, per_class=True)
    assert kept["a"].segments.tolist() == [[0, 10]]
    assert report.describe().endswith("; no proposal is left of jump")


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        (
            Thresholds(0.2, 2.0),
            r"0 exceed the confidence 2\.0, 3 reach .*: the confidence threshold 2\.0 removes them all",
        ),
        (
            Thresholds(9.0, 0.4),
            r"3 exceed .*, 0 reach the IoU score 9\.0: the IoU-score threshold 9\.0 removes them all",
        ),
        (Thresholds(9.0, 2.0), "each of the two thresholds removes them all"),
    ],
)
def test_an_empty_result_says_which_threshold_did_it(thresholds, message):
    _, report = filter_proposals(VIDEOS, CLASSES, thresholds)
    with pytest.raises(ValueError, match=r"none of 5 proposals of 3 videos is left.*" + message):
        report.require_some()


def test_two_thresholds_together_or_no_proposals_at_all():
    crossed = {"a": scored([[0, 10, 0.1, 0], [0, 10, 0.1, 0], [50, 60, 0.9, 0]])}
    with pytest.raises(ValueError, match="only the two thresholds together remove them all"):
        filter_proposals(crossed, CLASSES)[1].require_some()
    with pytest.raises(ValueError, match="the 1 videos have no proposals"):
        filter_proposals({"b": scored([])}, CLASSES)[1].require_some()
