"""Text files that grow or are replaced while a run goes on, on local and on remote (`gs://`) paths."""

from __future__ import annotations

import os
import threading
import time

from etils import epath

_REMOTE_INTERVAL_SEC = 30.0


class AppendFile:
    """A text file opened for appending, with the `write` and `flush` that `logging.StreamHandler` wants.

    A local file is written line by line, so that a crash loses nothing. Object stores cannot append: there the whole
    file is written again, at most every 30 seconds, and when it is closed.
    """

    def __init__(self, path: epath.PathLike) -> None:
        self._path = epath.Path(path)
        self._lock = threading.Lock()
        self._remote = "://" in os.fspath(self._path)
        before = self._path.read_text() if self._path.exists() else ""
        broken = bool(before) and not before.endswith("\n")  # a crash in the middle of a line
        if self._remote:
            self._text = before + "\n" * broken
            self._dirty, self._written_at = broken, time.monotonic()
        else:
            self._file = open(self._path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  closed by `close`
            self._file.write("\n" * broken)

    def write(self, text: str) -> None:
        """Appends `text`."""
        with self._lock:
            if self._remote:
                self._text += text
                self._dirty = True
            else:
                self._file.write(text)
        self.flush()

    def flush(self) -> None:
        """Makes what was written visible to other readers; on a remote path only if the last time is long ago."""
        with self._lock:
            if not self._remote:
                self._file.flush()
            elif time.monotonic() - self._written_at > _REMOTE_INTERVAL_SEC:
                self._upload()

    def close(self) -> None:
        """Writes out what is left and closes the file."""
        with self._lock:
            if self._remote:
                self._upload()
            else:
                self._file.close()

    def _upload(self) -> None:
        if self._dirty:
            self._path.write_text(self._text)
            self._dirty, self._written_at = False, time.monotonic()


def replace_text(path: epath.PathLike, text: str) -> None:
    """Writes a small file whole or not at all: under a temporary name, then renamed."""
    path = epath.Path(path)
    temporary = path.parent / f"{path.name}.tmp"
    temporary.write_text(text)
    temporary.replace(path)
