"""A video as the windows of a recipe, while it is read: no more than one window of frames is kept (numpy only).

Windows overlap, but each frame is resized, and its flow computed, once. Pictures and windows travel apart: a `Block` is
some pictures and, for each window, which of them it shows. Blocks have one shape, whatever the videos are.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from actloc_jax.data.feature_recipes import CROP, Recipe
from actloc_jax.data.window_grids import NOTHING

PAIRS_AT_ONCE = 8
"""Pairs of frames that are given to the flow function together."""

Flow = Callable[[np.ndarray], np.ndarray]
"""Frames uint8 [n + 1, height, width, 3] to flow float32 [n, height, width, 2] in pixels."""

CHANNELS = {"rgb": 3, "flow": 2}
THREADS = 4
"""That resize and crop."""

Pool = concurrent.futures.ThreadPoolExecutor
S, T = TypeVar("S"), TypeVar("T")


class Row(NamedTuple):
    """What one row of features is computed from.

    Attributes:
        video: number of the video.
        row: number of the row.
        numbers: stream -> [window] int32, the frame or field at each step of the window; `NOTHING` for zeros.
        pictures: stream -> {number: [crops, 224, 224, channels]}, those of the window at least.
    """

    video: int
    row: int
    numbers: dict[str, np.ndarray]
    pictures: dict[str, dict[int, np.ndarray]]


def rows_of_video(
    video: int, frames: Iterable[np.ndarray], count: int, recipe: Recipe, flow: Flow | None
) -> Iterator[Row]:
    """The rows of a video, each as soon as its last frame has been read.

    Args:
        video: its number, for the rows.
        frames: uint8 [height, width, 3], at the rate of the recipe.
        count: how many there are.
        recipe: what to do with them.
        flow: computes optical flow; None if the recipe has no such stream.

    Raises:
        ValueError: there are fewer frames.
    """
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        yield from _rows(video, frames, count, recipe, flow, pool)


def _rows(
    video: int, frames: Iterable[np.ndarray], count: int, recipe: Recipe, flow: Flow | None, pool: Pool
) -> Iterator[Row]:
    windows = recipe.windows_of(count)
    numbers = {"rgb": windows.frames, "flow": windows.fields}
    numbers = {stream: array for stream, array in numbers.items() if recipe.has(stream)}
    pictures: dict[str, dict[int, np.ndarray]] = {stream: {} for stream in numbers}
    fields = _FieldMaker(recipe, flow, numbers["flow"], pool) if "flow" in numbers else None
    used = set(windows.frames.ravel().tolist()) if "rgb" in numbers else set()
    total, first = len(windows.frames), _first_needed(numbers)
    row = read = 0

    def prepared(numbered: tuple[int, np.ndarray]) -> tuple[int, np.ndarray | None, np.ndarray | None]:
        """The number of a frame, what the rgb network reads of it, and the frame that optical flow is computed on."""
        number, frame = numbered
        wants_flow = fields is not None
        resized = recipe.resized(frame) if number in used or wants_flow else frame
        seen = resized if recipe.flow_of == "resized" else frame
        return number, recipe.rgb_pictures(resized) if number in used else None, seen if wants_flow else None

    for number, picture, seen in _ahead(pool, prepared, enumerate(frames)):
        read += 1
        if picture is not None:
            pictures["rgb"][number] = picture
        if seen is not None:
            pictures["flow"].update(fields.add(number, seen, final=number == count - 1))
        while row < total and all(_there(pictures[stream], numbers[stream][row]) for stream in numbers):
            yield Row(video, row, {stream: array[row] for stream, array in numbers.items()}, pictures)
            row += 1
            if row < total:
                for kept in pictures.values():
                    for old in [key for key in kept if key < first[row]]:
                        del kept[old]
    if read < count or row < total:
        raise ValueError(f"has {read} frames where {count} were announced; it is damaged")


def _first_needed(numbers: dict[str, np.ndarray]) -> np.ndarray:
    """[rows], the first picture that a row or a later one needs."""
    none = np.iinfo(np.int32).max
    least = np.min([np.where(array == NOTHING, none, array).min(axis=1) for array in numbers.values()], axis=0)
    return np.minimum.accumulate(least[::-1])[::-1]


def _there(pictures: dict[int, np.ndarray], numbers: np.ndarray) -> bool:
    """Whether all pictures of a window are there; they come in order."""
    highest = int(numbers.max())
    return highest == NOTHING or highest in pictures


def _ahead(pool: Pool, function: Callable[[T], S], items: Iterable[T]) -> Iterator[S]:
    """`map` in threads, a few items ahead, in order."""
    waiting: collections.deque[concurrent.futures.Future[S]] = collections.deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > 2 * THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _FieldMaker:
    """Collects frames and computes the fields that are needed, some at a time."""

    def __init__(self, recipe: Recipe, flow: Flow | None, needed: np.ndarray, pool: Pool) -> None:
        if flow is None:
            raise ValueError(f"recipe {recipe.name} has a flow stream, but nothing computes optical flow")
        self._recipe, self._flow, self._pool = recipe, flow, pool
        self._needed = set(needed.ravel().tolist())
        self._waiting: list[np.ndarray] = []
        self._first = 0

    def add(self, number: int, frame: np.ndarray, *, final: bool) -> dict[int, np.ndarray]:
        """Takes the next frame [height, width, 3]; gives the fields [height, width, 2] that are complete, by number."""
        if not self._waiting:
            self._first = number
        self._waiting.append(frame)
        if number not in self._needed or final or len(self._waiting) > PAIRS_AT_ONCE:
            return self._compute(keep=number in self._needed)
        return {}

    def _compute(self, *, keep: bool) -> dict[int, np.ndarray]:
        found, waiting = {}, self._waiting
        if len(waiting) > 1:
            flow = self._flow(np.stack(waiting))
            found = dict(enumerate(self._pool.map(self._recipe.flow_pictures, flow), start=self._first))
        self._first += len(waiting) - 1
        self._waiting = waiting[-1:] if keep else []
        return found


@dataclasses.dataclass
class Block:
    """Pictures and windows for one pass through the networks, of one shape: what is missing is filled up.

    Attributes:
        pictures: stream -> [shards, pictures, crops, 224, 224, channels].
        windows: stream -> [shards, windows, window] int32: the picture at each step; `NOTHING` for zeros.
        rows: (video, row) of the windows of each shard.
    """

    pictures: dict[str, np.ndarray]
    windows: dict[str, np.ndarray]
    rows: list[list[tuple[int, int]]]


def blocks(rows: Iterable[Row], recipe: Recipe, *, shards: int, at_once: int) -> Iterator[Block]:
    """Packs rows, also of several videos, into blocks.

    Args:
        rows: in any order.
        recipe: what they were made with.
        shards: devices; each gets its own pictures.
        at_once: windows of a shard.
    """
    packer = None
    for row in rows:
        if packer is None:
            packer = _Packer(recipe, shards, at_once)
        if not packer.takes(row):
            yield packer.block
            packer = _Packer(recipe, shards, at_once)
            packer.takes(row)
    if packer is not None:
        yield packer.block


class _Packer:
    """Fills one block, shard after shard."""

    def __init__(self, recipe: Recipe, shards: int, at_once: int) -> None:
        room = at_once * recipe.window
        if recipe.stride < recipe.window:
            room = (at_once - 1) * recipe.stride + recipe.window
        streams = [stream for stream in CHANNELS if recipe.has(stream)]
        levels = {"rgb": np.uint8, "flow": np.uint8 if recipe.flow_values == "images" else np.float32}
        shape = [shards, room, recipe.crops, CROP, CROP]
        self.block = Block(
            {stream: np.zeros([*shape, CHANNELS[stream]], levels[stream]) for stream in streams},
            {stream: np.full([shards, at_once, recipe.window], NOTHING, np.int32) for stream in streams},
            [[] for _ in range(shards)],
        )
        self._room, self._at_once, self._shard = room, at_once, 0
        self._places: dict[str, dict[tuple[int, int], int]] = {stream: {} for stream in streams}

    def takes(self, row: Row) -> bool:
        """Puts a row into the block, if there is room."""
        while self._shard < len(self.block.rows):
            if len(self.block.rows[self._shard]) < self._at_once and self._fits(row):
                self._put(row)
                return True
            self._shard += 1
            self._places = {stream: {} for stream in self._places}
        return False

    def _fits(self, row: Row) -> bool:
        for stream, places in self._places.items():
            new = {number for number in row.numbers[stream].tolist() if number != NOTHING}
            if len(places) + sum((row.video, number) not in places for number in new) > self._room:
                return False
        return True

    def _put(self, row: Row) -> None:
        window = len(self.block.rows[self._shard])
        for stream, places in self._places.items():
            for step, number in enumerate(row.numbers[stream].tolist()):
                if number == NOTHING:
                    continue
                key = (row.video, number)
                if key not in places:
                    self.block.pictures[stream][self._shard, len(places)] = row.pictures[stream][number]
                    places[key] = len(places)
                self.block.windows[stream][self._shard, window, step] = places[key]
        self.block.rows[self._shard].append((row.video, row.row))


def in_thread(items: Iterator[T], ahead: int) -> Iterator[T]:
    """The same items, made in a thread that is at most `ahead` items ahead; its errors are raised here."""
    waiting: queue.Queue[tuple[Any, BaseException | None, bool]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: tuple[Any, BaseException | None, bool]) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None, False)):
                    return
        except BaseException as error:  # raised where the items are taken
            put((None, error, True))
        else:
            put((None, None, True))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error, ended = waiting.get()
            if error is not None:
                raise error
            if ended:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
