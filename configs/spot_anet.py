"""SPOT (arXiv 2207.07059) on ActivityNet 1.3: detection with a tenth, or another share, of the videos labelled.

    python -m actloc_jax.main --config=configs/spot_anet.py:labels=10 --workdir=runs/spot_10
    python -m actloc_jax.main --config=configs/spot_anet.py:labels=60,fixed --workdir=runs/spot_60

Published: average mAP 32.1 with 10 % of the labels, 35.2 with 60 %, on the validation videos that its own filter leaves
(docs/spot.md).
"""

from ml_collections import ConfigDict

from configs import common, common_spot

PUBLISHED = {
    10: (("mAP@0.5", 49.9), ("mAP@0.75", 31.1), ("mAP@0.95", 8.3), ("mAP", 32.1)),
    60: (("mAP@0.5", 52.8), ("mAP@0.75", 35.0), ("mAP@0.95", 8.1), ("mAP", 35.2)),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: labels (per cent labelled), stage (pretrain, finetune or all), demo, fixed."""
    args = common.parse(arg, labels="10", stage="all", demo=False, fixed=False)
    config = ConfigDict()
    config.name = f"spot_anet_{args.labels}"
    labelled = common_spot.labels(args.labels)
    config.paper = {"paper on ActivityNet, filtered": PUBLISHED[labelled]} if labelled in PUBLISHED else {}
    config.quirks = common_spot.quirks(args.fixed)
    config.data = common_spot.data("dataset/activitynet", labelled)
    config = common_spot.experiment(config, args)
    if not args.demo:
        config.decode.video_scores = "dataset/activitynet/spot_best_score.json"
    return config
