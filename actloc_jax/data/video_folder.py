"""A folder of videos, each a file of its own (numpy only).

```
<root>/<video>.mp4 (.mkv, .avi ...)  or  <root>/<video>/00001.png ...  or  <root>/<video>.npy
```
"""

from __future__ import annotations

import functools
from typing import Any

from etils import epath

from actloc_jax.data.video_files import VIDEO_SUFFIXES
from actloc_jax.data.video_frames import IMAGE_SUFFIXES, Frames, open_frames

PREFIX = "v_"
"""Of ActivityNet's files, which its own annotations leave out."""


def spellings(video: str) -> tuple[str, ...]:
    """How files may call a video: as annotated, or with ActivityNet's prefix."""
    return (video,) if video.startswith(PREFIX) else (video, PREFIX + video)


class VideoFolder:
    """Finds and opens the videos of a folder.

    Args:
        root: the folder.

    Raises:
        FileNotFoundError: no such folder.
    """

    def __init__(self, root: epath.PathLike) -> None:
        self.root = epath.Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} does not exist; expected a folder of videos, one <video>.mp4 each")

    @functools.cached_property
    def _entries(self) -> frozenset[str]:
        return frozenset(path.name for path in self.root.iterdir())

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """All videos of the folder, in alphabetical order."""
        found = set()
        for path in self.root.iterdir():
            if holds_images(path) if path.is_dir() else path.suffix.lower() in (*VIDEO_SUFFIXES, ".npy"):
                found.add(path.name if path.is_dir() else path.stem)
        return tuple(sorted(found))

    def path(self, video: str) -> epath.Path:
        """Where a video lies. Raises FileNotFoundError if it is not there."""
        for stem in spellings(video):
            for name in (*(stem + suffix for suffix in VIDEO_SUFFIXES), stem, f"{stem}.npy"):
                if name in self._entries:
                    return self.root / name
        raise FileNotFoundError(
            f"{self.root} has no video {video}; expected {video}.mp4 (or {', '.join(VIDEO_SUFFIXES[1:4])} ...), "
            f"a folder {video}/ of images, or {video}.npy"
        )

    def open(self, video: str, **options: Any) -> Frames:
        """The frames of a video; options and errors as `open_frames`."""
        return open_frames(self.path(video), **options)


def holds_images(folder: epath.Path) -> bool:
    """Whether a folder has images in it."""
    return any(child.suffix.lower() in IMAGE_SUFFIXES for child in folder.iterdir())
