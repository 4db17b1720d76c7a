"""Bad input to TALLFormer ends in one sentence that says what was found, where, what was expected and what to do."""

from __future__ import annotations

import fractions
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from actloc_jax import evaluate, splits, train
from actloc_jax.data.synthetic_video_detection import CLASSES, Settings, write_folder
from actloc_jax.systems.tallformer import settings, videos
from tests.bad_input import prediction_error, training_error, write_untrained
from tests.data.video_writing import pictures, write_images, write_video
from tests.tiny import tiny_config, tiny_tallformer

av = pytest.importorskip("av", reason="PyAV is an optional dependency")

VIDEOS = Settings(train_videos=3, test_videos=1, min_frames=40, max_frames=60, side=20)
FIRST, SECOND, THIRD = (f"video_train_00{number}" for number in range(3))


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A good data folder, to be spoilt: 3 training videos and one for testing, of 4 to 6 seconds."""
    return pathlib.Path(write_folder(tmp_path / "data", VIDEOS))


def _config(root: pathlib.Path, name: str = "tallformer_thumos", **changes: Any) -> ConfigDict:
    return tiny_tallformer(name, **{"data__source": "folder", "data__root": str(root), **changes})


def _error(config: ConfigDict, workdir: pathlib.Path) -> str:
    said = training_error(config, workdir)
    assert not list(workdir.glob("bank/*.npy"))  # nothing has been computed yet
    return said


def _replace(folder: pathlib.Path, video: str, suffix: str) -> pathlib.Path:
    """Takes a video away, and says where another one would lie."""
    (folder / "videos" / f"{video}.npy").unlink()
    return folder / "videos" / f"{video}{suffix}"


def _film(path: pathlib.Path, frames: int = 50) -> pathlib.Path:
    write_video(path, pictures(frames, 20, 20), list(range(frames)), rate=10)
    return path


def _audio_only(path: pathlib.Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros([1, 8000], np.int16), format="s16", layout="mono")
        frame.rate, frame.pts, frame.time_base = 8000, 0, fractions.Fraction(1, 8000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _without_rate(path: pathlib.Path) -> None:
    with av.open(str(path), "w", format="m4v") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = 20, 20, "yuv420p"
        for picture in pictures(5, 20, 20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _annotations(folder: pathlib.Path, change: Any) -> None:
    """Changes the entry of the first video in the annotation file."""
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    change(content["database"][FIRST])
    path.write_text(json.dumps(content))


# --------------------------------------------------------------------------------------------------------- the videos


def test_missing_folders(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    said = _error(_config(tmp_path / "nowhere"), tmp_path / "run")
    for part in (f"the data folder {tmp_path / 'nowhere'} does not exist", "annotations.json", "<video>.mp4", ":demo"):
        assert part in said
    said = _error(_config(folder, data__videos="films"), tmp_path / "run2")
    assert said.count(f"{folder / 'films'} does not exist; expected a folder of videos") == 2  # train and test
    said = _error(_config(folder, data__annotations="labels.json"), tmp_path / "run3")
    assert f"{folder / 'labels.json'} does not exist; expected ActivityNet annotations" in said


def test_all_videos_that_cannot_be_read_are_named_together(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    whole = _film(tmp_path / "whole.mkv")
    cut = _replace(folder, FIRST, ".mkv")
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    text = _replace(folder, SECOND, ".mp4")
    text.write_text("no video")
    sound = _replace(folder, THIRD, ".mkv")
    _audio_only(sound)
    gone = _replace(folder, "video_test_003", ".mp4")
    said = _error(_config(folder), tmp_path / "run")
    assert "4 problem(s)" in said
    assert f"{cut} ends after" in said
    assert "it is truncated. Copy it again." in said
    assert f"{text} cannot be read as a video" in said
    assert f"{sound} has no video stream; expected a video file" in said
    assert f"{gone.parent} has no video video_test_003; expected video_test_003.mp4" in said


def test_videos_of_an_unknown_rate(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    raw = _replace(folder, FIRST, ".m4v")
    _without_rate(raw)
    images = _replace(folder, SECOND, "")
    write_images(images, pictures(50, 20, 20))
    content = json.loads((folder / "annotations.json").read_text())
    for name in ("duration", "fps"):
        del content["database"][SECOND][name]
    content["database"][THIRD]["duration"] = 200.0
    (folder / "annotations.json").write_text(json.dumps(content))
    said = _error(_config(folder, data__fps=0.0), tmp_path / "run")
    assert f"{raw} does not say when its 5 frames are shown, so its frame rate is unknown" in said
    assert "ffmpeg -r <fps>" in said
    assert f"video {SECOND} is 50 decoded frames, and its annotation has neither a duration nor fps" in said
    assert f"video {THIRD} is" in said
    assert "says 200.00 s at 10 fps, which is 2000; extract them again" in said


def test_annotations_beyond_the_end_of_their_video(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    _annotations(folder, lambda entry: entry["annotations"][0].update({"segment": [1.0, 99.0]}))
    said = _error(_config(folder), tmp_path / "run")
    assert f"video {FIRST} is" in said
    assert "1 of its segments end later, e.g. 1.00 to 99.00" in said
    assert "clip them with --config.data.open_ended=True" in said


def test_a_damaged_image_in_the_middle(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """It is found when it is read: the message names it and what is done so far stays."""
    images = _replace(folder, FIRST, "")
    write_images(images, pictures(50, 20, 20))
    (images / "00020.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"{images / '00020.png'} cannot be read as an image"):
        splits.each(_config(folder), tmp_path / "run", train.train)


def test_frames_of_another_size_and_videos_that_are_too_long(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    said = _error(_config(folder, data__frame_size=(24, 24)), tmp_path / "run")
    assert f"{folder / 'videos' / FIRST}.npy has frames of 20x20, expected 24x24" in said
    images = _replace(folder, FIRST, "")
    write_images(images, pictures(140, 20, 20))
    said = _error(_config(folder, "tallformer_anet"), tmp_path / "run2")
    assert f"video {FIRST} has 140 frames at 10 fps, but this detector reads whole videos of at most 128" in said


@pytest.mark.parametrize("name", ["tallformer_thumos", pytest.param("tallformer_anet", marks=pytest.mark.slow)])
def test_videos_that_are_missing_or_shorter_than_a_window_work(
    name: str, folder: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All videos have less than half of the 128 frames of a window, the first is one chunk and a bit."""
    path = folder / "videos" / f"{FIRST}.npy"
    np.save(path, np.load(path)[:19])
    (folder / "videos" / f"{SECOND}.npy").unlink()
    _annotations(folder, lambda entry: entry["annotations"].__setitem__(slice(1, None), []))
    _annotations(folder, lambda entry: entry["annotations"][0].update({"segment": [0.3, 1.5]}))
    content = json.loads((folder / "annotations.json").read_text())
    content["database"]["gone"] = content["database"]["video_test_003"]
    (folder / "annotations.json").write_text(json.dumps(content))
    config = _config(folder, name, data__missing_videos="skip")
    scores = splits.each(config, tmp_path / "run", train.train)
    assert set(scores) == {"TALLFormer", "TALLFormer, all 2 annotated videos"}
    assert len(np.load(tmp_path / "run" / "bank" / f"{FIRST}.npy")) == 16  # two chunks
    messages = [line for line in caplog.messages if "left out" in line]
    assert any(
        f"[train] 1 of 3 videos are missing or cannot be read: {SECOND} (of the first: " in line for line in messages
    )
    assert any("[test] 1 of 2 videos are missing or cannot be read: gone" in line for line in messages)
    assert np.isfinite(list(scores["TALLFormer"].values())).all()


# ------------------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__source": "cloud"}, "config.data.source='cloud' is unknown; use folder or synthetic"),
        ({"data__missing_videos": "ignore"}, 'missing_videos=\'ignore\' is unknown; use "error" or "skip"'),
        ({"data__train_subsets": "training"}, "no video is of subset 'training'; the annotations have 'train'"),
        ({"network__kind": "points"}, "config.network.kind='points' is unknown; use anchors or afsd"),
        ({"network__backbone__size": "huge"}, "config.network.backbone.size='huge' is unknown; use"),
        ({"network__backbone": ConfigDict({"size": "tiny", "widht": 8})}, "backbone has no field widht; it has"),
        ({"network__backbone_weights": "/nowhere"}, "/nowhere"),
        ({"memory__keep_ratio": 0.05}, "none of the 8 chunks of a clip"),
        ({"memory__choice": "best"}, "chunks are chosen by one of random, uniform, jitter, distinct_jitter"),
        ({"clip__frames": 100}, "windows of 100 frames must be whole chunks of 16"),
        (
            {"clip__crop": (32, 32)},
            "3 of 3 videos have frames smaller than the crop 32x32 (height x width), e.g. video",
        ),
        ({"train__dtype": "float16"}, "config.train.dtype='float16' is unknown; use float32 or bfloat16"),
        ({"train__batch_size": 0}, "config.train.batch_size=0 must be at least 1"),
        ({"decode__suppression": "lb_nms"}, "config.decode.suppression='lb_nms' is unknown; use nmw, nms, soft_linear"),
        ({"decode__classifier": "cuhk"}, "config.decode.classifier='cuhk' is unknown; use own, external, truth"),
        ({"decode__classifier": "external"}, "needs a file with another model's scores of whole videos"),
    ],
)
def test_options_that_cannot_be_used(
    folder: pathlib.Path, tmp_path: pathlib.Path, changes: dict[str, Any], said: str
) -> None:
    """None of them is found out after something was computed."""
    assert said in _error(_config(folder, **changes), tmp_path / "run")


def test_scores_of_whole_videos_that_cannot_be_used(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "scores.json"
    external = {"decode__classifier": "external", "decode__video_scores": str(path)}
    said = _error(_config(folder, "tallformer_anet", **external), tmp_path / "run")
    assert f"{path} does not exist; expected scores of whole videos" in said
    path.write_text(json.dumps({"results": {"v_else": [0.5, 0.3, 0.2]}, "class": list(CLASSES)}))
    said = _error(_config(folder, "tallformer_anet", **external), tmp_path / "run2")
    assert (
        f"[test] {path} has scores of 1 videos, but not of 1 of the 1 that are predicted, e.g. video_test_003" in said
    )
    path.write_text(json.dumps({"results": {"video_test_003": [1.0]}, "class": ["juggle"]}))
    said = _error(_config(folder, "tallformer_anet", **external), tmp_path / "run3")
    assert f"{path} scores 1 classes that are not among the 3 of the data set, e.g. 'juggle'" in said


# -------------------------------------------------------------------------------------------------------- checkpoints


def _model(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    """A model folder as a training leaves it, without the training."""
    config = splits.of_split(tiny_tallformer(**changes), "1")
    sizes = settings.detector_sizes(config, len(CLASSES))
    detector = settings.detector_network(config, sizes)
    params = {
        "backbone": settings.backbone_network(config).init(jax.random.key(0)),
        "detector": detector.init(jax.random.key(1)),
    }
    statistics = detector.init_statistics()
    return write_untrained(folder, config, "train", CLASSES, params, batch_stats=statistics, stage_index=1)


def test_own_videos_that_cannot_be_predicted_are_named_together(tmp_path: pathlib.Path) -> None:
    model, inputs, out = _model(tmp_path / "model", data__fps=0.0), tmp_path / "inputs", tmp_path / "out"
    inputs.mkdir()
    (inputs / "text.mp4").write_text("no video")
    _audio_only(inputs / "sound.mkv")
    write_images(inputs / "images", pictures(5, 20, 20))
    _film(inputs / "good.mkv")
    said = prediction_error(model, inputs, out=out)
    assert "3 of 4 videos cannot be read" in said
    assert f"{inputs / 'text.mp4'} cannot be read as a video" in said
    assert f"{inputs / 'sound.mkv'} has no video stream" in said
    assert f"{inputs / 'images'} holds decoded frames, and it is not known how many of them are a second" in said
    assert f"{inputs / 'nowhere'} does not exist" in prediction_error(model, inputs / "nowhere", out=out)
    with_truth = tiny_tallformer(decode__classifier="truth")
    said = prediction_error(model, inputs / "good.mkv", out=out, config=with_truth)
    assert "classifier=truth takes the classes of videos from their annotation" in said


def test_checkpoints_of_another_system_or_of_other_classes(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = _model(tmp_path / "model")
    said = prediction_error(model, folder / "videos", out=tmp_path / "out", config=tiny_config())
    assert "checkpoint of system 'tallformer', but the config is for 'tst'" in said
    (folder / "classes.txt").write_text("\n".join(reversed(CLASSES)))
    with pytest.raises(ValueError, match="class 0 is 'bounce' there and 'spin' here"):
        splits.each(_config(folder), tmp_path / "run", lambda c, w: evaluate.evaluate(c, w, checkpoint=model))


def test_evaluation_needs_no_videos_for_the_results_of_others(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    found = {"video_test_003": [{"label": CLASSES[0], "score": 0.5, "segment": [0.0, 2.0]}]}
    (tmp_path / "theirs.json").write_text(json.dumps({"results": found}))
    config = _config(folder, data__videos="nowhere")
    scores = evaluate.evaluate(config, tmp_path / "run", predictions=tmp_path / "theirs.json")
    assert set(scores) == {"theirs"}
    assert videos.open_dataset(config, tmp_path).problems("test")[0].severity == "error"
