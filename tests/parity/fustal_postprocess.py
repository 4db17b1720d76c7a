"""Parity of what follows the student's decoding: suppression, seconds, fusion with scores of the whole video."""

from __future__ import annotations

import dataclasses

import numpy as np

from actloc_jax.data.grid import Grid
from actloc_jax.ops import nms
from actloc_jax.results.types import ScoredSegments
from actloc_jax.systems.fustal import postprocess
from tests.parity.harness import Case, parity


@parity("fustal", "student_postprocess")
def check_postprocess(case: Case) -> None:
    """Detections in seconds; and the fusion, video by video."""
    arrays, config = case.arrays, case.config
    tolerance = {name: case.meta["tolerance"][name] for name in ("rtol", "atol")}
    grid = Grid(stride=config["stride"], window=config["num_frames"], fps=config["fps"])
    rule = dataclasses.replace(nms.ACTIONFORMER_SOFT, max_total=len(arrays["out_scores"]))
    found = postprocess.detections(
        "video", arrays["segs"], arrays["scores"], arrays["labels"], grid=grid, duration=config["duration"], rule=rule
    )
    np.testing.assert_allclose(found.segments, arrays["out_segments"], **tolerance)
    np.testing.assert_allclose(found.scores, arrays["out_scores"], **tolerance)
    np.testing.assert_array_equal(found.labels, arrays["out_labels"])

    for video, scores in enumerate(arrays["ext_cls_scores"]):
        before, after = (arrays[f"fuse_{side}_video_id"] == video for side in ("in", "out"))
        given = ScoredSegments(
            str(video),
            np.stack([arrays["fuse_in_t_start"], arrays["fuse_in_t_end"]], axis=1)[before],
            arrays["fuse_in_label"][before],
            arrays["fuse_in_score"][before],
        )
        fused = postprocess.with_video_scores(
            given, scores, segments=config["fuse"]["num_pred"], classes=config["fuse"]["topk"]
        )
        expected = np.stack([arrays["fuse_out_t_start"], arrays["fuse_out_t_end"]], axis=1)[after]
        np.testing.assert_allclose(fused.segments, expected, **tolerance)
        np.testing.assert_allclose(fused.scores, arrays["fuse_out_score"][after], **tolerance)
        np.testing.assert_array_equal(fused.labels, arrays["fuse_out_label"][after])
