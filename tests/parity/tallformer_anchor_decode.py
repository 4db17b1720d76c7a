"""Parity of TALLFormer's decoding, merging and learning rate on THUMOS14."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from actloc_jax.ops import anchors as anchor_ops
from actloc_jax.ops import iou, nms
from actloc_jax.ops.anchors import make_anchors
from actloc_jax.systems.tallformer.anchor_decode import (
    AnchorDecodeSettings,
    Candidates,
    Merged,
    Window,
    merge,
    window_candidates,
)
from actloc_jax.training import optimizers
from tests.parity.harness import Case, parity
from tests.parity.tallformer_anchor_losses import PUBLISHED, output_of
from tests.parity.tallformer_anchors import close

# The soft variants run on the first 60 rows above this score (the case's notes), with settings that it does not name.
SOFT_ROWS = 60
SOFT_ABOVE = 0.05
SOFT_RULES = {
    "linear": dataclasses.replace(nms.TALLFORMER_LINEAR, threshold=0.3),
    "gauss": dataclasses.replace(nms.TALLFORMER_GAUSSIAN, min_score=0.01),
}


@parity("tallformer", "decode_nms")
def check_decode_nms(case: Case) -> None:
    """Coding, candidates of each window, and every way to merge them."""
    arrays, lengths = case.arrays, case.config["level_sizes"]
    _check_coder(case)
    settings = AnchorDecodeSettings(per_level=case.config["nms_pre"])
    anchors = make_anchors(lengths, PUBLISHED)
    parts = []
    for number, window in enumerate(case.config["windows"]):
        output = output_of(arrays, f"w{number}/", len(lengths), PUBLISHED.per_octave)
        logits, deltas = (np.concatenate(levels, axis=1)[0] for levels in output)
        place = Window(window["tshift"], window["tsize"])
        parts.append(window_candidates(logits, deltas, anchors, place, settings))
        close(case, parts[-1].segments, f"w{number}/segments")
        close(case, with_background(parts[-1].scores), f"w{number}/scores")
    both = Candidates(arrays["all_segments"], arrays["all_scores"][:, :-1])
    found = merge(parts, settings)
    check_merged(case, found, "nmw")
    for label in range(case.config["num_classes"]):
        of_class = found.labels == label
        rows = np.column_stack([found.segments[of_class], found.scores[of_class]])
        close(case, rows, f"nmw/result{label}")
    for name, varied in _variants(case).items():
        few = Candidates(*(part[:SOFT_ROWS] for part in both)) if name.startswith("soft") else both
        check_merged(case, merge([few], varied), name)
    by_hand = Candidates(arrays["hand/segments"], arrays["hand/scores"][:, :-1])
    for name in ("nmw", "nms"):
        rule = nms.TALLFORMER_HARD if name == "nms" else None
        found = merge([by_hand], AnchorDecodeSettings(suppression=rule))
        check_merged(case, found, f"hand/{name}", separator="_")
    nothing = Candidates(by_hand.segments[:0], by_hand.scores[:0])
    check_merged(case, merge([nothing], AnchorDecodeSettings()), "hand/empty", separator="_")


def _variants(case: Case) -> dict[str, AnchorDecodeSettings]:
    """The other ways to merge, by their names in the case."""
    published = AnchorDecodeSettings(per_level=case.config["nms_pre"])
    hard = dataclasses.replace(published, suppression=nms.TALLFORMER_HARD, most=200)
    limits = {
        name: int(name.removeprefix("nmw_max")[:-5]) for name in case.arrays if re.fullmatch(r"nmw_max\d+/dets", name)
    }
    return {
        **{name.removesuffix("/dets"): dataclasses.replace(published, most=most) for name, most in limits.items()},
        "nmw_iof": dataclasses.replace(published, overlap=iou.FLOORED_COVERAGE),
        "nms": hard,
        "lb_nms": hard,  # the same in parts of 10000
        **{
            f"soft_{name}": dataclasses.replace(published, suppression=rule, above=SOFT_ABOVE)
            for name, rule in SOFT_RULES.items()
        },
    }


def check_merged(case: Case, found: Merged, name: str, separator: str = "/") -> None:
    """Compares segments, scores and labels."""
    close(case, np.column_stack([found.segments, found.scores]), f"{name}{separator}dets")
    np.testing.assert_array_equal(found.labels, case.arrays[f"{name}{separator}labels"], err_msg=name)


def with_background(scores: np.ndarray) -> np.ndarray:
    """Scores with the original's column of zeros."""
    return np.pad(scores, ((0, 0), (0, 1)))


def _check_coder(case: Case) -> None:
    arrays = case.arrays
    anchor, delta = arrays["dec_anchor"], arrays["dec_delta"]
    close(case, anchor_ops.decode(anchor, delta), "dec_free")
    end = arrays["dec_clip"].max()  # the case holds a segment that is clipped
    close(case, anchor_ops.decode(anchor, delta, end), "dec_clip")
    long = anchor[anchor[:, 1] > anchor[:, 0]]
    close(case, anchor_ops.encode(long, arrays["enc_gt"]), "enc_delta")


@parity("tallformer", "lr_schedule")
def check_lr_schedule(case: Case) -> None:
    """The rate of the detector and of the backbone before every iteration."""
    config, table = case.config, case.arrays["table"]
    period = int(re.search(r"\[(\d+)\]", config["periods"])[1])
    steps_per_epoch = int(re.search(r"(\d+) iterations per epoch", case.meta["what"])[1])
    for column, factor in ((2, 1.0), (3, config["backbone_mult"])):
        schedule = optimizers.warmup_cosine_restarts(
            factor * config["base_lr"],
            period_epochs=period,
            steps_per_epoch=steps_per_epoch,
            warmup_steps=config["warmup_iters"],
            warmup_ratio=config["warmup_ratio"],
            minimum_ratio=config["min_lr_ratio"],
        )
        np.testing.assert_allclose(schedule(table[:, 1]), table[:, column], rtol=case.meta["tolerance"]["rtol"], atol=0)
