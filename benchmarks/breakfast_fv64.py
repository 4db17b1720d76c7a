"""Lays out untrimmed Breakfast videos with 64-channel Fisher vectors as an MS-TCN folder, one video held out in turn.

    python -m benchmarks.breakfast_fv64 features_fv64 --out=data/breakfast_fv64

`features_fv64` holds `<video>.npy` [time, 64] (Fisher vectors of improved dense trajectories, from the example data of
`Annusha/unsup_temp_embed`), `groundTruth/<video>` and `mapping/mapping.txt`, as ASOT and CTE read them. The copy has

* the features as they are, time first, which the reader detects;
* a mapping of the classes that occur in these videos alone, in the order of the full one: of the 48 classes, the five
  coffee videos show five, and the others could not be learnt;
* as many splits as videos: split k tests on the k-th video (in alphabetical order) and trains on the others.

Four training videos cannot show how good a model is. They show that real features of another kind and width train,
that the loss falls, and how far a model gets that sees each action a handful of times. To train TST on them:

    python -m actloc_jax.main --config=configs/tst_gtea.py --workdir=runs/breakfast_fv64 \\
        --config.data.root=data/breakfast_fv64 --config.data.num_classes=5 --config.data.feature_dim=64 \\
        --config.data.splits="(1, 2, 3, 4, 5)" --config.data.split=all \\
        --config.diffact.epochs=1000 --config.diffact.evaluate_every=250 --config.data.max_buckets=1

(`--config.data.split=1` for one split; one padded length, because compiling takes longer here than the padding costs).
`SIL`, Breakfast's background, counts as an action, as in the publications.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from actloc_jax.data.segmentation import SegmentationFolder
from benchmarks import msctn_folder


def write(source: pathlib.Path, out: pathlib.Path) -> None:
    """Writes the data folder and prints what it holds.

    Raises:
        FileNotFoundError: no features, labels or mapping in `source`.
    """
    folder = SegmentationFolder(source, features_dir="")
    videos = sorted(path.stem for path in source.glob("*.npy"))
    if not videos:
        raise FileNotFoundError(f"{source} has no .npy files; expected <video>.npy with the axes [time, channels]")
    names = {video: folder.label_names(video) for video in videos}
    occurring = set().union(*names.values())
    class_names = [name for name in folder.class_names if name in occurring]
    msctn_folder.create(out, class_names)
    for video in videos:
        msctn_folder.write_video(out, video, np.load(folder.feature_path(video)), names[video])
    msctn_folder.write_splits(out, [[video] for video in videos])
    lengths = [len(one) for one in names.values()]
    print(
        f"{out}: {len(videos)} videos of {min(lengths)} to {max(lengths)} frames, {len(class_names)} classes "
        f"({', '.join(class_names)}); splits 1 to {len(videos)}"
    )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path, help="folder with <video>.npy, groundTruth/ and mapping/")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="data folder to write")
    arguments = parser.parse_args()
    write(arguments.source, arguments.out)


if __name__ == "__main__":
    main()
