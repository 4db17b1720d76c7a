"""Frames on the device: colours there and back, rotation, flip, padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.data import video_augmentation as augmentation
from actloc_jax.ops import video_frames

FRAMES = np.random.default_rng(0).integers(0, 256, [2, 9, 7, 3]).astype(np.float32)


def changes(**given) -> video_frames.Changes:
    draws = augmentation.unchanged() | given
    return video_frames.Changes(**{name: jnp.asarray(value) for name, value in draws.items()})


def test_hue_saturation_and_value_of_known_colours() -> None:
    colours = jnp.array(
        [[255, 0, 0], [0, 255, 0], [0, 0, 128], [255, 255, 0], [255, 0, 255], [50, 50, 50], [0, 0, 0.0]]
    )
    hue, saturation, value = video_frames.to_hsv(colours)
    np.testing.assert_allclose(hue, [0, 120, 240, 60, 300, 0, 0])
    np.testing.assert_allclose(saturation, [1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(value, [255, 255, 128, 255, 255, 50, 0])
    np.testing.assert_allclose(video_frames.from_hsv(hue, saturation, value), colours, atol=1e-3)


def test_colours_come_back_and_clips_without_changes_stay_exactly() -> None:
    np.testing.assert_allclose(video_frames.from_hsv(*video_frames.to_hsv(FRAMES)), FRAMES, atol=1e-3)
    same = video_frames.prepare(FRAMES.astype(np.uint8), np.ones(2, bool), changes())
    np.testing.assert_array_equal(same, video_frames.normalise(FRAMES, np.ones(2, bool)))


def test_each_change_does_what_it_says() -> None:
    grey = jnp.full([1, 2, 2, 3], 100.0)
    bright = video_frames.distort(grey, changes(distort=True, brightness=20.0, contrast_after=1.5))
    np.testing.assert_allclose(bright, 180.0, rtol=1e-5)
    red = jnp.zeros([1, 1, 1, 3]).at[..., 0].set(255.0)
    yellow = video_frames.distort(red, changes(distort=True, hue=60.0))
    np.testing.assert_allclose(yellow[0, 0, 0], [255, 255, 0], atol=1e-3)
    magenta = video_frames.distort(red, changes(distort=True, hue=-60.0))
    np.testing.assert_allclose(magenta[0, 0, 0], [255, 0, 255], atol=1e-3)
    moved = video_frames.distort(red, changes(distort=True, channel_order=[1, 2, 0]))
    np.testing.assert_allclose(moved[0, 0, 0], [0, 0, 255], atol=1e-3)
    np.testing.assert_array_equal(video_frames.distort(red, changes(brightness=20.0)), red)


@pytest.mark.parametrize(("angle", "turns"), [(0, 0), (90, -1), (180, 2), (-90, 1)])
def test_quarter_turns_of_a_square_are_exact_and_clockwise(angle: float, turns: int) -> None:
    square = FRAMES[:, :7]
    np.testing.assert_allclose(
        video_frames.rotate(square, jnp.float32(angle)), np.rot90(square, turns, axes=(1, 2)), atol=2e-2
    )


def test_rotation_mirrors_at_the_border() -> None:
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None], [1, 8, 8, 3])
    turned = video_frames.rotate(ramp, jnp.float32(45))
    assert float(turned.min()) >= 0
    assert float(turned.max()) <= 7
    assert float(jnp.abs(turned).min(axis=(0, 3))[0, 0]) > 0  # no black corner


def test_padding_is_zero_behind_normalisation_and_a_batch_is_a_map() -> None:
    clips = jnp.asarray(FRAMES, jnp.uint8)[None].repeat(2, 0)
    masks = jnp.array([[True, True], [True, False]])
    each = jax.tree.map(lambda *values: jnp.stack(values), changes(), changes(flip=True))
    found = jax.vmap(video_frames.prepare)(clips, masks, each)
    np.testing.assert_array_equal(found[1, 0], found[0, 0][:, ::-1])
    assert not found[1, 1].any()
    assert found[0, 1].any()


def test_draws_follow_their_settings() -> None:
    rng = np.random.default_rng(0)
    draws = [augmentation.Augmentation().draw(rng) for _ in range(400)]
    assert 0.4 < np.mean([draw["distort"] for draw in draws]) < 0.6
    assert 0.4 < np.mean([draw["flip"] for draw in draws]) < 0.6
    assert 0.4 < np.mean([draw["angle"] != 0 for draw in draws]) < 0.6
    assert all(draw["hue"] != 0 for draw in draws if draw["distort"])
    assert max(abs(draw["hue"]) for draw in draws) <= 18
    assert max(abs(draw["angle"]) for draw in draws) <= 45
    assert {tuple(sorted(draw["channel_order"])) for draw in draws} == {(0, 1, 2)}
    assert not any(draw["contrast_before"] != 1 and draw["contrast_after"] != 1 for draw in draws)
    never = augmentation.Augmentation(distort=0.0, rotate=0.0, flip=0.0).draw(rng)
    assert not never["distort"]
    assert not never["angle"]
    assert not never["flip"]
