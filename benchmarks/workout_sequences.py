"""Joins real clips of gym exercises to untrimmed sequences with known boundaries, in the MS-TCN layout.

    python -m benchmarks.workout_sequences workout_i3d_f16.npz --out=data/workout

The archive holds one array `<exercise>_<number>` of I3D features [rows, 2048] per trimmed clip (505 clips of 21
exercises, from `sazzadadib/CSE499A--BBFormer:data/thumos/i3d_features`). The features are real, their order is not:

* A row is worth 8 frames, and clips count from 2 up to 12 rows, so that a segment lasts 16 to 96 frames. Clips of one
  row, two fifths of them, are left out: they have no course over time. Of longer clips the first 12 rows are taken.
* Rows are interpolated linearly along the whole sequence, across the joints too, as the windows of a feature extractor
  that slides over the joint would see both exercises: boundaries are ambiguous by about a row.
* Every clip is in one sequence. Split k tests on the sequences made from fold k of the clips. The clips of an exercise
  are dealt to the folds in runs of their numbers, because neighbouring numbers may come from one recording: the
  nearest clip of the other folds has the right class for 84% of the clips, against 92% if they are dealt at random.
* Two clips of an exercise do not follow each other where another order is left.

There is no background class, and the order of exercises is random, so that nothing can be learnt from it: these data
show that training, decoding and scoring work on real features, and not what a model gains from the order of actions.
To train TST on them:

    python -m actloc_jax.main --config=configs/tst_gtea.py --workdir=runs/workout --config.data.root=data/workout \\
        --config.data.num_classes=21 --config.data.feature_dim=2048 --config.data.split=1 \\
        --config.diffact.epochs=300 --config.diffact.evaluate_every=50 --config.data.max_buckets=2

`--config.data.split=all` trains and averages all four splits.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from benchmarks import msctn_folder

FRAMES_PER_ROW = 8
MIN_ROWS, MAX_ROWS = 2, 12


def read_clips(path: pathlib.Path) -> dict[str, list[np.ndarray]]:
    """Exercise (blanks replaced, in alphabetical order) -> its clips [rows, channels] float32 in order of number.

    Raises:
        ValueError: the archive has no clip that is long enough.
    """
    numbered: dict[str, list[tuple[int, np.ndarray]]] = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            exercise, _, number = name.rpartition("_")
            rows = arrays[name][:MAX_ROWS].astype(np.float32)
            if len(rows) >= MIN_ROWS:
                numbered.setdefault(exercise.replace(" ", "_"), []).append((int(number), rows))
    if not numbered:
        raise ValueError(f"{path} has no array <exercise>_<number> of at least {MIN_ROWS} rows")
    return {
        exercise: [rows for _, rows in sorted(clips, key=lambda clip: clip[0])]
        for exercise, clips in sorted(numbered.items())
    }


def deal(clips: dict[str, list[np.ndarray]], num_folds: int) -> list[list[tuple[str, np.ndarray]]]:
    """Every clip to one fold, each exercise in runs of its numbers; exercises with few clips miss some folds."""
    folds: list[list[tuple[str, np.ndarray]]] = [[] for _ in range(num_folds)]
    for exercise, own in clips.items():
        for fold, positions in zip(folds, np.array_split(np.arange(len(own)), num_folds), strict=True):
            fold += [(exercise, own[position]) for position in positions]
    return folds


def shuffle(clips: list[tuple[str, np.ndarray]], rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """A random order in which, where another is left, an exercise does not follow itself."""
    left = [clips[position] for position in rng.permutation(len(clips))]
    order = [left.pop(0)]
    while left:
        other = (position for position, clip in enumerate(left) if clip[0] != order[-1][0])
        order.append(left.pop(next(other, 0)))
    return order


def join(clips: list[tuple[str, np.ndarray]]) -> tuple[np.ndarray, list[str]]:
    """One sequence.

    Returns:
        features [time, channels] float32, interpolated between the middles of the rows; class name of every frame.
    """
    rows = np.concatenate([clip for _, clip in clips])
    position = (np.arange(FRAMES_PER_ROW * len(rows)) + 0.5) / FRAMES_PER_ROW - 0.5
    position = np.clip(position, 0, len(rows) - 1)
    before = np.floor(position).astype(int)
    after = np.minimum(before + 1, len(rows) - 1)
    weight = (position - before)[:, None].astype(np.float32)
    names = [exercise for exercise, clip in clips for _ in range(FRAMES_PER_ROW * len(clip))]
    return (1 - weight) * rows[before] + weight * rows[after], names


def write(archive: pathlib.Path, out: pathlib.Path, *, num_folds: int, clips_per_sequence: int, seed: int) -> None:
    """Writes the data folder and prints what it holds."""
    clips = read_clips(archive)
    msctn_folder.create(out, list(clips))
    rng = np.random.default_rng(seed)
    folds, lengths = [], []
    for number, fold in enumerate(deal(clips, num_folds), start=1):
        order = shuffle(fold, rng)
        count = max(1, round(len(order) / clips_per_sequence))
        videos = []
        for part, positions in enumerate(np.array_split(np.arange(len(order)), count), start=1):
            features, names = join([order[position] for position in positions])
            videos.append(f"fold{number}_sequence{part:02d}")
            lengths.append(len(names))
            msctn_folder.write_video(out, videos[-1], np.ascontiguousarray(features.T), names)
        folds.append(videos)
    msctn_folder.write_splits(out, folds)
    print(
        f"{out}: {len(lengths)} sequences of {min(lengths)} to {max(lengths)} frames ({sum(lengths)} together) from "
        f"{sum(map(len, clips.values()))} clips of {len(clips)} exercises; splits 1 to {num_folds}"
    )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=pathlib.Path, help="the .npz file of clips")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="data folder to write")
    parser.add_argument("--folds", type=int, default=4, help="number of splits")
    parser.add_argument("--clips", type=int, default=11, help="clips per sequence, about")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the clips")
    arguments = parser.parse_args()
    write(
        arguments.archive,
        arguments.out,
        num_folds=arguments.folds,
        clips_per_sequence=arguments.clips,
        seed=arguments.seed,
    )


if __name__ == "__main__":
    main()
