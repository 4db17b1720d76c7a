"""A full pass of SPOT's inference over the validation videos of ActivityNet, without their features.

    python -m benchmarks.spot_inference --data DIR [--model FOLDER]

`DIR` holds the annotations of SPOT's release (`actloc_jax/data/spot_files.py`) and its classifier's scores,
`spot_best_score.json`. Features are not read: random ones of the published size take their place, made from a seed when
a video is asked for. So everything is as in an evaluation except what the network sees: batches, network, candidates,
suppression, both protocols. mAP says nothing about the method: it is what the classifier's scores, which are real, give
by themselves. Beside it stands the mAP of one detection per video, all of it, with the classifier's class and score.
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from actloc_jax.data.annotations import VideoAnnotation
from actloc_jax.data.semi_supervised import SemiSupervised
from actloc_jax.data.spot_files import SpotFolder, VideoScore
from actloc_jax.evaluate import Evaluator, table
from actloc_jax.metrics.detection_matching import Instances
from actloc_jax.results.types import ScoredSegments
from actloc_jax.systems import api
from actloc_jax.systems.spot import settings, videos
from actloc_jax.systems.spot.predictor import spot_predictor
from actloc_jax.systems.spot.system import SYSTEM
from actloc_jax.training import checkpoints
from configs import spot_anet

SEED = 0


class RandomFeatures:
    """The videos of an evaluation with features [steps, channels] from a seed.

    Attributes:
        lengths: of the features, the same for all.
    """

    def __init__(self, annotated: list[VideoAnnotation], steps: int, channels: int) -> None:
        self._annotated, self._shape = annotated, (steps, channels)
        self.lengths = (steps,) * len(annotated)

    def __len__(self) -> int:
        return len(self._annotated)

    def record(self, position: int, epoch: int = 0) -> dict[str, Any]:
        """One video."""
        del epoch
        video = self._annotated[position]
        features = np.random.default_rng([SEED, position]).random(self._shape, np.float32)
        return {"video": video.video, "index": position, "features": features, "duration": video.duration}

    __getitem__ = record


class Measured(NamedTuple):
    """What a pass took and found.

    Attributes:
        videos: their number.
        seconds: by the clock.
        processor_seconds: of all threads; less depends on what else runs on the machine.
        memory: the most that the process ever held, in bytes.
        detections: of all videos.
        metrics: by source and protocol.
    """

    videos: int
    seconds: float
    processor_seconds: float
    memory: int
    detections: int
    metrics: dict[str, dict[str, float]]


def run(config: ConfigDict, model: pathlib.Path | None = None) -> Measured:
    """One pass over all videos, after a batch that compiles.

    Args:
        config: of SPOT on its released files; `data.root` and `decode.video_scores` must be there.
        model: a model folder of the sizes in the config; None: random weights.
    """
    folder = SpotFolder(config.data.root, labels=config.data.labels)
    found = SemiSupervised(
        folder, steps=config.data.steps, labels=config.data.labels, quirks=settings.data_quirks(config)
    )
    source = RandomFeatures(folder.annotated("val"), config.data.steps, config.data.feature_dim)
    net = settings.spot_network(config, len(folder.class_names))
    weights = net.init(jax.random.key(SEED)) if model is None else checkpoints.load_model(model)[0]["params"]
    scores = videos.read_scores(config, folder.class_names)
    predictor = spot_predictor(config, net, scores)
    evaluator = Evaluator(SYSTEM, predictor, _dataset(found, source), config)
    evaluator.rehearse({"params": weights})
    start, processor_start = time.perf_counter(), time.process_time()
    results = evaluator.predict({"params": weights}, "val")
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (rows,) = results.values()
    metrics = evaluator.score(results, "val")
    metrics |= evaluator.score({"whole videos": whole_videos(folder.annotated("val"), scores)}, "val")
    detections = sum(len(row.labels) for row in rows)
    return Measured(len(rows), seconds, processor_seconds, memory, detections, metrics)


def whole_videos(annotated: list[VideoAnnotation], scores: Mapping[str, VideoScore]) -> list[ScoredSegments]:
    """One detection per video, from its start to its end, of the class that the classifier says."""
    return [
        ScoredSegments(
            video.video,
            np.array([[0, video.duration]], np.float32),
            np.array([scores[video.video].label], np.int32),
            np.array([scores[video.video].score]),
        )
        for video in annotated
    ]


def _dataset(found: SemiSupervised, source: RandomFeatures) -> api.Dataset:
    """The validation videos with both protocols: all of them, and those that the published rules leave."""
    annotated = {video.video: video for video in found.annotated("evaluation")}

    def truth_of(filtered: bool) -> dict[str, Instances]:
        counted = found.evaluated(filtered=filtered, need_features=False)
        return {name: Instances(annotated[name].segments, annotated[name].labels) for name in counted}

    truth, filtered = truth_of(False), truth_of(True)
    return api.Dataset(
        class_names=tuple(found.folder.class_names),
        source=lambda split: source,
        truth=lambda split: truth,
        problems=lambda split: [],
        frame_rate=0.0,
        chance=lambda split: {},
        also_scored=lambda split: {"as published, videos with long actions": filtered},
    )


def main() -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the annotations")
    parser.add_argument("--model", type=pathlib.Path, help="model folder; default: random weights")
    options = parser.parse_args()
    config = spot_anet.get_config("labels=10")
    config.data.root = str(options.data)
    config.decode.video_scores = str(options.data / "spot_best_score.json")
    measured = run(config, options.model)
    print(
        f"{jax.devices()[0].device_kind}: {measured.videos} videos in {measured.seconds:.1f} s, "
        f"{measured.videos / measured.seconds:.0f} videos/s, {measured.processor_seconds:.1f} s of processors, "
        f"{measured.detections} detections, at most {measured.memory / 2**20:.0f} MB"
    )
    print(table(measured.metrics))


if __name__ == "__main__":
    main()
