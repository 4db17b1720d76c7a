"""Annotations with a file per subset: text files and JSON of the same actions give the same ground truth."""

from __future__ import annotations

import json
import os
import pathlib

import numpy as np
import pytest

from actloc_jax.data.annotation_folder import read_annotation_folder

REAL = pathlib.Path(os.environ.get("ACTLOC_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data")) / "thumos14"
ROWS = {
    "val": {"Diving": [("v1", 1.0, 2.0)], "Archery": [("v2", 0.5, 3.0)], "Ambiguous": [("v2", 4.0, 5.0)]},
    "test": {"Archery": [("t1", 3.0, 4.5)], "Ambiguous": [("t1", 5.0, 6.0), ("t2", 1.0, 2.0)]},
}


def write_text(folder: pathlib.Path) -> None:
    """`<subset>/<class>_<subset>.txt`."""
    for subset, classes in ROWS.items():
        (folder / subset).mkdir(parents=True)
        for name in ("Diving", *classes):
            rows = classes.get(name, [])
            text = "".join(f"{video}  {start} {end}\n" for video, start, end in rows)
            (folder / subset / f"{name}_{subset}.txt").write_text(text)


def write_json(folder: pathlib.Path) -> None:
    """`<subset>.json`, as TALLFormer's converter does: the file of ambiguous regions is left out of the test set."""
    for subset, classes in ROWS.items():
        database = {}
        for name, rows in classes.items():
            for video, start, end in rows if (subset, name) != ("test", "Ambiguous") else []:
                entry = database.setdefault(video, {"annotations": [], "duration": 10.0, "subset": subset})
                entry["annotations"].append({"segment": [start, end], "label": name})
        (folder / f"{subset}.json").write_text(
            json.dumps({"database": database, "taxonomy": [], "version": "THUMOS14"})
        )


def test_text_and_json_give_the_same_actions(tmp_path: pathlib.Path) -> None:
    write_text(tmp_path)
    text, problems = read_annotation_folder(tmp_path, ["val", "test"])
    assert (text.class_names, problems) == (("Archery", "Diving"), [])
    write_json(tmp_path)
    both, problems = read_annotation_folder(tmp_path, ["val", "test"])  # of the two JSON is read, it has durations
    assert (both.class_names, problems) == (text.class_names, [])
    for name in ("v1", "v2", "t1"):
        np.testing.assert_array_equal(both.videos[name].segments, text.videos[name].segments)
        np.testing.assert_array_equal(both.videos[name].labels, text.videos[name].labels)
        assert (both.videos[name].duration, text.videos[name].duration) == (10, np.inf)


def test_ambiguous_regions_are_never_ground_truth_and_classes_with_a_stay(tmp_path: pathlib.Path) -> None:
    write_text(tmp_path)
    read, _ = read_annotation_folder(tmp_path, ["val", "test"])
    assert "Ambiguous" not in read.class_names
    assert read.videos["v2"].segments.tolist() == [[0.5, 3]]
    assert read.videos["v2"].ambiguous.tolist() == [[4, 5]]
    assert read.videos["t1"].labels.tolist() == [0]  # Archery, although its file begins with A
    assert (len(read.videos["t2"].labels), len(read.videos["t2"].ambiguous)) == (0, 1)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real annotations are not here")
def test_real_annotations_have_the_published_counts(tmp_path: pathlib.Path) -> None:
    link = tmp_path / "text"
    link.mkdir()
    for subset in ROWS:
        (link / subset).symlink_to(REAL / "annotations" / subset)
    text, _ = read_annotation_folder(link, ["val", "test"])
    both, problems = read_annotation_folder(REAL / "annotations", ["val", "test"], class_names=text.class_names)
    assert (len(text.class_names), problems) == (20, [])
    for read in (text, both):
        for subset, videos, actions in (("val", 200, 3007), ("test", 212, 3358)):
            counted = [video for video in read.of_subset(subset) if len(video.labels)]
            assert (len(counted), sum(len(video.labels) for video in counted)) == (videos, actions)
    assert len(text.of_subset("test")) == 213  # one has ambiguous regions alone
    assert sum(len(video.ambiguous) for video in both.of_subset("val")) == 89
    for name, video in both.videos.items():
        assert sorted(map(tuple, video.segments)) == sorted(map(tuple, text.videos[name].segments))
