"""Where the files of a conversion come from and go to."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath


def fetch(source: str) -> epath.Path:
    """The file that `source` names: a path (also gs://), or hf://owner/repository/path/in/it[@revision].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an hf:// address is incomplete, or `huggingface_hub` is not installed.
    """
    if not source.startswith("hf://"):
        path = epath.Path(source)
        if not path.exists():
            raise FileNotFoundError(f"no file at {source}")
        return path
    address, _, revision = source.removeprefix("hf://").partition("@")
    parts = address.split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise ValueError(f"{source} is not an address like hf://owner/repository/gtea/split_1_best.pth")
    try:
        import huggingface_hub
    except ImportError as err:
        raise ValueError(
            f"{source} needs huggingface_hub: pip install huggingface_hub, or download the file and give its path"
        ) from err
    try:
        local = huggingface_hub.hf_hub_download("/".join(parts[:2]), parts[2], revision=revision or None)
    except (OSError, ValueError) as err:  # no network, no such repository or file, no permission
        raise FileNotFoundError(f"{source} could not be downloaded: {err}") from err
    return epath.Path(local)


def sha256(path: epath.Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    return _checksum(path, hashlib.sha256())


def md5(path: epath.Path) -> str:
    """Hexadecimal MD5 of a file, by which published weights are often listed; it protects nothing."""
    return _checksum(path, hashlib.md5(usedforsecurity=False))


def _checksum(path: epath.Path, digest: Any) -> str:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_npz(path: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz with these names, whole or not at all: under another name first, then renamed."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / (path.name + ".partial")
    partial.write_bytes(content.getvalue())
    partial.replace(path)
