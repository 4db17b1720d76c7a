"""SPOT (arXiv 2207.07059) on THUMOS14, which its release leaves out: the paper's method on ActionFormer's package.

    python -m actloc_jax.main --config=configs/spot_thumos.py:labels=10 --workdir=runs/spot_thumos_10

Which videos are labelled is drawn from a seed, as the paper's divisions were not published. Quirks of the data are off:
under the published rules nearly no action of THUMOS14 is long enough to count. The paper's steps and rates are unknown.
"""

from ml_collections import ConfigDict

from configs import common, common_spot

PUBLISHED = {
    10: (49.4, 40.4, 31.5, 22.9, 12.4, 31.3),
    60: (58.9, 50.1, 42.3, 33.5, 22.9, 41.5),
}
METRICS = ("mAP@0.3", "mAP@0.4", "mAP@0.5", "mAP@0.6", "mAP@0.7", "mAP")


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: labels (per cent labelled), stage (pretrain, finetune or all), demo, fixed."""
    args = common.parse(arg, labels="10", stage="all", demo=False, fixed=False)
    config = ConfigDict()
    config.name = f"spot_thumos_{args.labels}"
    labelled = common_spot.labels(args.labels)
    published = (
        {"paper on THUMOS14": tuple(zip(METRICS, PUBLISHED[labelled], strict=True))} if labelled in PUBLISHED else {}
    )
    config.paper = published
    config.quirks = common_spot.quirks(args.fixed)
    config.quirks.update(dict.fromkeys(common_spot.DATA_QUIRKS, False))
    config.data = common_spot.data(
        "dataset/thumos",
        labelled,
        source="folder",
        annotations="annotations/thumos14.json",
        features="i3d_features/{video}.npy",
        feature_dim=2048,
        recipe="actionformer",
        classes="",
        grid={"stride": 4.0, "window": 16.0, "fps": 0.0, "align": "centre"},
        train_subsets="validation",
        test_subsets="test",
        steps=256,
    )
    config = common_spot.experiment(config, args)
    config.eval.tiou = (0.3, 0.4, 0.5, 0.6, 0.7)
    if not args.demo:
        config.decode.row_seconds = 4 / 30  # rows are 4 frames apart, of 30 per second
        config.pretrain.batch_size = config.finetune.batch_size = 16
    return config
