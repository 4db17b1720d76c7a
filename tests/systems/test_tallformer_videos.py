"""The layouts in which a TALLFormer experiment finds its videos and annotations."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data.video_records import write_records
from actloc_jax.systems.tallformer import videos
from configs import tallformer_anet, tallformer_thumos
from tests.data.video_writing import pictures, write_images

NAMES = ("swim", "climb", "row")


def _activitynet(root: pathlib.Path, **changes: Any) -> ConfigDict:
    """TALLFormer's own files of ActivityNet: numbered classes, segments in frames, images at a rate of each video.

    The first video lasts 100 s and was lowered to 24 frames, the second is short and kept its rate.
    """
    entries = {
        "v_long": ("training", 0.24, 100.0, 24, [(6, 12, 2), (12, 18, 2)]),
        "v_short": ("training", 4.0, 5.0, 20, [(0, 10, 3)]),
        "v_other": ("validation", 0.5, 30.0, 15, [(3, 9, 1)]),
    }
    info = {}
    for name, (subset, fps, duration, frames, rows) in entries.items():
        write_images(root / "frames" / name, pictures(frames, 24, 24))
        listed = [{"start_frame": start, "end_frame": end, "label_id": label} for start, end, label in rows]
        info[name] = {
            "subset": subset, "frame_num": frames, "fps": fps, "duration": duration, "annotations": listed
        }  # fmt: skip
    (root / "video_info_train_val.json").write_text(json.dumps(info))
    (root / "action_name.txt").write_text("".join(f"{name}\n" for name in NAMES))
    config = tallformer_anet.get_config()
    config.data.update(
        {"root": str(root), "videos": "frames", "annotations": "video_info_train_val.json", "first_label_id": 1,
         "classes": "action_name.txt", "frame_size": (24, 24), "max_frames": 24} | changes
    )  # fmt: skip
    config.clip.update({"frames": 32, "chunk": 8, "crop": (16, 16)})
    return config


def test_activitynet_as_decoded_frames_at_a_rate_of_each_video(tmp_path: pathlib.Path) -> None:
    dataset = videos.open_dataset(_activitynet(tmp_path), epath.Path(tmp_path))
    assert (dataset.problems("train"), dataset.problems("test")) == ([], [])
    assert dataset.class_names == NAMES
    source = dataset.source("train")
    assert [frames.fps for frames in source.frames] == [0.24, 4.0]
    long, short = source.record(0), source.record(1)
    np.testing.assert_allclose(long["segments"], [[25, 50], [50, 75]])
    np.testing.assert_allclose(short["segments"], [[0, 2.5]])
    assert (long["labels"].tolist(), short["labels"].tolist()) == ([1, 1], [2])
    assert list(dataset.truth("test")) == ["v_other"]


def test_names_may_leave_out_the_prefix_of_the_files(tmp_path: pathlib.Path) -> None:
    config = _activitynet(tmp_path)
    path = tmp_path / "video_info_train_val.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps({name.removeprefix("v_"): entry for name, entry in entries.items()}))
    source = videos.open_dataset(config, epath.Path(tmp_path)).source("train")
    assert (source.record(0)["video"], source.lengths) == ("long", (24, 20))


def test_the_same_videos_in_array_record_files(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("array_record", reason="ArrayRecord is not built for every platform")
    config = _activitynet(tmp_path)
    plain = videos.open_dataset(config, epath.Path(tmp_path)).source("train")
    write_records(tmp_path / "frames", tmp_path / "records")
    config.data.videos = "records"
    recorded = videos.open_dataset(config, epath.Path(tmp_path)).source("train")
    assert recorded.problems() == []
    for position in range(len(plain)):
        here, there = recorded.record(position), plain.record(position)
        assert here["frames"].fps == there["frames"].fps
        np.testing.assert_array_equal(here["frames"].read(0, 9), there["frames"].read(0, 9))
        np.testing.assert_array_equal(here["segments"], there["segments"])
    config.data.fps = 5.0
    inputs = videos.open_inputs(config, {}, [str(tmp_path / "records")])
    assert [inputs.record(position)["video"] for position in range(3)] == ["v_long", "v_other", "v_short"]


def test_thumos14_as_the_original_lays_it_out(tmp_path: pathlib.Path) -> None:
    """Frames and annotations of each subset in a folder and a file of its own."""
    (tmp_path / "annotations").mkdir()
    for subset, label in (("val", "Diving"), ("test", "Shotput")):
        write_images(tmp_path / "frames" / subset / f"video_{subset}_1", pictures(30, 24, 24))
        rows = [{"segment": [0.2, 1.0], "label": label}, {"segment": [1.2, 1.5], "label": "Ambiguous"}]
        database = {f"video_{subset}_1": {"annotations": rows, "duration": 2.0, "subset": subset}}
        (tmp_path / "annotations" / f"{subset}.json").write_text(json.dumps({"database": database}))
    config = tallformer_thumos.get_config()
    config.data.update({"root": str(tmp_path), "videos": "frames/{subset}", "frame_size": (24, 24)})
    config.clip.crop = (16, 16)
    dataset = videos.open_dataset(config, epath.Path(tmp_path))
    assert (dataset.problems("train"), dataset.problems("test")) == ([], [])
    assert dataset.class_names == ("Diving", "Shotput")
    for split, name, label in (("train", "video_val_1", 0), ("test", "video_test_1", 1)):
        record = dataset.source(split).record(0)
        assert (record["video"], len(record["frames"]), record["labels"].tolist()) == (name, 30, [label])
        np.testing.assert_array_equal(dataset.truth(split)[name].segments, [[0.2, 1.0]])
    config.data.train_subsets = "val,test"
    with pytest.raises(ValueError, match="one folder per subset, but a split has the subsets val, test"):
        videos.open_dataset(config, epath.Path(tmp_path)).problems("train")


def test_what_is_left_out_is_scored_beside_the_rest(tmp_path: pathlib.Path) -> None:
    config = _activitynet(tmp_path, missing_videos="skip", test_subsets="validation,training")
    for path in (tmp_path / "frames" / "v_long").iterdir():
        path.unlink()
    dataset = videos.open_dataset(config, epath.Path(tmp_path))
    (problem,) = dataset.problems("test")
    assert problem.severity == "warning"
    assert "1 of 3 videos are missing or cannot be read: v_long (of the first: " in problem.message
    assert list(dataset.truth("test")) == ["v_short", "v_other"]
    assert list(dataset.also_scored("test")) == ["all 3 annotated videos"]
    assert list(dataset.also_scored("test")["all 3 annotated videos"]) == ["v_long", "v_short", "v_other"]
    assert len(dataset.source("train")) == 1
    config.data.missing_videos = "error"
    assert videos.open_dataset(config, epath.Path(tmp_path)).also_scored("test") == {}
