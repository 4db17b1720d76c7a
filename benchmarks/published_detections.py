"""Scores published detections on THUMOS14 through our readers, and filters published proposals.

    python -m benchmarks.published_detections --data DIR --workdir runs/published

It needs no features and no training: it shows that annotations, results and metrics are read as others read them, and
what FuSTAL's filter does to real proposals. `DIR` holds

```
thumos14_actionformer.json.gz                    annotations of ActionFormer's release
predictions/a2net_action_detection_af38.txt.gz   detections of A2Net: video, start, end, UCF101 class from 1, score
predictions/delu_proposals_8classes.json.gz      proposals of DELU in ActivityNet's format, of 8 classes
annotations/test/detclasslist.txt                UCF101's number of each class
```

A2Net's detections are written as JSON first, and are then evaluated by the command that users have. The values to
compare with were computed by others from the same files.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import pathlib
import sys

import numpy as np
from etils import epath

from actloc_jax.data import proposal_filter, proposals
from actloc_jax.data.activitynet_json import read_activitynet_json
from actloc_jax.evaluate import evaluate
from actloc_jax.metrics import detection
from actloc_jax.metrics.detection_matching import Detections, Instances
from configs import tridet_thumos

ANNOTATIONS = "thumos14_actionformer.json.gz"
A2NET = (57.35, 54.76, 51.12, 44.46, 36.65, 26.31, 15.36)  # mAP at tIoU 0.1 to 0.7
DELU = (80.97, 77.42, 70.85, 62.67, 50.71, 35.36, 21.26)  # of its 8 classes


def main() -> int:
    """Prints both comparisons and what the filter leaves; 1 if a value is off by more than rounding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder as above")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where the report of A2Net goes")
    options = parser.parse_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    right = [
        compare("A2Net", score_a2net(options.data, options.workdir), A2NET),
        compare("DELU, 8 classes", score_delu(options.data), DELU),
    ]
    print(filter_delu(options.data))
    return 0 if all(right) else 1


def compare(name: str, ours: dict[str, float], theirs: tuple[float, ...]) -> bool:
    """Prints both rows; whether they agree to the last digit that is given."""
    rows = [ours[detection.name(threshold)] for threshold in detection.THUMOS14_TIOU]
    print(f"{name:16s} here      " + " ".join(f"{value:6.2f}" for value in rows))
    print(f"{name:16s} elsewhere " + " ".join(f"{value:6.2f}" for value in theirs))
    return bool(np.allclose(rows, theirs, atol=0.0101))


def score_a2net(data: pathlib.Path, workdir: pathlib.Path) -> dict[str, float]:
    """mAP by tIoU through `--mode=evaluate --predictions=`; the report with its figures lies in `workdir`."""
    names = class_names(data)
    path = workdir / "a2net.json"
    proposals.write_proposals(path, read_a2net(data, names), names, method="A2Net, anchor-free branch")
    config = tridet_thumos.get_config()
    config.data.student.update({"root": str(data.resolve()), "annotations": ANNOTATIONS})
    config.eval.tiou, config.eval.protocol = detection.THUMOS14_TIOU, "sane"  # ties as in those values
    (scores,) = evaluate(config, epath.Path(workdir) / "a2net", predictions=path).values()
    return scores


def score_delu(data: pathlib.Path) -> dict[str, float]:
    """mAP by tIoU of the classes that DELU's file has."""
    truth, found = annotated(data), delu(data)
    labels = np.unique(np.concatenate([rows.labels for rows in found.values()]))
    kept = {}
    for video, instances in truth.items():
        chosen = np.isin(instances.labels, labels)
        kept[video] = Instances(instances.segments[chosen], instances.labels[chosen])
    detections = {video: Detections(rows.segments, rows.labels, rows.scores) for video, rows in found.items()}
    return detection.evaluate(detections, kept, detection.THUMOS14_TIOU).summary()


def filter_delu(data: pathlib.Path) -> str:
    """What FuSTAL's thresholds leave of DELU's proposals, scores scaled to at most 1, and how often that is right."""
    truth = annotated(data)
    scaled = {
        video: dataclasses.replace(rows, scores=rows.scores / max(rows.scores.max(initial=0), 1))
        for video, rows in delu(data).items()
    }
    kept, report = proposal_filter.filter_proposals(scaled, class_names(data))
    return f"{report.describe()}\n{report.table()}\n{quality(scaled, truth, 'before')}\n{quality(kept, truth, 'after')}"


def quality(found: dict[str, proposals.ScoredSegments], truth: dict[str, Instances], when: str) -> str:
    """Shares of proposals that overlap an instance of their class by half, and of instances so overlapped."""
    right = total = hit = instances = 0
    for video, rows in found.items():
        true = truth[video]
        start = np.maximum(rows.segments[:, None, 0], true.segments[None, :, 0])
        end = np.minimum(rows.segments[:, None, 1], true.segments[None, :, 1])
        shared = np.maximum(end - start, 0)
        lengths = np.diff(rows.segments, axis=1) + np.diff(true.segments, axis=1).T
        good = (shared / (lengths - shared) >= 0.5) & (rows.labels[:, None] == true.labels[None])
        right, total = right + good.any(axis=1).sum(), total + len(rows)
        hit, instances = hit + good.any(axis=0).sum(), instances + len(true)
    return f"{when}: {right / max(total, 1):.1%} of {total} proposals are right, {hit / instances:.1%} of actions found"


def annotated(data: pathlib.Path) -> dict[str, Instances]:
    """The true instances of the test videos."""
    videos = read_activitynet_json(data / ANNOTATIONS).of_subset("test")
    return {video.video: Instances(video.segments, video.labels) for video in videos}


def class_names(data: pathlib.Path) -> tuple[str, ...]:
    """The twenty classes."""
    return read_activitynet_json(data / ANNOTATIONS).class_names


def delu(data: pathlib.Path) -> dict[str, proposals.ScoredSegments]:
    """DELU's proposals by video."""
    path = data / "predictions" / "delu_proposals_8classes.json.gz"
    return dict(proposals.read_proposals(path, class_names(data)).videos)


def read_a2net(data: pathlib.Path, names: tuple[str, ...]) -> dict[str, proposals.ScoredSegments]:
    """A2Net's detections by video."""
    lines = (data / "annotations" / "test" / "detclasslist.txt").read_text().split()
    label_of = {int(number): names.index(name) for number, name in zip(lines[::2], lines[1::2], strict=True)}
    rows: dict[str, list[tuple[float, float, float, int]]] = {}
    with gzip.open(data / "predictions" / "a2net_action_detection_af38.txt.gz", "rt") as file:
        for line in file:
            video, start, end, number, score = line.split()
            rows.setdefault(video, []).append((float(start), float(end), float(score), label_of[int(float(number))]))
    tables = {video: np.array(listed) for video, listed in rows.items()}
    return {
        video: proposals.ScoredSegments(table[:, :2], table[:, 2], table[:, 3].astype(np.int32))
        for video, table in tables.items()
    }


if __name__ == "__main__":
    sys.exit(main())
