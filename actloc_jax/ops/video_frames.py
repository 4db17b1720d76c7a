"""Frames on the device: from uint8 to what a network sees, with the changes of colour and place of training.

Frames are RGB, [time, height, width, 3]. The changes are the same for all frames of a clip; `jax.vmap` takes a batch.
Sources: `klauscc/TALLFormer:vedatad/datasets/pipelines/transforms.py`, and OpenCV's colour conversion and rotation.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""ImageNet's mean and standard deviation of red, green and blue, of 255."""


class Changes(NamedTuple):
    """What is changed in one clip, drawn by `data/video_augmentation.py`.

    Attributes:
        distort: bool, whether the colours are changed at all.
        brightness: added, of 255 grey levels.
        contrast_before, contrast_after: factor of all values, before and after the change of hue.
        saturation: factor of the saturation.
        hue: degrees added.
        channel_order: [3] int32, which channel comes where.
        angle: degrees, clockwise.
        flip: bool, left and right exchanged.
    """

    distort: jax.Array
    brightness: jax.Array
    contrast_before: jax.Array
    saturation: jax.Array
    hue: jax.Array
    contrast_after: jax.Array
    channel_order: jax.Array
    angle: jax.Array
    flip: jax.Array


def prepare(frames: jax.Array, mask: jax.Array, changes: Changes | None = None) -> jax.Array:
    """What the network sees of a clip.

    Args:
        frames: [time, height, width, 3] uint8.
        mask: [time] bool, False on padding, which becomes zero.
        changes: of training; None for none.

    Returns:
        [time, height, width, 3] float32.
    """
    pictures = frames.astype(jnp.float32)
    if changes is not None:
        pictures = rotate(distort(pictures, changes), changes.angle)
        pictures = jnp.where(changes.flip, pictures[:, :, ::-1], pictures)
    return normalise(pictures, mask)


def normalise(frames: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean 0 and deviation 1 per channel, as ImageNet's; zero where `mask` [time] is False."""
    normal = (frames.astype(jnp.float32) - jnp.array(MEAN)) / jnp.array(STD)
    return jnp.where(mask[:, None, None, None], normal, 0.0)


def distort(frames: jax.Array, changes: Changes) -> jax.Array:
    """Changes the colours of [time, height, width, 3] float32, 0 to 255 before and after."""

    def clip(values: jax.Array) -> jax.Array:
        return jnp.clip(values, 0.0, 255.0)

    changed = clip(clip(frames + changes.brightness) * changes.contrast_before)
    hue, saturation, value = to_hsv(changed)
    hue = hue + changes.hue
    hue = jnp.where(hue > 360, hue - 360, hue)
    hue = jnp.where(hue < 0, hue + 360, hue)
    changed = clip(clip(from_hsv(hue, saturation * changes.saturation, value)) * changes.contrast_after)
    return jnp.where(changes.distort, changed[..., changes.channel_order], frames)


def to_hsv(frames: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hue in degrees 0..360, saturation 0..1 and value (the largest channel) of [..., 3] red, green and blue.

    Each is [...] float32, without the axis of channels. Grey has hue 0.
    """
    red, green, blue = frames[..., 0], frames[..., 1], frames[..., 2]
    value, least = frames.max(-1), frames.min(-1)
    chroma = value - least
    sixth = 60.0 / jnp.where(chroma > 0, chroma, 1.0)
    hue = jnp.where(
        value == red,
        (green - blue) * sixth,
        jnp.where(value == green, (blue - red) * sixth + 120.0, (red - green) * sixth + 240.0),
    )
    saturation = chroma / jnp.where(value > 0, value, 1.0)
    return jnp.where(hue < 0, hue + 360.0, hue), saturation, value


def from_hsv(hue: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    """The inverse of `to_hsv`, three arrays [...] to [..., 3]; saturation may exceed 1."""
    shift = jnp.array([5.0, 3.0, 1.0])
    place = (shift + hue[..., None] / 60.0) % 6.0
    strength = jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)
    return value[..., None] * (1.0 - saturation[..., None] * strength)


def rotate(frames: jax.Array, angle: jax.Array) -> jax.Array:
    """Turns about the middle, clockwise by `angle` degrees; bilinear, mirrored at the border (its pixels once).

    Args:
        frames: [time, height, width, 3] float32.
        angle: scalar; 0 changes nothing.
    """
    _, height, width, _ = frames.shape
    cos, sin = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = jnp.meshgrid(jnp.arange(height) - middle_y, jnp.arange(width) - middle_x, indexing="ij")
    from_x, from_y = cos * x + sin * y + middle_x, cos * y - sin * x + middle_y
    left, top = jnp.floor(from_x), jnp.floor(from_y)
    right_share, bottom_share = (from_x - left)[..., None], (from_y - top)[..., None]

    def at(row: jax.Array, column: jax.Array) -> jax.Array:
        return frames[:, _mirror(row, height), _mirror(column, width)]

    upper = at(top, left) * (1 - right_share) + at(top, left + 1) * right_share
    lower = at(top + 1, left) * (1 - right_share) + at(top + 1, left + 1) * right_share
    return upper * (1 - bottom_share) + lower * bottom_share


def _mirror(place: jax.Array, size: int) -> jax.Array:
    """Places outside 0..size-1 mirrored into it, the border itself not repeated."""
    period = max(2 * (size - 1), 1)
    inside = jnp.abs(place.astype(jnp.int32)) % period
    return jnp.minimum(inside, period - inside) if size > 1 else jnp.zeros_like(inside)
