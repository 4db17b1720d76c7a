"""How long a training step of TALLFormer waits for its clips, on the videos of a folder or in its ArrayRecord files.

    python -m benchmarks.video_input FOLDER [--threads=0,2,4] [--step=1.0] [--batch=4] [--keep=0.15] [--batches=8]

Loads batches as THUMOS14 is published (15 frames per second, 256x256 cropped to 224x224, windows of 480 frames, chunks
of 32 of which a share is computed) behind a step that lasts `--step` seconds and uses no processor. One row per number
of threads: seconds that loading one batch takes without a step, and seconds that the step waits for it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from actloc_jax.data.annotations import video_annotation
from actloc_jax.data.video_augmentation import Augmentation
from actloc_jax.data.video_batches import ChunkChoice, training_clips
from actloc_jax.data.video_clips import ClipSize, TrainingClip
from actloc_jax.data.video_source import AnnotatedVideos, open_store

FPS, FRAME_SIZE, SIZE = 15, (256, 256), ClipSize(frames=480, chunk=32, crop=(224, 224))


class Wait(NamedTuple):
    """Seconds per batch: to load it with nothing else to do, and that a step waits for it."""

    loading: float
    waiting: float


def videos_of(folder: epath.PathLike, size: tuple[int, int] = FRAME_SIZE) -> AnnotatedVideos:
    """The videos of a folder, without annotations."""
    names = open_store(folder).names
    annotations = [video_annotation(name, "", float("inf"), None, []) for name in names]
    return AnnotatedVideos(folder, annotations, fps=FPS, size=size)


def measure(
    videos: AnnotatedVideos, *, threads: int, step: float, batch: int, keep: float, batches: int, size: ClipSize = SIZE
) -> Wait:
    """Loads `batches` batches at once, then as many behind steps of `step` seconds."""
    sample = TrainingClip(size, Augmentation(), max_segments=8)
    choice = ChunkChoice("random", size.chunks, keep)
    options = {"batch_size": batch, "seed": 0, "num_threads": threads}
    iterator = iter(training_clips(videos, sample, choice, epochs=None, **options))
    next(iterator)
    start = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    loading, waiting = (time.perf_counter() - start) / batches, 0.0
    for _ in range(batches):
        time.sleep(step)
        start = time.perf_counter()
        next(iterator)
        waiting += time.perf_counter() - start
    return Wait(loading, waiting / batches)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of video files, decoded frames, or ArrayRecord files")
    parser.add_argument("--threads", default="0,2,4", help="threads that load ahead")
    parser.add_argument("--step", type=float, default=1.0, help="seconds of a step")
    parser.add_argument("--batch", type=int, default=4, help="windows of a batch")
    parser.add_argument("--keep", type=float, default=0.15, help="share of the chunks that is computed")
    parser.add_argument("--batches", type=int, default=8, help="batches to load")
    given = parser.parse_args(arguments)
    videos = videos_of(given.folder)
    print(f"{len(videos)} videos, {sum(videos.lengths)} frames at {FPS} per second; steps of {given.step} s")
    print(f"{'threads':>8}{'s per batch':>13}{'s waiting':>11}")
    for threads in map(int, given.threads.split(",")):
        wait = measure(
            videos, threads=threads, step=given.step, batch=given.batch, keep=given.keep, batches=given.batches
        )
        print(f"{threads:8}{wait.loading:13.3f}{wait.waiting:11.3f}", flush=True)


if __name__ == "__main__":
    main()
