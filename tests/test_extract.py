"""Extraction: the right windows reach the networks, each frame is used once, runs go on, bad videos are told."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import wave

import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax import extract as module
from actloc_jax.data.feature_manifests import manifest_of, misfit
from actloc_jax.data.feature_recipes import RECIPES, Recipe, recipe_of
from actloc_jax.data.video_files import VideoFile
from actloc_jax.extract import Networks, extract
from tests.data.video_writing import pictures, write_video
from tests.feature_networks import NETWORKS, StandIns, summary

av = pytest.importorskip("av", reason="PyAV is an optional dependency")

ROOT = pathlib.Path(__file__).parents[1]
CLIPS = pathlib.Path(os.environ.get("ACTLOC_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data")) / "clips"


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> StandIns:
    return StandIns(monkeypatch)


@pytest.fixture
def videos(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two videos of 25 frames per second and of different sizes."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "long.mp4", pictures(34, 48, 64), [*range(34)], 25)
    write_video(folder / "short.mp4", pictures(19, 64, 48), [*range(19)], 25)
    return folder


def _by_hand(path: pathlib.Path, recipe: Recipe, stand_ins: StandIns, rows: list[int]) -> np.ndarray:
    """[rows, crops, channels], window after window, from the whole video."""
    frames = list(VideoFile(path, fps=recipe.fps or None).frames())
    resized = [recipe.resized(frame) for frame in frames]
    flow = stand_ins.flow(np.stack(frames if recipe.flow_of == "own_size" else resized))
    stored = {
        "rgb": [recipe.rgb_pictures(picture) for picture in resized],
        "flow": [recipe.flow_pictures(field) for field in flow],
    }
    windows = recipe.windows_of(len(frames))
    streams = []
    for stream, numbers in (("rgb", windows.frames), ("flow", windows.fields)):
        blank = 0.0 if stream == "rgb" else recipe.no_motion
        values = [2 * each.astype(np.float32) / 255 - 1 if each.dtype == np.uint8 else each for each in stored[stream]]
        nothing = np.full_like(values[0], blank)
        taken = [np.stack([values[k] if k >= 0 else nothing for k in numbers[row]], axis=1) for row in rows]
        streams.append([summary({"scale": 1.0}, jnp.asarray(row)) for row in taken])
    return np.concatenate([np.stack(stream) for stream in streams], axis=-1)


@pytest.mark.parametrize(
    "name",
    [
        "mstcn:window=11",
        "mstcn_30fps:windows=shifted,ends=zeros,window=11",
        "actionformer",
        "actionformer:crop=ten,window=10,stride=8",
        "cola",
        "video_features:window=10,stride=4",
        "video_features:window=10,stride=14",
    ],
)
def test_features_are_those_of_each_window_on_its_own(
    videos: pathlib.Path, tmp_path: pathlib.Path, stand_ins: StandIns, name: str
) -> None:
    recipe = recipe_of(name + (":" if ":" not in name else ",") + "files=time_first")
    found = extract(recipe, [str(videos)], tmp_path / "out", NETWORKS)
    pairs = dict(stand_ins.pairs)
    assert not found.failed
    assert set(found.features) == {"long", "short"}
    for video, path in found.features.items():
        manifest, features = manifest_of(path), np.load(path)
        rows = sorted({0, manifest.rows // 3, 2 * manifest.rows // 3, manifest.rows - 1})
        expected = _by_hand(videos / f"{video}.mp4", recipe, stand_ins, rows)
        expected = expected[:, 0] if recipe.crops == 1 else expected
        np.testing.assert_allclose(features[rows], expected, atol=2e-6)
        assert manifest.rows == len(features) == len(recipe.windows_of(manifest.frames).frames)
        assert manifest.recipe == {"name": recipe.name, **recipe.fields()}
    assert max(pairs.values()) <= 2, "the generated square comes by again; no pair is computed for two windows"
    assert sum(pairs.values()) <= sum(manifest_of(path).frames - 1 for path in found.features.values())


def test_files_have_the_layout_of_their_recipe(
    videos: pathlib.Path, tmp_path: pathlib.Path, stand_ins: StandIns
) -> None:
    found = extract(recipe_of("mstcn:stride=8,window=11"), [str(videos / "long.mp4")], tmp_path, NETWORKS)
    assert np.load(found.features["long"]).shape == (6, 34)
    recipe = recipe_of("video_features:window=16,stride=8")
    extract(recipe, [str(videos / "long.mp4")], tmp_path / "streams", NETWORKS)
    read = {path.stem: np.load(path) for path in (tmp_path / "streams").glob("*.npy")}
    assert read["long_rgb"].shape == read["long_flow"].shape == (3, 3)
    assert read["long_fps"] == 25
    np.testing.assert_allclose(read["long_timestamps_ms"], [640, 960, 1280])
    assert manifest_of(tmp_path / "streams" / "long_flow.npy").rows == 3


def test_fewer_rows_are_computed_and_the_others_interpolated(
    videos: pathlib.Path, tmp_path: pathlib.Path, stand_ins: StandIns
) -> None:
    every = extract(
        recipe_of("mstcn:window=11,files=time_first"), [str(videos / "long.mp4")], tmp_path / "every", NETWORKS
    ).features
    fourth = extract(
        recipe_of("mstcn:window=11,stride=4,files=time_first"),
        [str(videos / "long.mp4")],
        tmp_path / "fourth",
        NETWORKS,
    ).features
    whole, some = np.load(every["long"]), np.load(fourth["long"])
    assert some.shape == whole.shape
    np.testing.assert_allclose(some[[0, 4, 32, 33]], whole[[0, 4, 32, 33]], atol=1e-6)
    np.testing.assert_allclose(some[6], (some[4] + some[8]) / 2, atol=1e-6)
    assert "approximation" in manifest_of(fourth["long"]).notes[0]


def test_complete_videos_are_left_alone_and_changed_ones_made_anew(
    videos: pathlib.Path, tmp_path: pathlib.Path, stand_ins: StandIns
) -> None:
    def run(recipe: str = "cola") -> int:
        stand_ins.pairs.clear()
        assert not extract(recipe_of(recipe), [str(videos)], tmp_path / "out", NETWORKS).failed
        return sum(stand_ins.pairs.values())

    both = run()
    assert both > 30
    assert run() == 0
    assert stand_ins.loaded == 2, "weights are not even read when nothing is to be done"
    (tmp_path / "out" / "short.npy").unlink()
    assert 0 < run() < both / 2
    write_video(videos / "short.mp4", pictures(20, 64, 48)[::-1], [*range(20)], 25)
    assert 0 < run() < both / 2
    assert run("cola:crop=centre,fps=20") > 0
    (tmp_path / "out" / "long.json").write_text("{")
    assert run("cola:crop=centre,fps=20") > 0


def test_a_cache_knows_videos_by_their_content(
    videos: pathlib.Path, tmp_path: pathlib.Path, stand_ins: StandIns
) -> None:
    first = extract(RECIPES["cola"], [str(videos)], tmp_path / "cache", NETWORKS, by_content=True)
    moved = tmp_path / "elsewhere"
    videos.rename(moved)
    again = extract(RECIPES["cola"], [str(moved)], tmp_path / "cache", NETWORKS, by_content=True)
    other = extract(RECIPES["anet_25fps_16"], [str(moved)], tmp_path / "cache", NETWORKS, by_content=True)
    assert first.features == again.features
    assert stand_ins.loaded == 4
    assert not set(other.features.values()) & set(first.features.values())


def test_a_video_that_fails_does_not_stop_the_others(
    videos: pathlib.Path, tmp_path: pathlib.Path, stand_ins: StandIns
) -> None:
    (videos / "text.mp4").write_text("no video")
    (videos / "empty.mkv").write_bytes(b"")
    whole = tmp_path / "whole.mkv"
    write_video(whole, pictures(60), [*range(60)])
    (videos / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    damaged = bytearray(whole.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 3000] = bytes(3000)
    (videos / "damaged.mkv").write_bytes(damaged)
    with wave.open(str(videos / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    (videos / "sound.wav").rename(videos / "sound.mp4")
    found = extract(RECIPES["cola"], [str(videos)], tmp_path / "out", NETWORKS)
    assert {"long", "short"} <= set(found.features)
    assert {"text", "empty", "cut", "sound"} <= set(found.failed)
    assert "no video stream" in found.failed["sound"]
    assert "truncated" in found.failed["cut"] or "damaged" in found.failed["cut"]
    for video, text in found.failed.items():
        assert f"{video}." in text
        assert not (tmp_path / "out" / f"{video}.npy").exists()


DEVICES = """
import pathlib, sys
import numpy, pytest
from actloc_jax.data.feature_recipes import recipe_of
from actloc_jax.extract import extract
from tests.feature_networks import NETWORKS, StandIns
StandIns(pytest.MonkeyPatch())
extract(recipe_of("cola"), [sys.argv[1]], sys.argv[2], NETWORKS)
"""


def test_several_devices_give_the_same_features(
    videos: pathlib.Path, tmp_path: pathlib.Path, stand_ins: StandIns
) -> None:
    one = extract(RECIPES["cola"], [str(videos)], tmp_path / "one", NETWORKS).features
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-c", DEVICES, str(videos), str(tmp_path / "four")]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags}, check=True, timeout=300)
    for video, path in one.items():
        four = tmp_path / "four" / f"{video}.npy"
        np.testing.assert_allclose(np.load(four), np.load(path), atol=1e-6)


def test_doubts_are_told_and_written(
    videos: pathlib.Path, tmp_path: pathlib.Path, stand_ins: StandIns, caplog: pytest.LogCaptureFixture
) -> None:
    write_video(videos / "varies.mkv", pictures(60), [*range(30), *range(30, 90, 2)])
    write_video(videos / "slow.mp4", pictures(8), [*range(8)], 8)
    found = extract(RECIPES["actionformer"], [str(videos)], tmp_path / "out", NETWORKS).features
    assert "frame rate varies" in manifest_of(found["varies"]).notes[0]
    assert "far from the 25" in manifest_of(found["slow"]).notes[0]
    assert "8 frames are fewer than the 18 of a window" in manifest_of(found["slow"]).notes[1]
    assert manifest_of(found["long"]).notes == []
    assert "frame rate varies" in caplog.text
    steady = extract(RECIPES["cola"], [str(videos / "slow.mp4")], tmp_path / "steady", NETWORKS).features
    assert "shown more than once" in manifest_of(steady["slow"]).notes[0]


def test_another_optical_flow_is_told_and_written(
    videos: pathlib.Path, tmp_path: pathlib.Path, stand_ins: StandIns, caplog: pytest.LogCaptureFixture
) -> None:
    networks = dataclasses.replace(NETWORKS, optical_flow="dis")
    found = extract(RECIPES["cola"], [str(videos / "short.mp4")], tmp_path / "out", networks).features
    manifest = manifest_of(found["short"])
    assert manifest.recipe["optical_flow"] == manifest.networks["optical_flow"]["algorithm"] == "dis"
    assert "optical flow by dis instead of tvl1" in caplog.text
    with pytest.raises(ValueError, match="optical_flow='fast'; use tvl1"):
        extract(RECIPES["cola"], [str(videos)], tmp_path, dataclasses.replace(NETWORKS, optical_flow="fast"))
    with pytest.raises(ValueError, match=r"takes optical flow by raft: give --raft=<folder>"):
        extract(RECIPES["video_features"], [str(videos)], tmp_path, dataclasses.replace(NETWORKS, raft=""))


def test_what_cannot_work_is_refused_before_anything_is_read(videos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"needs the rgb stream of I3D: give --rgb=<folder>"):
        extract(RECIPES["mstcn"], [str(videos)], tmp_path / "out", Networks())
    (tmp_path / "more").mkdir()
    write_video(tmp_path / "more" / "long.avi", pictures(4), [*range(4)])
    with pytest.raises(ValueError, match=r"long.mp4 and .*long.avi have the same name"):
        module.video_files([str(videos), str(tmp_path / "more")])
    with pytest.raises(FileNotFoundError, match="does not exist; expected a video"):
        module.video_files([str(tmp_path / "absent")])
    listed = tmp_path / "list.txt"
    listed.write_text(f"{videos / 'short.mp4'}\n\n{videos / 'long.mp4'}\n")
    assert [path.stem for path in module.video_files([str(listed)])] == ["short", "long"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("i3d", "recipe 'i3d' is unknown; use mstcn"),
        ("tsn", "cannot be extracted: they are outputs of two TSN classifiers"),
        ("mstcn:speed=3", "has no field 'speed'; it has fps"),
        ("mstcn:fps=fast", "fps='fast' is no number"),
        ("mstcn:crop=left", "crop='left'; use centre, ten, squash"),
        ("mstcn:window=20", "no frame in its middle"),
        ("cola:stride=8", "use windows=sliding"),
        ("cola:window=8,stride=8", "at least 10 frames"),
        ("mstcn:ends=dropped", "use repeated or zeros"),
        ("mstcn:crop=squash", "set flow_values=images"),
    ],
)
def test_recipes_that_cannot_be_say_so(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        recipe_of(text)


def test_features_of_another_recipe_are_refused() -> None:
    found = {"name": "video_features", **RECIPES["video_features"].fields()}
    error, _ = misfit(found, "mstcn_15fps")
    assert "trained on features of recipe mstcn_15fps, these features are of recipe video_features" in error
    assert "fps the video's own instead of 15" in error
    assert misfit(found, "video_features") == ("", "")
    assert misfit(found, "") == ("", "")
    assert "two TSN classifiers" in misfit(found, "tsn")[0]
    quick = {"name": "mstcn_15fps", **recipe_of("mstcn_15fps:stride=4,optical_flow=dis").fields()}
    error, doubt = misfit(quick, "mstcn_15fps")
    assert not error
    assert "optical_flow dis instead of tvl1, stride 4 instead of 1" in doubt
    assert misfit({**found, "stride": 32}, "video_features")[0]


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not here")
def test_windows_of_the_real_clip_are_those_of_its_published_features() -> None:
    published = np.load(CLIPS / "v_GGSY1Qvo990_features.npz")
    for fps, window, stride in ((25, 24, 24), (15, 24, 12)):
        recipe = recipe_of(f"video_features:fps={fps},window={window},stride={stride}")
        frames = len(VideoFile(CLIPS / "v_GGSY1Qvo990.mp4", fps=recipe.fps))
        times = published[f"i3d_fps{fps}_stack{window}_step{stride}/timestamps_ms"]
        rows = len(recipe.windows_of(frames).frames)
        assert rows == len(published[f"i3d_fps{fps}_stack{window}_step{stride}/rgb"])
        np.testing.assert_allclose((np.arange(rows) * stride + window) / fps * 1000, times, atol=1e-6)
