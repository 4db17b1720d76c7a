"""TV-L1 optical flow (Zach, Pock and Bischof, DAGM 2007) as OpenCV computes it on the processor, with its defaults.

Most published flow features rest on it. Source: `opencv/opencv_contrib:modules/optflow/src/tvl1flow.cpp`. Images are
[height, width], displacements in pixels; every pair of frames stops iterating by itself, whatever else is computed
with it. Identical frames give exactly zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SCALES, SCALE_STEP, SMALLEST = 5, 0.8, 16  # of the pyramid; the smallest side
WARPS = 5
TAU, THETA = 0.25, 0.3
REACH = 0.15 * THETA  # lambda * theta: how far the data may move a displacement, per unit of the gradient
EPSILON = 0.01  # pixels: root of the mean squared change at which the iterations end
INNER, OUTER = 30, 10  # iterations at most; before each outer one stands a median filter
MEDIAN = 5
TABLE = 32  # positions per pixel in OpenCV's table of cubic weights
MARGIN = 6  # pixels around an image that places between -4 and 3 beyond its end can see
CUBIC = -0.75  # the cubic's free parameter
FLAT = float(np.finfo(np.float32).eps)  # squared gradients up to here count as none

Pair = tuple[jax.Array, jax.Array]  # a vector field's x and y, or two images; [height, width] each


def grey(frames: jax.Array | np.ndarray) -> jax.Array:
    """Luma of frames, with OpenCV's integers: uint8 [frames, height, width, 3] RGB to uint8 [frames, height, width]."""
    weights = jnp.array([9798, 19235, 3735], jnp.int32)  # 0.299, 0.587 and 0.114 in 2^15ths
    return ((jnp.asarray(frames).astype(jnp.int32) * weights).sum(axis=-1) + (1 << 14) >> 15).astype(jnp.uint8)


def flow(greys: jax.Array, at_once: int | None = None) -> jax.Array:
    """The flow from each frame to the next; a pure function, to be jitted.

    Args:
        greys: [frames, height, width] from 0 to 255, two frames at least, sides of 16 pixels at least.
        at_once: pairs that are computed together, as long as the slowest of them takes; None: one on CPUs, else all.

    Returns:
        [frames - 1, height, width, 2] float32, x (to the right) before y (down).

    Raises:
        ValueError: too few or too small frames.
    """
    if greys.ndim != 3 or len(greys) < 2 or min(greys.shape[1:]) < SMALLEST:
        raise ValueError(
            f"greys {greys.shape} give no flow; TV-L1 needs [two or more frames, height, width], sides of {SMALLEST} "
            "pixels at least."
        )
    levels = pyramid(greys.astype(jnp.float32))
    pairs = [(level[:-1], level[1:]) for level in levels]
    if at_once is None:
        at_once = 1 if jax.default_backend() == "cpu" else len(greys) - 1
    return jax.lax.map(flow_of_pair, pairs, batch_size=None if at_once == 1 else at_once)


def pyramid(images: jax.Array) -> list[jax.Array]:
    """Images [..., height, width] and coarser versions of them, each four fifths of the one before, rounded.

    All images are made by the same instructions, so that equal ones stay equal to the last bit.
    """
    levels = [images]
    while len(levels) < SCALES:
        size = tuple(round(SCALE_STEP * length) for length in levels[-1].shape[-2:])
        if min(size) < SMALLEST:
            break
        # Steps of 1.25 pixels, however the size was rounded.
        levels.append(_interpolated(levels[-1], size, (1 / SCALE_STEP, 1 / SCALE_STEP)))
    return levels


def flow_of_pair(levels: Sequence[Pair]) -> jax.Array:
    """The flow from one image to another.

    Args:
        levels: both images on every level of their `pyramid`, [height, width] float32 each, finest first.

    Returns:
        [height, width, 2] float32.
    """
    moved = (jnp.zeros(levels[-1][0].shape),) * 2
    for number, (before, after) in reversed(list(enumerate(levels))):
        moved = _flow_of_level(before, after, moved)
        if number:
            size = levels[number - 1][0].shape
            moved = tuple(_resized(each, size) / SCALE_STEP for each in moved)
    return jnp.stack(moved, axis=-1)


class _Warped(NamedTuple):
    """The second image, moved by the flow so far, as the iterations need it; [height, width] each.

    Attributes:
        slope: its gradient.
        square: of the gradient's length.
        constant: difference of the images, linear in the flow, where the flow is zero.
    """

    slope: Pair
    square: jax.Array
    constant: jax.Array


class _State(NamedTuple):
    """What the iterations change.

    Attributes:
        moved: the flow.
        dual: per component of the flow, a vector field.
        error: sum of the squared changes of the last iteration.
        count: iterations so far.
    """

    moved: Pair
    dual: tuple[Pair, Pair]
    error: jax.Array
    count: jax.Array


def _flow_of_level(first: jax.Array, second: jax.Array, moved: Pair) -> Pair:
    images = jnp.stack([second, *_central_differences(second)], axis=-1)

    def warp(_: int, carried: tuple[Pair, tuple[Pair, Pair]]) -> tuple[Pair, tuple[Pair, Pair]]:
        moved, dual = carried
        values, along_x, along_y = jnp.moveaxis(sampled(images, moved), -1, 0)
        square = along_x * along_x + along_y * along_y
        constant = values - along_x * moved[0] - along_y * moved[1] - first
        return _iterated(_Warped((along_x, along_y), square, constant), moved, dual)

    still = jnp.zeros_like(first)
    return jax.lax.fori_loop(0, WARPS, warp, (moved, ((still, still), (still, still))))[0]


def _iterated(warped: _Warped, moved: Pair, dual: tuple[Pair, Pair]) -> tuple[Pair, tuple[Pair, Pair]]:
    """Iterations until the flow changes little, with a median filter before every `INNER` of them."""
    enough = np.float32(EPSILON**2 * warped.square.size)

    def changes(limit: Callable[[_State], jax.Array | int]) -> Callable[[_State], jax.Array]:
        return lambda state: (state.error > enough) & (state.count < limit(state))

    def outer(state: _State) -> _State:
        end = state.count + INNER
        state = state._replace(moved=tuple(median(each) for each in state.moved))
        return jax.lax.while_loop(changes(lambda _: end), functools.partial(_step, warped), state)

    start = _State(moved, dual, jnp.float32(jnp.inf), jnp.int32(0))
    state = jax.lax.while_loop(changes(lambda _: INNER * OUTER), outer, start)
    return state.moved, state.dual


def _step(warped: _Warped, state: _State) -> _State:
    """One iteration of both problems: the flow that the data and the dual fields want, then the dual fields."""
    rho = warped.constant + (warped.slope[0] * state.moved[0] + warped.slope[1] * state.moved[1])
    most = REACH * warped.square
    inside = jnp.where(warped.square > FLAT, -rho / jnp.maximum(warped.square, FLAT), 0)
    factor = jnp.where(rho < -most, REACH, jnp.where(rho > most, -REACH, inside))
    moved, dual, error = [], [], 0
    for component, slope, field in zip(state.moved, warped.slope, state.dual, strict=True):
        new = component + factor * slope + THETA * _divergence(*field)
        error += jnp.sum(jnp.square(new - component))
        moved.append(new)
        dual.append(_next_dual(new, field))
    return _State(tuple(moved), tuple(dual), error, state.count + 1)


def _next_dual(component: jax.Array, field: Pair) -> Pair:
    along_x = jnp.pad(component[:, 1:] - component[:, :-1], ((0, 0), (0, 1)))
    along_y = jnp.pad(component[1:] - component[:-1], ((0, 1), (0, 0)))
    scale = 1 + TAU / THETA * jnp.sqrt(along_x * along_x + along_y * along_y)
    return (field[0] + TAU / THETA * along_x) / scale, (field[1] + TAU / THETA * along_y) / scale


def _divergence(x: jax.Array, y: jax.Array) -> jax.Array:
    """Backward differences; before the first column and row stand zeros."""
    return (x - jnp.pad(x[:, :-1], ((0, 0), (1, 0)))) + (y - jnp.pad(y[:-1], ((1, 0), (0, 0))))


def _central_differences(image: jax.Array) -> Pair:
    """Halved differences of the two neighbours; at the border of the one neighbour and the pixel, halved as well."""
    padded = jnp.pad(image, 1, mode="edge")
    return 0.5 * (padded[1:-1, 2:] - padded[1:-1, :-2]), 0.5 * (padded[2:, 1:-1] - padded[:-2, 1:-1])


def median(image: jax.Array) -> jax.Array:
    """Median of 5 x 5 pixels of an image [height, width], edges repeated.

    By forgetting: of any 14 of 25 values neither the least nor the greatest is the median, so both go and the next one
    comes. Written as exchanges of whole images, since sorting 25 values of every pixel is far slower.
    """
    height, width = image.shape
    padded = jnp.pad(image, MEDIAN // 2, mode="edge")
    waiting = [padded[y : y + height, x : x + width] for y in range(MEDIAN) for x in range(MEDIAN)]
    held = [waiting.pop() for _ in range(MEDIAN**2 // 2 + 2)]
    while True:
        held = _without_extremes(held)
        if not waiting:
            return held[0]
        held.append(waiting.pop())


def _without_extremes(values: list[jax.Array]) -> list[jax.Array]:
    """The values but their least and greatest: halves of smaller and of greater ones, then the ends of the halves."""
    values = list(values)
    last = len(values) - 1
    for k in range(len(values) // 2):
        values[k], values[last - k] = jnp.minimum(values[k], values[last - k]), jnp.maximum(values[k], values[last - k])
    half = (len(values) + 1) // 2
    for k in range(1, half):
        values[0], values[k] = jnp.minimum(values[0], values[k]), jnp.maximum(values[0], values[k])
    for k in range(len(values) - half, last):
        values[last], values[k] = jnp.maximum(values[last], values[k]), jnp.minimum(values[last], values[k])
    return values[1:-1]


def sampled(images: jax.Array, moved: Pair) -> jax.Array:
    """Images at every pixel plus its displacement: cubic, at 32nds of pixels, zero outside.

    One neighbour after the other, in a loop that the compiler cannot unroll into everything that reads its result.

    Args:
        images: [height, width, images].
        moved: the displacements, [height, width] each.

    Returns:
        [height, width, images].
    """
    height, width, _ = images.shape
    places = (jnp.arange(height)[:, None] + moved[1], jnp.arange(width) + moved[0])
    # What lies further outside sees zeros as well; the limit keeps the integers, and so the margin, small.
    ticks = [
        jnp.round(jnp.clip(place, -4, length + 3) * TABLE).astype(jnp.int32)
        for place, length in zip(places, (height, width), strict=True)
    ]
    rows, columns = (jnp.asarray(_cubic_table())[tick % TABLE] for tick in ticks)
    top, left = (tick // TABLE - 1 + MARGIN for tick in ticks)
    padded = jnp.pad(images, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))

    def add(neighbour: jax.Array, total: jax.Array) -> jax.Array:
        row, column = neighbour // 4, neighbour % 4
        weight = rows.take(row, -1) * columns.take(column, -1)
        return total + weight[..., None] * padded[top + row, left + column]

    return jax.lax.fori_loop(0, 16, add, jnp.zeros_like(images))


@functools.cache
def _cubic_table() -> np.ndarray:
    """Weights of four neighbours by the 32nds that a place lies behind the second: float32 [32, 4]."""
    t = np.arange(TABLE) / TABLE
    before = ((CUBIC * (t + 1) - 5 * CUBIC) * (t + 1) + 8 * CUBIC) * (t + 1) - 4 * CUBIC
    near = ((CUBIC + 2) * t - (CUBIC + 3)) * t * t + 1
    far = ((CUBIC + 2) * (1 - t) - (CUBIC + 3)) * (1 - t) ** 2 + 1
    return np.stack([before, near, far, 1 - before - near - far], axis=-1).astype(np.float32)


def _resized(image: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear to another size."""
    return _interpolated(image, size, tuple(old / new for old, new in zip(image.shape, size, strict=True)))


def _interpolated(images: jax.Array, size: tuple[int, int], steps: tuple[float, float]) -> jax.Array:
    """Bilinear on the last two axes, with half-pixel centres and repeated edges; columns first."""
    for axis in (1, 0):
        old, place = images.shape[axis - 2], axis - 2
        places = np.clip((np.arange(size[axis]) + 0.5) * steps[axis] - 0.5, 0, old - 1)
        lower = np.floor(places).astype(int)
        share = (places - lower).astype(np.float32)
        share = share if axis == 1 else share[:, None]
        before, after = images.take(lower, place), images.take(np.minimum(lower + 1, old - 1), place)
        images = before + share * (after - before)
    return images
