"""Extraction: videos in, features of a named recipe out, with a manifest beside each that says how they were made.

```
<workdir>/<video>.npy      the features, in the layout of the recipe
<workdir>/<video>.json     recipe, networks, frames, rate, windows (data/feature_manifests.py)
```
Videos whose two files are there and fit are left alone. A video that fails is reported, and the others go on.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

import actloc_jax
from actloc_jax.backbones.feature_pass import FeaturePass, StreamNetwork, facts_of, load_stream
from actloc_jax.backbones.optical_flow import optical_flow
from actloc_jax.data import feature_outputs, window_stream
from actloc_jax.data.constant_rate import varies
from actloc_jax.data.feature_manifests import Manifest, key_of
from actloc_jax.data.feature_recipes import Recipe, recipe_of
from actloc_jax.data.video_files import VIDEO_SUFFIXES, VideoFile
from actloc_jax.training.progress import Progress

log = logging.getLogger(__name__)

USUAL_RATES = (12.0, 35.0)
"""Frames per second that differ little from the 25 on which I3D was trained."""

_PICTURES_AT_ONCE = {"cpu": 84, "other": 672}  # of a shard, about: 4 and 32 windows of 21 frames


@dataclasses.dataclass(frozen=True)
class Networks:
    """Where the networks are, and what computes optical flow.

    Attributes:
        rgb, flow: folders of converted I3D checkpoints; "" for none.
        optical_flow: an algorithm of `backbones/optical_flow.py`; "" for the recipe's.
        raft: folder of a converted RAFT checkpoint, where it is the algorithm.
    """

    rgb: str = ""
    flow: str = ""
    optical_flow: str = ""
    raft: str = ""


NO_NETWORKS = Networks()


@dataclasses.dataclass(frozen=True)
class Extracted:
    """What came of the videos, by their names (file names without suffix).

    Attributes:
        features: the files, those that were there before included.
        failed: why there are none.
    """

    features: dict[str, epath.Path]
    failed: dict[str, str]


@dataclasses.dataclass
class _Video:
    """A video that is being extracted."""

    path: epath.Path
    file: VideoFile
    out: epath.Path
    manifest: Manifest
    parts: np.ndarray
    missing: int
    error: str = ""


def from_flags(recipe: str, inputs: Sequence[str], workdir: epath.PathLike, networks: Networks) -> int:
    """What `--mode=extract` does; returns the exit status, 1 if a video failed.

    Raises:
        FileNotFoundError, ValueError: see `extract`.
    """
    if not recipe or not inputs:
        raise ValueError(
            "--mode=extract needs --recipe=<name> and --inputs=<videos or folders>; --recipe=list shows the recipes."
        )
    found = extract(recipe_of(recipe), inputs, workdir, networks)
    log.info("features in %s: %d of %d videos", workdir, len(found.features), len(found.features) + len(found.failed))
    if found.failed:
        log.error("failed: %s", ", ".join(found.failed))
    return 1 if found.failed else 0


def extract(
    recipe: Recipe, inputs: Sequence[str], folder: epath.PathLike, networks: Networks, *, by_content: bool = False
) -> Extracted:
    """Extracts the features of videos.

    Args:
        recipe: which features.
        inputs: video files, folders of them, or text files that name one in each line.
        folder: where features go.
        networks: what computes them.
        by_content: write into `folder/<recipe and networks>/<content of the video>/`, as a cache for many.

    Returns:
        the files, and what failed.

    Raises:
        FileNotFoundError, ValueError: there are no videos, two have the same name, or a network is missing or wrong.
    """
    paths = video_files(inputs)[jax.process_index() :: jax.process_count()]
    recipe = _with_flow(recipe, networks)
    facts = _facts(recipe, networks)
    folder = epath.Path(folder) / key_of(recipe, facts) if by_content else epath.Path(folder)
    found = Extracted({}, {})
    waiting = []
    for path in paths:
        try:
            video = _opened(path, recipe, facts, folder, by_content)
        except (ValueError, OSError) as error:
            _fail(found, path, error)
            continue
        if feature_outputs.is_complete(video.out, recipe, video.manifest):
            found.features[path.stem] = feature_outputs.files_of(video.out, recipe)[0]
        else:
            waiting.append(video)
    if found.features:
        log.info("features of %d of %d videos are there already", len(found.features), len(paths))
    if waiting:
        _run(waiting, recipe, networks, found)
    return found


def video_files(inputs: Sequence[str]) -> list[epath.Path]:
    """The videos that a user names.

    Raises:
        FileNotFoundError: a path does not exist, or holds no video.
        ValueError: two videos have the same name, so that the features of one would replace the other's.
    """
    paths = []
    for name in inputs:
        path = epath.Path(name)
        if not path.exists():
            raise FileNotFoundError(f"--inputs: {path} does not exist; expected a video, or a folder of videos.")
        found = [path]
        if path.is_dir():
            found = sorted(child for child in path.iterdir() if child.suffix.lower() in VIDEO_SUFFIXES)
        elif path.suffix == ".txt":
            found = [epath.Path(line.strip()) for line in path.read_text().splitlines() if line.strip()]
        if not found:
            raise FileNotFoundError(f"--inputs: {path} names no videos; expected {', '.join(VIDEO_SUFFIXES[:4])} ...")
        paths += found
    names: dict[str, epath.Path] = {}
    for path in paths:
        if path.stem in names:
            raise ValueError(
                f"--inputs: {names[path.stem]} and {path} have the same name, and features are named by it; rename "
                "one, or extract them into different workdirs."
            )
        names[path.stem] = path
    return paths


def _with_flow(recipe: Recipe, networks: Networks) -> Recipe:
    """The recipe with the algorithm that the user asks for."""
    if not recipe.has("flow") or networks.optical_flow in ("", recipe.optical_flow):
        return recipe
    log.warning(
        "optical flow by %s instead of %s: the features differ from those of recipe %s",
        networks.optical_flow,
        recipe.optical_flow,
        recipe.name,
    )
    return dataclasses.replace(recipe, optical_flow=networks.optical_flow)


def _facts(recipe: Recipe, networks: Networks) -> dict[str, dict[str, Any]]:
    """What the manifest says of the networks. Raises ValueError if one is missing, FileNotFoundError if not found."""
    facts = {}
    for stream, folder in (("rgb", networks.rgb), ("flow", networks.flow)):
        if not recipe.has(stream):
            continue
        if not folder:
            other = "flow" if stream == "rgb" else "rgb"
            raise ValueError(
                f"recipe {recipe.name} needs the {stream} stream of I3D: give --{stream}=<folder>, made by python -m "
                f"convert i3d. For features of one stream: --recipe={recipe.name}:streams={other} (a model that was "
                "trained on both streams cannot use them)."
            )
        facts[stream] = _facts_of(stream, folder)
        port = facts[stream].get("port")
        if port and port != recipe.port:
            log.warning(
                "%s is I3D as %s computes it, recipe %s was made with that of %s: the epsilon of batch norms differs%s",
                folder,
                port,
                recipe.name,
                recipe.port,
                ", and the padding too for windows of this length" if recipe.window % 8 else "",
            )
    if recipe.has("flow"):
        facts["optical_flow"] = {"algorithm": recipe.optical_flow}
        if recipe.optical_flow == "raft":
            if not networks.raft:
                raise ValueError(
                    f"recipe {recipe.name} takes optical flow by raft: give --raft=<folder>, made by python -m convert "
                    "raft, or another algorithm (--optical_flow=tvl1), which gives other features."
                )
            facts["optical_flow"] |= _facts_of("raft", networks.raft)
    return facts


def _facts_of(flag: str, folder: str) -> dict[str, Any]:
    try:
        return facts_of(folder)
    except FileNotFoundError as error:
        kind = "raft" if flag == "raft" else "i3d"
        raise FileNotFoundError(
            f"--{flag}={folder} holds no checkpoint; make one of the published file: python -m convert {kind} <file> "
            f"{folder}"
        ) from error


def _opened(path: epath.Path, recipe: Recipe, facts: dict[str, Any], folder: epath.Path, by_content: bool) -> _Video:
    """A video with everything that can be said of its features before they are computed."""
    file = VideoFile(path, fps=recipe.fps or None)
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    frames = len(file)
    windows = recipe.windows_of(frames)
    rate = file.index.fps
    notes = _notes(recipe, file, frames)
    for note in notes:
        log.warning("%s: %s", path, note)
    about = {"name": path.name, "sha256": digest, "frames": len(file.index.times), "fps": rate}
    manifest = Manifest(
        recipe={"name": recipe.name, **recipe.fields()},
        video=about,
        frames=frames,
        fps=recipe.fps or rate,
        rows=frames if recipe.per_frame else len(windows.frames),
        channels=0,
        networks=facts,
        version=actloc_jax.__version__,
        notes=notes,
    )
    out = (folder / digest[:16] if by_content else folder) / path.stem
    return _Video(path, file, out, manifest, np.zeros(0), len(windows.frames))


def _notes(recipe: Recipe, file: VideoFile, frames: int) -> list[str]:
    """What is doubtful about the features of a video."""
    found, rate = [], file.index.fps
    if varies(file.index.times) and not recipe.fps:
        found.append(
            f"its frame rate varies (mean {rate:.3g}), and recipe {recipe.name} takes frames as they are: rows are not "
            f"evenly spread over time. Set a rate: --recipe={recipe.name}:fps=25"
        )
    if not recipe.fps and not USUAL_RATES[0] <= rate <= USUAL_RATES[1]:
        found.append(f"{rate:.3g} frames per second are far from the 25 on which I3D was trained")
    if recipe.fps > 1.5 * rate:
        found.append(f"{rate:.3g} frames per second are few for recipe {recipe.name}: frames are shown more than once")
    if frames < recipe.least_frames:
        found.append(
            f"{frames} frames are fewer than the {recipe.least_frames} of a window; the last stands still up to there"
        )
    if recipe.per_frame and recipe.stride > 1:
        found.append(f"an approximation: every {recipe.stride}th row is computed, those between are interpolated")
    return found


def _run(waiting: list[_Video], recipe: Recipe, networks: Networks, found: Extracted) -> None:
    """Decodes, computes and writes; threads decode and prepare ahead of the devices."""
    streams: dict[str, StreamNetwork] = {}
    for stream, folder in (("rgb", networks.rgb), ("flow", networks.flow)):
        if recipe.has(stream):
            streams[stream] = load_stream(folder, stream)
    flow = None
    if recipe.has("flow"):
        options = {"weights": networks.raft, "unpadded": not recipe.flow_padded} if networks.raft else {}
        flow = optical_flow(recipe.optical_flow, **options)
    compute = FeaturePass(streams, {"rgb": 0.0, "flow": recipe.no_motion})
    channels = sum(network.channels for network in streams.values())
    for video in waiting:
        video.parts = np.zeros([video.missing, recipe.crops, channels], np.float32)
        video.manifest = dataclasses.replace(video.manifest, channels=channels)
    total, done = sum(video.missing for video in waiting), 0
    pictures = _PICTURES_AT_ONCE["cpu" if jax.default_backend() == "cpu" else "other"]
    at_once = min(pictures // (recipe.window * recipe.crops), -(-total // compute.shards))
    rows = _rows(waiting, recipe, flow)
    blocks = window_stream.in_thread(
        window_stream.blocks(rows, recipe, shards=compute.shards, at_once=max(at_once, 1)), ahead=2
    )
    computing: collections.deque[tuple[Any, jax.Array]] = collections.deque()
    with Progress(total, name="extract", process_index=jax.process_index()) as progress, contextlib.closing(blocks):
        for block in blocks:
            computing.append((block.rows, compute(block.pictures, block.windows)))
            if len(computing) > 1:
                done += _collect(waiting, *computing.popleft(), recipe, found)
                progress.update(done)
        while computing:
            done += _collect(waiting, *computing.popleft(), recipe, found)
        progress.update(done)
    for video in waiting:
        if video.error:
            _fail(found, video.path, video.error)


def _rows(waiting: list[_Video], recipe: Recipe, flow: Callable | None) -> Iterator[window_stream.Row]:
    """The rows of all videos; one that cannot be read to its end is given up."""
    for number, video in enumerate(waiting):
        frames = window_stream.in_thread(video.file.frames(), ahead=16)
        with contextlib.closing(frames):
            try:
                yield from window_stream.rows_of_video(number, frames, video.manifest.frames, recipe, flow)
            except (ValueError, OSError) as error:
                video.error = str(error)


def _collect(
    waiting: list[_Video], rows: list[list[tuple[int, int]]], features: jax.Array, recipe: Recipe, found: Extracted
) -> int:
    """Puts the features of a block to their videos, and writes those that are complete."""
    values = np.asarray(features)
    for shard, places in enumerate(rows):
        for window, (number, row) in enumerate(places):
            video = waiting[number]
            video.parts[row] = values[shard, window]
            video.missing -= 1
            if not video.missing and not video.error:
                feature_outputs.write(video.out, recipe, video.parts, video.manifest)
                video.parts = np.zeros(0)
                found.features[video.path.stem] = feature_outputs.files_of(video.out, recipe)[0]
    return sum(map(len, rows))


def _fail(found: Extracted, path: epath.Path, error: object) -> None:
    text = str(error) if os.fspath(path) in str(error) else f"{path}: {error}"
    log.error("%s", text)
    found.failed[path.stem] = text
