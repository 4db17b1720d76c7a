"""TALLFormer's frames and segments against the original, with its random numbers."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.data import video_augmentation as augmentation
from actloc_jax.data import video_chunks, video_windows
from actloc_jax.data.video_clips import ClipSize, read_chunks
from actloc_jax.ops import video_frames
from tests.parity.harness import Case, parity

ALWAYS = augmentation.Augmentation(distort=1.0, rotate=1.0)


@parity("tallformer", "data_pipeline")
def check_data_pipeline(case: Case) -> None:
    """Colours, rotation, crops, flip, normalisation and padding; windows of training and of evaluation."""
    _check_frames(case)
    _check_places(case)
    for name, setting in case.config["tcrop"].items():
        _check_window(case, name, setting)
    for name, expected in case.arrays.items():
        if match := re.fullmatch(r"windows_(\d+)", name):
            found = video_chunks.windows(int(match[1]), length=case.config["num_frames"], overlap=0.25)
            np.testing.assert_array_equal(found, expected, err_msg=name)


def _check_frames(case: Case) -> None:
    frames = _rgb(case.arrays["frames_bgr"])
    tolerance = case.meta["tolerance"]
    for name, expected in case.arrays.items():
        if match := re.fullmatch(r"photo(\d+)", name):
            found = [_distorted(frames, seed) for seed in _seeds(case, "photo", int(match[1]))]
            nearest = min(found, key=lambda pictures: np.abs(pictures - expected).max())
            np.testing.assert_allclose(nearest, expected, atol=tolerance["photo"]["atol"], err_msg=name)
        elif match := re.fullmatch(r"rotate(\d+)", name):
            rng = np.random.RandomState(_seeds(case, "rotate", int(match[1]))[0])
            angle = augmentation.draw_angle(ALWAYS, rng)
            np.testing.assert_allclose(angle, case.arrays[f"{name}_angle"], rtol=1e-6, err_msg=name)
            found = video_frames.rotate(jnp.asarray(frames, jnp.float32), jnp.asarray(angle))
            np.testing.assert_allclose(
                _rgb(np.asarray(found)), expected, atol=tolerance["rotate"]["atol"], err_msg=name
            )
    atol = tolerance["others"]["atol"]
    everything = np.ones(len(frames), bool)
    np.testing.assert_allclose(video_frames.normalise(frames, everything), case.arrays["normalize"], atol=atol)
    _check_padding(case)


def _check_padding(case: Case) -> None:
    """A window behind the end of a video is filled up with zeros, which normalisation leaves zero."""
    frames, expected = case.arrays["frames_bgr"], case.arrays["pad"]
    length, *crop, _ = expected.shape
    size = ClipSize(length, length, tuple(crop), stride=1)
    pictures, mask = read_chunks(InMemory(frames), np.array([0]), size, (0, 0), 0, len(frames))
    np.testing.assert_allclose(pictures[0], expected, atol=case.meta["tolerance"]["others"]["atol"])
    assert not np.asarray(video_frames.prepare(pictures[0], mask[0]))[len(frames) :].any()


@dataclasses.dataclass
class InMemory:
    """Frames that lie in an array [time, height, width, 3]."""

    array: np.ndarray
    fps: float = 1.0

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.array.shape[1:]

    def read(self, first: int, count: int) -> np.ndarray:
        """[count, height, width, 3]."""
        return self.array[first : first + count]


def _check_places(case: Case) -> None:
    frames = case.arrays["frames_bgr"]
    for name, expected in case.arrays.items():
        size = expected.shape[1:3]
        if match := re.fullmatch(r"crop(\d+)", name):
            rng = np.random.RandomState(_seeds(case, "crop", int(match[1]))[0])
            corner = augmentation.draw_crop(*frames.shape[1:3], size, rng)
            np.testing.assert_array_equal(augmentation.crop(frames, corner, size), expected, err_msg=name)
        elif name == "center_crop":
            corner = augmentation.centre_crop(*frames.shape[1:3], size)
            np.testing.assert_array_equal(augmentation.crop(frames, corner, size), expected)
    rng = np.random.RandomState(_seeds(case, "flip", 0)[0])
    changes = _changes(augmentation.unchanged() | {"flip": augmentation.draw_flip(ALWAYS, rng)})
    found = video_frames.prepare(frames, np.ones(len(frames), bool), changes)
    expected = video_frames.normalise(case.arrays["flip"], np.ones(len(frames), bool))
    np.testing.assert_array_equal(found, expected)


def _check_window(case: Case, name: str, setting: dict) -> None:
    config, arrays = case.config, case.arrays
    segments = video_windows.seconds_to_frames(arrays["seg_seconds"], config["fps"])
    rng = np.random.RandomState(setting["np_seed"])
    found = video_windows.random_window(
        setting["total_frames"], segments, rng, length=config["num_frames"], threshold=config["iof_th"]
    )
    assert (found.start, found.length) == tuple(arrays[f"{name}/start_size"]), name
    np.testing.assert_allclose(found.segments, arrays[f"{name}/segments"], atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(arrays["lab"][found.kept], arrays[f"{name}/labels"], err_msg=name)
    ignored = video_windows.seconds_to_frames([config["ignore_segment_seconds"]], config["fps"])
    ignored = video_windows.segments_inside(ignored, found.start, found.length, config["iof_th"])
    np.testing.assert_allclose(ignored.segments, arrays[f"{name}/ignore"], atol=1e-4, err_msg=name)


def _changes(draws: augmentation.Draws) -> video_frames.Changes:
    return video_frames.Changes(**jax.tree.map(jnp.asarray, draws))


def _distorted(frames: np.ndarray, seed: int) -> np.ndarray:
    """The frames with the colours drawn from a seed; blue, green, red as in the case."""
    draws = augmentation.unchanged() | augmentation.draw_colours(ALWAYS, np.random.RandomState(seed))
    return _rgb(np.asarray(video_frames.distort(jnp.asarray(frames, jnp.float32), _changes(draws))))


def _seeds(case: Case, name: str, number: int) -> list[int]:
    """The case gives seeds as text: "3", "20+k", "k (+1000 in some cases)", where k is the number of the array."""
    formula, *also = re.split(r"\s*\(\+", case.config["seeds"][name])
    seed = sum(number if part.strip() == "k" else int(part) for part in formula.split("+"))
    return [seed, *(seed + int(re.match(r"\d+", more)[0]) for more in also)]


def _rgb(frames: np.ndarray) -> np.ndarray:
    """Blue, green, red as red, green, blue, or back."""
    return frames[..., ::-1]
