"""Counts the real annotations of THUMOS14 as each of our readers reads them.

    python -m benchmarks.thumos14_annotations --data DIR

It needs no videos. `DIR` holds

```
annotations/{val,test}/<class>_{val,test}.txt   the official text files, with those of ambiguous regions
annotations/{val,test}.json                     what TALLFormer's converter makes of them
thumos14_actionformer.json.gz                   ActionFormer's annotations of the same videos
```
One row per class: its actions in the validation set, which all train on, and in the test set. The command ends with 1
if the readers disagree, or the totals are not those that the files are published with.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from actloc_jax.data.activitynet_json import read_activitynet_json
from actloc_jax.data.annotation_folder import read_annotation_folder
from actloc_jax.data.annotations import Annotations, VideoAnnotation

SUBSETS = {"val": ("val", "validation"), "test": ("test",)}
PUBLISHED = {"val": (200, 3007), "test": (212, 3358)}
"""Videos with an action, and actions."""


def read_all(data: epath.PathLike) -> dict[str, Annotations]:
    """Reader -> annotations."""
    data = epath.Path(data)
    with tempfile.TemporaryDirectory() as folder:  # without the JSON, which is preferred where there are both
        for subset in SUBSETS:
            (pathlib.Path(folder) / subset).symlink_to((data / "annotations" / subset).resolve())
        text, _ = read_annotation_folder(folder, tuple(SUBSETS))
    converted, problems = read_annotation_folder(data / "annotations", tuple(SUBSETS))
    if problems:
        raise ValueError("\n".join(map(str, problems)))
    others = read_activitynet_json(data / "thumos14_actionformer.json.gz", class_names=text.class_names)
    return {"text files": text, "JSON": converted, "ActionFormer's JSON": others}


def with_actions(annotations: Annotations, subset: str) -> list[VideoAnnotation]:
    """The videos of a subset that TALLFormer trains or evaluates on: those with an action."""
    return [video for video in annotations.of_subset(*SUBSETS[subset]) if len(video.labels)]


def per_class(annotations: Annotations, subset: str) -> np.ndarray:
    """[classes] actions of each class in a subset."""
    labels = [video.labels for video in with_actions(annotations, subset)]
    return np.bincount(np.concatenate(labels), minlength=len(annotations.class_names))


def table(read: Mapping[str, Annotations]) -> str:
    """A row per class and the totals; a column per subset, of the first reader."""
    first = next(iter(read.values()))
    counts = {subset: per_class(first, subset) for subset in SUBSETS}
    rows = [(name, *(int(counts[subset][label]) for subset in SUBSETS)) for label, name in enumerate(first.class_names)]
    rows.append(("all actions", *(int(counts[subset].sum()) for subset in SUBSETS)))
    lines = [f"{'class':20s}" + "".join(f"{subset:>8s}" for subset in SUBSETS)]
    lines += [f"{name:20s}" + "".join(f"{value:8d}" for value in values) for name, *values in rows]
    for subset in SUBSETS:
        videos = first.of_subset(*SUBSETS[subset])
        lines.append(
            f"{subset}: {len(videos)} videos, {len(with_actions(first, subset))} of them with an action; "
            f"{sum(len(video.ambiguous) for video in videos)} ambiguous regions, which never count"
        )
    return "\n".join(lines)


def disagreements(read: Mapping[str, Annotations]) -> list[str]:
    """Readers whose counts are not the published ones, or not those of the first reader, class by class."""
    first, found = next(iter(read.values())), []
    for name, theirs in read.items():
        for subset, expected in PUBLISHED.items():
            counts = per_class(theirs, subset)
            total = len(with_actions(theirs, subset)), int(counts.sum())
            if total != expected:
                found.append(f"{name}, {subset}: {total} videos and actions, published {expected}")
            if (counts != per_class(first, subset)).any():
                found.append(f"{name}, {subset}: other numbers of actions in some classes")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 if something disagrees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder as above")
    read = read_all(parser.parse_args(arguments).data)
    print(table(read))
    wrong = disagreements(read)
    print("\n".join(wrong) or f"{', '.join(read)} agree, class by class")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
