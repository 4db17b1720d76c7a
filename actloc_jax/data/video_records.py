"""Videos in ArrayRecord files: the form for jobs that should not open thousands of small files (numpy only).

    python -m actloc_jax.data.video_records data/thumos/videos data/thumos/records
    python -m actloc_jax.data.video_records data/thumos/videos data/thumos/records --images=jpg --fps=15 --size 256 256

The first copies what there is: whole video files, images, frames of arrays. The second decodes video files once, into
images at the rate and size that training asks for, so that a chunk is read without decoding what is before it. A config
reads either as it reads a folder of videos: `--config.data.videos=records`.

```
<out>/videos.json                         where each video is, see `Place`
<out>/videos-00000-of-00003.array_record  records one after another
```
A video is either a file, two records (the times of its frames, then its bytes), or one record for each frame. Each is
read on its own. This is no builder of tensorflow-datasets as those of features are, since those collect all records of
a data set in memory before they write them.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from etils import epath
from PIL import Image

from actloc_jax.data.json_files import write_json
from actloc_jax.data.recorded_videos import INDEX, Form, Place, array_record_module, holds_records
from actloc_jax.data.video_files import VideoFile
from actloc_jax.data.video_folder import VideoFolder
from actloc_jax.data.video_frames import FrameFolder, Frames, open_frames

SHARD_BYTES = 2**30
BLOCK = 64  # frames of a video that are decoded together
Kept = Literal["as_they_are", "png", "jpg"]


def write_records(
    folder: epath.PathLike,
    out: epath.PathLike,
    *,
    images: Kept = "as_they_are",
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    max_frames: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> epath.Path:
    """Writes the videos of a folder; the index comes last, so that an unfinished folder is not taken for a whole one.

    Args:
        folder: video files, folders of images, or `.npy` arrays of frames.
        out: an empty or new folder.
        images: `"as_they_are"`, or decode video files and arrays into images of this kind.
        fps: of decoded frames; where video files are decoded, to which rate. None: their own; of decoded frames
            unknown.
        size: (height, width) of decoded video files; None: their own.
        max_frames: see `VideoFile`.
        shard_bytes: a new file is begun after so many.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: no such folder, or no videos in it.
        ValueError: `out` holds records already, videos that cannot be read (all are named), or an option that has no
            use here.
    """
    source, out = VideoFolder(folder), epath.Path(out)
    if holds_records(out):
        raise ValueError(f"{out} holds videos already; choose another folder, or delete it")
    if images not in ("as_they_are", "png", "jpg"):
        raise ValueError(f"images={images!r} is unknown; use as_they_are, png or jpg")
    if images == "as_they_are" and (size or max_frames):
        raise ValueError("a size or a number of frames needs images=png or images=jpg: what is copied keeps its own")
    if not source.names:
        raise FileNotFoundError(
            f"{source.root} holds no videos; expected <video>.mp4, <video>/ of images or <video>.npy"
        )
    options = {"fps": fps, "size": size, "max_frames": max_frames} if images != "as_they_are" else {"fps": None}
    opened = _open_all(source, {**options, "rate": lambda count: fps or 0.0})
    out.mkdir(parents=True, exist_ok=True)
    places = {}
    with _Shards(out, shard_bytes) as shards:
        for video, frames in opened.items():
            if isinstance(frames, VideoFile) and images == "as_they_are":
                places[video] = _write_file(frames, shards)
            else:
                places[video] = _write_frames(frames, shards, images, fps)
        names = shards.finish()
    entries = {video: dataclasses.asdict(place) for video, place in places.items()}
    write_json(out / INDEX, {"shards": names, "videos": entries})
    return out


def _open_all(source: VideoFolder, options: dict[str, Any]) -> dict[str, Frames]:
    """All videos. Raises ValueError that names those that cannot be read."""
    opened, wrong = {}, []
    for video in source.names:
        try:
            opened[video] = open_frames(source.path(video), **options)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(source.names)} videos cannot be read:\n  " + "\n  ".join(wrong))
    return opened


def _write_file(video: VideoFile, shards: _Shards) -> Place:
    """A video file as it is."""
    index = video.index
    first = shards.write(index.times.astype(np.int64).tobytes())
    shards.write(video.path.read_bytes())
    base = (index.time_base.numerator, index.time_base.denominator)
    shape = (index.height, index.width, 3)
    return Place("file", first, len(index.times), shape, None, video.path.suffix, base, index.start)


def _write_frames(frames: Frames, shards: _Shards, images: Kept, fps: float | None) -> Place:
    """One record for each frame; images are copied, all else is encoded where that is asked for."""
    if isinstance(frames, FrameFolder):
        contents: Iterator[bytes] = (file.read_bytes() for file in frames.files)
    else:
        starts = range(0, len(frames), BLOCK)
        blocks = (frames.read(start, min(BLOCK, len(frames) - start)) for start in starts)
        contents = (_encoded(picture, images) for block in blocks for picture in block)
    form: Form = "image" if isinstance(frames, FrameFolder) or images != "as_they_are" else "array"
    numbers = [shards.write(content) for content in contents]
    rate = frames.fps if isinstance(frames, VideoFile) else fps
    return Place(form, numbers[0], len(numbers), tuple(frames.shape), rate)


def _encoded(picture: np.ndarray, images: Kept) -> bytes:
    """A frame as bytes, or as the file of an image."""
    if images == "as_they_are":
        return picture.tobytes()
    buffer = io.BytesIO()
    Image.fromarray(picture).save(
        buffer, **({"format": "PNG"} if images == "png" else {"format": "JPEG", "quality": 95})
    )
    return buffer.getvalue()


class _Shards:
    """Writes records one after another into files of about the same size; after an error nothing of them is left."""

    def __init__(self, folder: epath.Path, shard_bytes: int) -> None:
        self._folder, self._limit = folder, shard_bytes
        self._unfinished: list[epath.Path] = []
        self._writer: Any = None
        self._room = 0
        self._count = 0

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, kind: Any, *exception: Any) -> None:
        if kind is not None:
            self._close()
            for path in self._unfinished:
                path.unlink(missing_ok=True)

    def write(self, content: bytes) -> int:
        """Writes a record and returns its number."""
        if self._writer is None or self._room < len(content):
            self._next()
        self._writer.write(content)
        self._room -= len(content)
        self._count += 1
        return self._count - 1

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _next(self) -> None:
        self._close()
        self._unfinished.append(self._folder / f".{len(self._unfinished):05d}.unfinished")
        # Records are compressed already; each is read on its own.
        self._writer = array_record_module("array_record_module").ArrayRecordWriter(
            str(self._unfinished[-1]), "group_size:1,uncompressed"
        )
        self._room = self._limit

    def finish(self) -> list[str]:
        """Gives the files their names, and says them."""
        self._close()
        count = len(self._unfinished)
        names = [f"videos-{number:05d}-of-{count:05d}.array_record" for number in range(count)]
        for path, name in zip(self._unfinished, names, strict=True):
            path.rename(self._folder / name)
        return names


def main() -> None:
    """Writes the videos of a folder from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="video files, folders of images, or .npy arrays of frames")
    parser.add_argument("out", help="where the records go, a new folder")
    parser.add_argument(
        "--images", default="as_they_are", help="as_they_are, or decode video files and arrays into png or jpg"
    )
    parser.add_argument("--fps", type=float, default=None, help="frames per second of decoded frames")
    parser.add_argument("--size", type=int, nargs=2, default=None, help="height and width of decoded video files")
    parser.add_argument("--max_frames", type=int, default=None, help="lowers the rate of longer videos")
    arguments = vars(parser.parse_args())
    size = arguments.pop("size")
    try:
        print(write_records(**arguments, size=size and tuple(size)))
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
