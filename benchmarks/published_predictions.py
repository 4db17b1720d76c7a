"""Scores the published predictions of Lea et al. (CVPR 2017) and counts three data sets, through our readers.

    python -m benchmarks.published_predictions --data DIR

It needs no features and no training: it shows that labels, splits and metrics are read as others read them. `DIR` holds

```
gtea/        groundTruth/, mapping.txt, splits/, timestamps.json,    predictions_lea2017/<model>_split<k>.npz
50salads/    groundTruth.tar.gz, mapping.txt, splits/, timestamps.json.gz, predictions_lea2017_mid/<model>_split<k>.npz
breakfast/   groundTruth.tar.gz, mapping.txt, splits/, timestamps.json.gz
```

Labels, mapping and splits as in the MS-TCN release. `timestamps` gives one frame per segment and video (the point
annotations of `ZheLi2020/TimestampActionSeg`), which the segments must contain. The predictions are those of
`colincsl/TemporalConvolutionalNetworks`, sub-sampled by their authors, with arrays `<video>/Y` (truth) and `<video>/P`
(prediction) of class indices in an order of their own. Scores are pooled over the videos of a split, then averaged over
splits; the values to compare with were computed by others from the same files.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import pathlib
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence

import numpy as np

from actloc_jax.data.segmentation import SegmentationFolder
from actloc_jax.metrics import segmentation as metrics

METRICS = ("Acc", "Edit", "F1@10", "F1@25", "F1@50")


@dataclasses.dataclass(frozen=True)
class Published:
    """Predictions of one model, and the scores that others computed from them.

    Attributes:
        data: folder of the data set.
        predictions: folder of the predictions in it.
        model: how the files of the model begin, up to `_split<k>.npz`.
        background: class indices that are no action.
        scores: mean over splits, in the order of `METRICS`.
    """

    data: str
    predictions: str
    model: str
    background: tuple[int, ...]
    scores: tuple[float, ...]


GTEA, SALADS = ("gtea", "predictions_lea2017"), ("50salads", "predictions_lea2017_mid")
PUBLISHED = (
    Published(*GTEA, "ED-TCN_L2_C25", (0,), (63.41, 69.89, 72.25, 67.60, 55.23)),
    Published(*GTEA, "ED-TCN_L2_C25", (), (63.41, 65.64, 68.51, 62.18, 48.94)),
    Published(*GTEA, "DilatedTCN_L5_B2", (0,), (61.35, 52.86, 59.79, 53.17, 39.12)),
    Published(*SALADS, "ED-TCN_L2_C15", (), (64.35, 50.34, 58.01, 54.07, 43.17)),
    Published(*SALADS, "DilatedTCN_B3_L5", (), (58.46, 41.25, 45.69, 41.36, 31.76)),
    Published(*SALADS, "tCNN_C36", (), (59.26, 40.58, 49.40, 43.75, 32.20)),
)


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a data set is known to hold.

    Attributes:
        videos, frames, classes: totals.
        shortest, longest: frames of a video.
        splits: videos to train and to test, per split.
        frames_per_timestamp: frames of the labels per frame of the point annotations.
    """

    videos: int
    frames: int
    classes: int
    shortest: int
    longest: int
    splits: tuple[tuple[int, int], ...]
    frames_per_timestamp: int = 1


EXPECTED = {
    "gtea": Expected(28, 31_225, 11, 634, 2009, ((21, 7),) * 4),
    "50salads": Expected(50, 577_595, 19, 7555, 18_143, ((40, 10),) * 5, frames_per_timestamp=2),
    "breakfast": Expected(1712, 3_590_899, 48, 130, 9741, ((1460, 252), (1261, 451), (1279, 433), (1136, 576))),
}


def open_folder(root: pathlib.Path, scratch: pathlib.Path) -> SegmentationFolder:
    """The data set in `root`; packed labels are unpacked into a folder under `scratch`."""
    archive = root / "groundTruth.tar.gz"
    if not archive.exists():
        return SegmentationFolder(root)
    unpacked = scratch / root.name
    unpacked.mkdir()
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    shutil.copy(root / "mapping.txt", unpacked)
    shutil.copytree(root / "splits", unpacked / "splits")
    return SegmentationFolder(unpacked)


def read_timestamps(root: pathlib.Path) -> dict[str, list[int]]:
    """Video -> one frame per segment, in order."""
    path = root / "timestamps.json"
    text = path.read_text() if path.exists() else gzip.decompress((root / "timestamps.json.gz").read_bytes())
    return {video.removesuffix(".txt"): frames for video, frames in json.loads(text).items()}


def contains(segments: metrics.Segments, frames: Sequence[int]) -> bool:
    """Whether each segment contains the frame of the same number, and there are as many."""
    if len(segments) != len(frames):
        return False
    frames = np.asarray(frames)
    return bool(np.all((segments.starts <= frames) & (frames < segments.ends)))


def print_count(name: str, root: pathlib.Path, folder: SegmentationFolder) -> bool:
    """Reads all labels and splits of a data set and prints a row of the table.

    Returns:
        Whether all is as expected, every segment contains its point annotation, and every video is tested once.
    """
    rate = EXPECTED[name].frames_per_timestamp
    videos = sorted(path.stem for path in (folder.root / "groundTruth").iterdir())
    labels = {video: folder.labels(video) for video in videos}
    runs = {video: metrics.segments(one, background=()) for video, one in labels.items()}
    points = read_timestamps(root)
    agreeing = sum(contains(run, rate * np.asarray(points.get(video, []))) for video, run in runs.items())
    lengths = [len(one) for one in labels.values()]
    splits = tuple((len(folder.videos("train", k)), len(folder.videos("test", k))) for k in folder.splits())
    found = Expected(len(videos), sum(lengths), folder.num_classes, min(lengths), max(lengths), splits, rate)
    tested_once = sorted(video for k in folder.splits() for video in folder.videos("test", k)) == videos
    sizes = ", ".join(f"{train}/{test}" for train, test in splits)
    print(
        f"{name:10s} {found.videos:6d} {found.frames:8d} {sum(map(len, runs.values())):8d} {found.classes:7d} "
        f"{f'{found.shortest}..{found.longest}':>12s} {agreeing:6d} {'yes' if tested_once else 'NO':>6s}  {sizes}"
    )
    if found != EXPECTED[name]:
        print(f"    DIFFERS: found {found}, expected {EXPECTED[name]}")
    return found == EXPECTED[name] and agreeing == found.videos and tested_once


def read_predictions(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Predicted and true class indices of the videos of one file, each [time]."""
    with np.load(path) as arrays:
        videos = sorted({name.rpartition("/")[0] for name in arrays.files})
        return {v: arrays[f"{v}/P"] for v in videos}, {v: arrays[f"{v}/Y"] for v in videos}


def score(published: Published, data: pathlib.Path) -> tuple[list[float], int]:
    """Scores of published predictions, in the order of `METRICS`, and the number of splits they are the mean of."""
    paths = sorted((data / published.data / published.predictions).glob(f"{published.model}_split*.npz"))
    options = {"background": published.background, "segment_end": "exclusive"}
    mean = metrics.mean_over_splits([metrics.evaluate(*read_predictions(path), **options) for path in paths])
    return [mean[name] for name in METRICS], len(paths)


def differing_frames(folder: SegmentationFolder, paths: Iterable[pathlib.Path], every: int) -> tuple[int, int]:
    """Frames at which the truth beside the predictions is not that of the folder, and frames compared.

    Args:
        folder: the data set.
        paths: prediction files; their class indices are the alphabetical order of the names.
        every: frames of the folder per frame of the predictions.
    """
    names = np.array(sorted(folder.class_names))
    differing = compared = 0
    for path in paths:
        for video, truth in read_predictions(path)[1].items():
            expected = np.array(folder.class_names)[folder.labels(video)[::every][: len(truth)]]
            differing += int(np.sum(names[truth] != expected))
            compared += len(truth)
    return differing, compared


def print_counts(data: pathlib.Path, scratch: pathlib.Path) -> bool:
    """Prints the table of the data sets; returns whether all are as expected."""
    titles = (
        f"{'videos':>6s} {'frames':>8s} {'segments':>8s} {'classes':>7s} {'lengths':>12s} {'points':>6s} {'tested':>6s}"
    )
    print(f"{'data set':10s} {titles}  train/test")
    as_expected = True
    for name in EXPECTED:
        folder = open_folder(data / name, scratch)
        as_expected &= print_count(name, data / name, folder)
        if name == "gtea":
            paths = sorted((data / name / GTEA[1]).glob("ED-TCN*.npz"))
            differing, compared = differing_frames(folder, paths, every=5)
            as_expected &= differing == 0
            print(f"{'':10s} {differing} of {compared} frames differ from the truth beside the predictions")
    print("points: videos whose segments each contain their point annotation; tested: each video once over the splits")
    return as_expected


def print_scores(data: pathlib.Path) -> bool:
    """Prints the table of the predictions; returns whether all scores agree to the two decimals that are given."""
    print(f"\n{'data set':10s} {'model':17s} {'background':10s} {'splits':>6s}" + "".join(f"{m:>17s}" for m in METRICS))
    agree = True
    for published in PUBLISHED:
        ours, splits = score(published, data)
        pairs = "".join(f"{f'{a:.2f} ({b:.2f})':>17s}" for a, b in zip(ours, published.scores, strict=True))
        kept = "ignored" if published.background else "kept"
        print(f"{published.data:10s} {published.model:17s} {kept:10s} {splits:6d}{pairs}")
        agree &= bool(np.all(np.abs(np.subtract(ours, published.scores)) < 0.006))
    print("ours (computed by others from the same files)")
    return agree


def main() -> None:
    """Prints both tables; exits with 1 if something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with gtea/, 50salads/, breakfast/")
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory() as scratch:
        counted = print_counts(data, pathlib.Path(scratch))
    scored = print_scores(data)
    if not (counted and scored):
        sys.exit("something differs, see above")
    print("everything agrees")


if __name__ == "__main__":
    main()
