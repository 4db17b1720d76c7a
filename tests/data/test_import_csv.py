"""A table of segments becomes a data set: what is written, and every problem at once."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from actloc_jax.data.activitynet_json import read_activitynet_json
from actloc_jax.data.feature_manifests import Manifest
from actloc_jax.data.import_csv import Import, import_csv
from actloc_jax.data.problems import find_problems
from actloc_jax.data.segment_csv import parse_time, read_segments, video_name
from actloc_jax.data.segmentation import SegmentationFolder
from tests.data.video_writing import pictures, write_video

RATE = 10.0
TABLE = """video,start,end,label,subset
videos/one.mp4,0:00.5,0:02,pour milk,train
videos/one.mp4,2,3.0,stir,train
two.mp4,0:00:01,1.52,stir,test
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A table and the features of its two videos, 4 and 2 seconds."""
    (tmp_path / "segments.csv").write_text(TABLE)
    (tmp_path / "features").mkdir()
    for name, rows in (("one", 40), ("two", 20)):
        np.save(tmp_path / "features" / f"{name}.npy", np.ones([8, rows], np.float32))
    return tmp_path


def _options(folder: pathlib.Path, task: str = "segmentation", **changes: Any) -> Import:
    fields = {"table": str(folder / "segments.csv"), "root": str(folder / "kitchen"), "task": task}
    if task == "segmentation":
        fields |= {"features": str(folder / "features"), "frame_rate": RATE}
    return Import(**{**fields, **changes})


def _error(folder: pathlib.Path, table: str, task: str = "segmentation", **changes: Any) -> str:
    (folder / "segments.csv").write_text(table)
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        import_csv(_options(folder, task, **{"root": str(folder / "refused"), **changes}))
    assert not (folder / "refused").exists()
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("63.2", 63.2), ("63,2", 63.2), ("1:03.2", 63.2), ("0:01:03,2", 63.2), ("1:00:00", 3600.0)]
)
def test_times_are_seconds_or_clock_times(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1:2:3:4", "nan", "inf"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time; expected seconds \(63.2\)"):
        parse_time(text)


def test_names_lose_folders_and_known_endings() -> None:
    assert video_name(r"C:\clips\a.b.mp4") == "a.b"
    assert video_name("clips/a.b") == "a.b"
    assert video_name("a.npy") == "a"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_spreadsheets_of_other_countries_are_read(tmp_path: pathlib.Path, delimiter: str) -> None:
    table = "\ufeffLabel,Video,START,End\r\n" + '"a, b",one,1,2\r\n\r\n'
    quoted = table.replace(",", delimiter).replace(f"a{delimiter} b", "a, b")
    (tmp_path / "segments.csv").write_text(quoted, newline="")
    videos, problems = read_segments(tmp_path / "segments.csv")
    assert not problems
    assert videos["one"].segments == [(1.0, 2.0, "a, b", 2)]


def test_segmentation_gives_every_frame_the_class_at_its_centre(folder: pathlib.Path) -> None:
    said = import_csv(_options(folder))
    assert "2 videos (1 train, 1 test), 3 segments of 3 classes" in said
    data = SegmentationFolder(folder / "kitchen")
    assert data.class_names == ("background", "pour_milk", "stir")
    np.testing.assert_array_equal(data.labels("one"), np.repeat([0, 1, 2, 0], [5, 15, 10, 10]))
    np.testing.assert_array_equal(data.labels("two"), np.repeat([0, 2, 0], [10, 5, 5]))
    assert data.videos("train", 1) == ["one"]
    assert data.videos("test", 1) == ["two"]
    assert not find_problems(data, "train", 1) + find_problems(data, "test", 1)
    assert "--config.data.num_classes=3" in said
    assert "--config.data.feature_dim=8" in said


def test_detection_keeps_seconds_overlaps_and_names(folder: pathlib.Path) -> None:
    (folder / "segments.csv").write_text(
        "video,start,end,label,subset,duration\none,1,3.5,pour milk,training,9.5\none,2,4,stir,training,9.5\n"
        "two,25,50,stir,testing,8\n"
    )
    import_csv(_options(folder, "detection", times="frames", fps=25.0, features=str(folder / "features")))
    found = read_activitynet_json(folder / "kitchen" / "annotations.json")
    assert found.class_names == ("pour milk", "stir")
    assert (found.videos["two"].subset, found.videos["two"].duration, found.videos["two"].fps) == ("test", 8.0, 25.0)
    np.testing.assert_allclose(found.videos["one"].segments, [[0.04, 0.14], [0.08, 0.16]])
    np.testing.assert_array_equal(found.videos["two"].segments, [[1.0, 2.0]])
    assert (folder / "kitchen" / "features" / "one.npy").exists()


def test_durations_and_rates_come_from_the_videos(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "videos").mkdir()
    for name in ("one", "two", "three"):
        count = 40 if name == "one" else 20
        write_video(folder / "videos" / f"{name}.mp4", pictures(count), list(range(count)), rate=10)
    import_csv(_options(folder, "detection", videos=str(folder / "videos"), root=str(folder / "by_video")))
    found = read_activitynet_json(folder / "by_video" / "annotations.json").videos
    assert found["one"].duration == pytest.approx(4.0)
    assert found["two"].fps == pytest.approx(10.0)
    assert "1 videos of" in capsys.readouterr().err
    said = _error(folder, TABLE, videos=str(folder / "videos"), frame_rate=5.0)
    assert "one: 40 rows of features at 5 per second are 8.0 s, but the video lasts 4.0 s" in said


def test_the_recipe_of_the_features_goes_on_into_the_config(folder: pathlib.Path) -> None:
    made = Manifest({"name": "mstcn_15fps"}, {"name": "one", "sha256": ""}, 40, 15.0, 40, 8, {}, "0")
    made.write(folder / "features" / "one.json")
    assert "--config.data.recipe=mstcn_15fps" in import_csv(_options(folder))
    dataclasses.replace(made, recipe={"name": "cola"}).write(folder / "features" / "two.json")
    said = _error(folder, TABLE)
    assert "features of several recipes (cola, mstcn_15fps); extract all by one" in said


def test_without_a_column_the_subsets_are_drawn_from_the_seed(folder: pathlib.Path) -> None:
    rows = [f"v{number},0,1,act,3\n" for number in range(12)]
    (folder / "segments.csv").write_text("video,start,end,label,duration\n" + "".join(rows))
    drawn = []
    for number, seed in enumerate((0, 0, 1)):
        root = folder / f"drawn_{number}"
        import_csv(_options(folder, "detection", root=str(root), seed=seed))
        videos = read_activitynet_json(root / "annotations.json").videos
        drawn.append([name for name, video in videos.items() if video.subset == "test"])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 3


def test_all_problems_of_a_table_are_reported_at_once(folder: pathlib.Path) -> None:
    said = _error(
        folder,
        "video,start,end,label,subset\none,2,1,stir,train\none,soon,2,stir,train\none,0,1,,train\none,1,2,stir\n"
        "two,0,1,stir,dev\ntwo,0,1.5,stir,test\ntwo,1,2,pour,test\ntwo,0,1,pour,train\nnine,0,1,stir,test\n"
        "one,3,9,stir,train\n",
    )
    for part in (
        "line 2: the segment ends at 1, not after its start 2",
        "line 3: start 'soon' is no time",
        "line 4: no label",
        "line 5: 4 cells, expected 5",
        "line 6: subset 'dev' is unknown; use train, val or test",
        "lines 7 and 8: 'stir' and 'pour' overlap in two from 1 to 1.5 s",
        "line 9: two is of subset train here and of test further up",
        "nine.npy is missing: the features of nine",
        "line 11: the segment from 3 to 9 s lies outside one, which lasts 4.00 s",
    ):
        assert part in said, said


@pytest.mark.parametrize(
    ("table", "changes", "said"),
    [
        ("video,begin,end,label\n", {}, "has no column start; its first line names video, begin, end, label"),
        ("video,start,end,label\n", {}, "no segments"),
        (TABLE, {"frame_rate": None}, "segmentation needs --frame-rate"),
        (TABLE, {"features": None}, "segmentation needs --features or --videos"),
        (TABLE, {"times": "frames"}, "times are frames, but the frame rate is unknown; give --fps"),
        (TABLE, {"task": "detection", "features": None}, "its duration is unknown; give --videos"),
        (TABLE, {"test_share": 0.0}, "--test-share=0.0 must be between 0 and 1"),
        (TABLE.replace(",test", ",train"), {}, "no video is of subset test"),
        (TABLE.replace(",test", ","), {}, "1 videos have no subset, e.g. two; give all or none"),
    ],
)
def test_what_is_missing_is_said(folder: pathlib.Path, table: str, changes: dict[str, Any], said: str) -> None:
    assert said in _error(folder, table, **changes)


def test_a_data_set_is_not_overwritten(folder: pathlib.Path) -> None:
    import_csv(_options(folder))
    with pytest.raises(ValueError, match=r"kitchen has groundTruth, mapping.txt, splits already; choose another"):
        import_csv(_options(folder))


def test_the_command_line_warns_of_unknown_columns_and_ends_in_a_sentence(folder: pathlib.Path) -> None:
    command = [
        sys.executable,
        "-m",
        "actloc_jax.data.import_csv",
        str(folder / "segments.csv"),
        str(folder / "kitchen"),
    ]
    command += ["--task=segmentation", f"--features={folder / 'features'}"]
    (folder / "segments.csv").write_text(TABLE.replace("subset", "split"))
    good = subprocess.run([*command, "--frame-rate=10"], capture_output=True, text=True, timeout=60)
    assert good.returncode == 0, good.stderr
    assert "unknown columns 'split' are left out" in good.stderr
    bad = subprocess.run([*command, "--frame-rate=10"], capture_output=True, text=True, timeout=60)
    assert bad.returncode == 1
    assert bad.stderr.startswith("error: ")
    assert "Traceback" not in bad.stderr
