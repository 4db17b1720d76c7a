"""JSON files, also gzipped, read with clear errors and written whole or not at all (numpy only)."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

from etils import epath


def read_json(path: epath.PathLike, *, what: str, repeated: Callable[[str], None] | None = None) -> Any:
    """The content of a `.json` or `.json.gz` file.

    Args:
        path: the file; it is unpacked if it begins like a gzip file, whatever its name.
        what: what the file should be, for messages.
        repeated: called with every key that one object holds twice (JSON readers silently keep the last one).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or a damaged gzip file.
    """

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if repeated is not None and len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            for key in dict.fromkeys(key for key in keys if keys.count(key) > 1):
                repeated(key)
        return found

    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected {what}")
    data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
        return json.loads(text, object_pairs_hook=to_dict)
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is not a readable JSON file ({error}); expected {what}") from error


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes JSON, gzipped if the name ends with `.gz`; the file appears under its name only when it is complete."""
    path = epath.Path(path)
    data = json.dumps(value, allow_nan=False).encode("utf-8")
    unfinished = path.parent / f".{path.name}.unfinished"
    # No time stamp inside, so that equal content gives equal bytes.
    unfinished.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    unfinished.replace(path)
