"""Annotation files: every published variant gives the same content, and bad files are explained."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest

from actloc_jax.data.activitynet_json import parse_activitynet_json, read_activitynet_json, write_activitynet_json
from actloc_jax.data.annotations import Annotations, describe, merge, read_class_names, remove_duplicates
from actloc_jax.data.thumos14_text import read_thumos14_text, read_video_info

ROWS = [(1.5, 4.0, "jump"), (6.25, 9.0, "clap"), (6.25, 9.0, "wave")]
CLASSES = ("wave", "clap", "jump")


def items(**extra):
    return [{"segment": [start, end], "label": label, **extra} for start, end, label in ROWS]


VARIANTS = {
    "activitynet": {"database": {"v": {"subset": "training", "duration": 10, "url": "x", "annotations": items()}}},
    "actionformer": {
        "version": "x",
        "database": {
            "v": {
                "subset": "Training",
                "duration": 10.0,
                "fps": 30.0,
                "annotations": [item | {"label_id": CLASSES.index(item["label"])} for item in items()],
            }
        },
    },
    "opentad": {"database": {"v": {"subset": "training", "duration": 10.0, "frame": 300, "annotations": items()}}},
    "cola": {
        "database": {
            "v": {
                "subset": "training",
                "annotations": [{"segment": [str(s), str(e)], "label": label} for s, e, label in ROWS],
            }
        }
    },
    "afsd": {
        "v": {
            "subset": "training",
            "frame_num": 300,
            "fps": 30,
            "annotations": [
                {"start_frame": 30 * s, "end_frame": 30 * e, "label_id": CLASSES.index(label) + 1}
                for s, e, label in ROWS
            ],
        }
    },
    "bsn": {"v": {"duration_second": 10.0, "duration_frame": 300, "feature_frame": 288, "annotations": items()}},
}
OPTIONS = {
    "cola": {"missing_duration": "unknown", "default_fps": 30},
    "afsd": {"first_label_id": 1},
    "bsn": {"subset_of": {"v": "training"}},
}


def write(path, content):
    text = json.dumps(content)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_variants_give_the_same_annotations(variant, name, tmp_path):
    path = write(tmp_path / name, VARIANTS[variant])
    read = read_activitynet_json(path, class_names=CLASSES, **OPTIONS.get(variant, {}))
    assert read.class_names == CLASSES
    (video,) = read.of_subset("TRAINING", "train")
    assert video.video == "v"
    assert video.duration == (math.inf if variant == "cola" else 10)
    assert video.fps == (None if variant == "activitynet" else 30)
    np.testing.assert_allclose(video.segments, [row[:2] for row in ROWS])
    assert video.segments.dtype == np.float64
    assert video.labels.tolist() == [2, 1, 0]
    assert video.labels.dtype == np.int32


def test_classes_are_numbered_by_ids_else_by_the_alphabet(tmp_path):
    path = tmp_path / "a.json"
    assert read_activitynet_json(write(path, VARIANTS["actionformer"])).class_names == CLASSES
    assert read_activitynet_json(write(path, VARIANTS["activitynet"])).class_names == ("clap", "jump", "wave")


def test_default_frame_rate_wins_over_the_file(tmp_path):
    path = write(tmp_path / "a.json", VARIANTS["actionformer"])
    assert read_activitynet_json(path, default_fps=25.0).videos["v"].fps == 25


def test_ambiguous_regions_are_no_class(tmp_path):
    content = {"database": {"v": {"duration": 9, "annotations": [*items(), {"segment": [0, 1], "label": "Ambiguous"}]}}}
    video = read_activitynet_json(write(tmp_path / "a.json", content)).videos["v"]
    assert video.ambiguous.tolist() == [[0, 1]]
    assert len(video.labels) == 3
    strict = read_activitynet_json(write(tmp_path / "a.json", content), ambiguous_labels=())
    assert strict.class_names == ("Ambiguous", "clap", "jump", "wave")


def test_what_is_written_is_read_back(tmp_path):
    original = read_activitynet_json(write(tmp_path / "a.json", VARIANTS["actionformer"]))
    region = np.array([[0.5, 1.0]])
    video = original.videos["v"].__class__(**(vars(original.videos["v"]) | {"ambiguous": region}))
    unknown = video.__class__(**(vars(video) | {"video": "w", "duration": math.inf, "fps": None}))
    for name in ("b.json", "b.json.gz"):
        write_activitynet_json(Annotations(CLASSES, {"v": video, "w": unknown}), tmp_path / name)
        assert ((tmp_path / name).read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
        read = read_activitynet_json(tmp_path / name, missing_duration="unknown")
        assert read.class_names == CLASSES
        for expected in (video, unknown):
            found = read.videos[expected.video]
            assert (found.subset, found.duration, found.fps) == (expected.subset, expected.duration, expected.fps)
            np.testing.assert_array_equal(found.segments, expected.segments)
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_array_equal(found.ambiguous, region)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json", "b.json.gz"]


def test_all_problems_are_said_at_once_and_the_rest_is_read(tmp_path):
    good = {"duration": 9, "annotations": [{"segment": [1, 2], "label": "clap"}]}
    content = {
        "database": {
            "good": good,
            "short": {"duration": 9, "annotations": [{"segment": [1], "label": "clap"}]},
            "text": {"duration": 9, "annotations": [{"segment": ["a", 2], "label": "clap"}, {"segment": [0, 1]}]},
            "unknown": {"duration": 9, "annotations": [{"segment": [1, 2], "label": "sing"}]},
            "endless": {"annotations": []},
            "negative": {"duration": -3, "annotations": [{"segment": [1, 2], "label": "clap"}]},
            "list": [1],
            "frames": {"duration": 9, "annotations": [{"start_frame": 1, "end_frame": 2, "label": "clap"}]},
        }
    }
    path = write(tmp_path / "a.json", content)
    annotations, problems = parse_activitynet_json(path, class_names=("clap",))
    assert annotations.videos["good"].segments.tolist() == [[1, 2]]
    text = "\n".join(map(str, problems))
    for part in (
        r"video short: segment is [1], expected [start, end]",
        "video text: segment is ['a', 2]",
        "the annotation of segment [0.0, 1.0] has no label",
        "label 'sing' of 1 annotations (first in unknown) is not among the 1 classes (clap)",
        "video endless: it has no duration",
        "video negative: duration is -3, expected a positive number",
        "video list: its entry is [1]",
        "video frames: it has start_frame and end_frame but no fps",
    ):
        assert part in text
    assert len(problems) == 9  # the negative duration also counts as missing
    with pytest.raises(ValueError, match="9 problems with the data"):
        read_activitynet_json(path, class_names=("clap",))


def test_contradicting_ids_are_an_error(tmp_path):
    content = json.loads(json.dumps(VARIANTS["actionformer"]))
    rows = content["database"]["v"]["annotations"]
    rows.append({"segment": [0, 1], "label": "jump", "label_id": 0})
    with pytest.raises(
        ValueError, match=r"1 annotations contradict the others, e\.g\. v has label 'jump' with label_id 0"
    ):
        read_activitynet_json(write(tmp_path / "a.json", content))
    assert read_activitynet_json(tmp_path / "a.json", class_names=CLASSES).videos["v"].labels.tolist() == [2, 1, 0, 2]
    rows[-1] = {"segment": [0, 1], "label": "sing", "label_id": 7}
    with pytest.raises(ValueError, match="label ids 0 to 7, 4 of them, do not number 4 names from 0 without gaps"):
        read_activitynet_json(write(tmp_path / "a.json", content))


def test_unreadable_files_say_what_was_expected(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError, match="does not exist; expected ActivityNet annotations"):
        read_activitynet_json(path)
    path.write_text('{"database": {')
    with pytest.raises(ValueError, match="not a readable JSON file"):
        read_activitynet_json(path)
    whole = gzip.compress(json.dumps(VARIANTS["actionformer"]).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable JSON file"):
        read_activitynet_json(path)
    with pytest.raises(ValueError, match="holds detections or proposals"):
        read_activitynet_json(write(path, {"results": {}}))
    with pytest.raises(ValueError, match="holds no videos"):
        read_activitynet_json(write(path, [1, 2]))
    path.write_text('{"database": {"v": {"duration": 1}, "v": {"duration": 2}}}')
    with pytest.raises(ValueError, match="has video 'v' more than once"):
        read_activitynet_json(path)
    with pytest.raises(ValueError, match="numbers its classes without naming them"):
        read_activitynet_json(write(path, VARIANTS["afsd"]), first_label_id=1)


def test_an_unknown_subset_lists_the_known_ones(tmp_path):
    read = read_activitynet_json(write(tmp_path / "a.json", VARIANTS["activitynet"]))
    with pytest.raises(ValueError, match=r"no video is of subset 'test'; the annotations have 'training' \(1 videos\)"):
        read.of_subset("test")
    assert describe(read) == "training: 1 videos, 3 segments, 0.00 hours"


def test_duplicates_are_removed_once_per_label():
    segments = np.array([[1, 2], [1.0005, 2.0005], [1, 2], [1, 3], [1.01, 2]])
    labels = np.array([0, 0, 1, 0, 0])
    kept, names = remove_duplicates(segments, labels)
    assert kept.tolist() == [[1, 2], [1, 2], [1, 3], [1.01, 2]]
    assert names.tolist() == [0, 1, 0, 0]
    assert len(remove_duplicates(np.zeros([0, 2]), np.zeros(0, int))[1]) == 0


def test_class_lists(tmp_path):
    for name, text in (
        ("a.txt", "Laying tile\nBeer pong\n\n"),
        ("b.txt", "7 Laying tile\n9 Beer pong\n"),
        ("c.csv", "action\nLaying tile\nBeer pong\n"),
        ("d.json", '["Laying tile", "Beer pong"]'),
        ("e.json", '{"Beer pong": 1, "Laying tile": 0}'),
    ):
        (tmp_path / name).write_text(text)
        assert read_class_names(tmp_path / name) == ("Laying tile", "Beer pong"), name
    for text, message in (("", "lists no classes"), ("a\na\n", "lists 'a' more than once")):
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_class_names(tmp_path / "a.txt")
    for text in ('{"a": 1, "b": 2}', '{"a": 0, "b": 0}'):
        (tmp_path / "e.json").write_text(text)
        with pytest.raises(ValueError, match="not by 0 to 1"):
            read_class_names(tmp_path / "e.json")
    with pytest.raises(FileNotFoundError, match="expected the class names"):
        read_class_names(tmp_path / "f.txt")


@pytest.fixture
def thumos(tmp_path):
    """Class files, class list and csv of two videos."""
    for name, text in (
        ("Jump_val.txt", "video_2  1.0 2.5\nvideo_1 0.5 0.75\n"),
        ("Clap_val.txt", "video_1  3.0 4.0\n"),
        ("Jump_test.txt", "video_3  3.0 4.0\n"),
        ("Ambiguous_val.txt", "video_1  7 8\nvideo_9 1 2\n"),
        ("detclasslist.txt", "7 Jump\n9 Clap\n"),
        ("info.csv", "video,fps,sample_fps,count\nvideo_1,30.0,10.0,300.0\n"),
    ):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_thumos14_text_files(thumos):
    read = read_thumos14_text(thumos, "val", video_info=read_video_info(thumos / "info.csv"))
    assert read.class_names == ("Jump", "Clap")
    assert list(read.videos) == ["video_1", "video_2", "video_9"]
    first = read.videos["video_1"]
    assert (first.duration, first.fps, first.subset) == (10.0, 30.0, "val")
    assert first.segments.tolist() == [[0.5, 0.75], [3.0, 4.0]]
    assert first.labels.tolist() == [0, 1]
    assert first.ambiguous.tolist() == [[7, 8]]
    assert (read.videos["video_2"].duration, read.videos["video_2"].fps) == (math.inf, None)
    both = merge(read, read_thumos14_text(thumos, "test"))
    assert both.subsets() == {"val": 3, "test": 1}
    (thumos / "detclasslist.txt").unlink()
    assert read_thumos14_text(thumos, "val").class_names == ("Clap", "Jump")
    with pytest.raises(ValueError, match="cannot merge annotations"):
        merge(read, read_thumos14_text(thumos, "val"))
    with pytest.raises(ValueError, match="3 videos are in both"):
        merge(read, read)


def test_bad_thumos14_text_files(thumos):
    (thumos / "Jump_val.txt").write_text("video_2  1.0\nvideo_1 0.5 x\nvideo_1 nan 2\n\nvideo_1 1 2\n")
    (thumos / "Sing_val.txt").write_text("video_1 1 2\n")
    with pytest.raises(ValueError, match=r"(?s)4 problems.*class 'Sing'.*line 1 is 'video_2  1.0'.*line 2.*line 3"):
        read_thumos14_text(thumos, "val")
    with pytest.raises(FileNotFoundError, match=r"has no files <class>_train\.txt"):
        read_thumos14_text(thumos, "train")
    (thumos / "info.csv").write_text("video,fps\nvideo_1,30.0\n")
    with pytest.raises(ValueError, match="count missing"):
        read_video_info(thumos / "info.csv")
    (thumos / "info.csv").write_text("video,fps,count\nvideo_1,0,3\n")
    with pytest.raises(ValueError, match="line 2"):
        read_video_info(thumos / "info.csv")
