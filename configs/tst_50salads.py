"""TST on DiffAct, 50Salads (arXiv 2302.13074 on 2303.17959).

Published, mean of 5 splits, best of 5 runs per split by the test split: F1@10/25/50 92.3/91.8/87.4, Edit 87.4,
Acc 89.7 (DiffAct alone: 90.1/89.2/83.7, 85.0, 88.9). A single run is expected to be lower (docs/quirks.md).
Stages: diffact, cache (60 noise draws of the frozen backbone on disk), tst.

    python -m actloc_jax.main --config=configs/tst_50salads.py:split=1 --workdir=runs/50salads_1
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: split (1 to 5, or all), stages (names joined by +), demo, fixed, files."""
    args = common.parse(arg, split="1", stages="diffact+cache+tst", demo=False, fixed=False, files=False)
    config = ConfigDict({"name": "tst_50salads", "system": "tst"})
    config.stages = tuple(args.stages.split("+"))
    config.paper = {"paper on 50Salads": {"F1@10": 92.3, "F1@25": 91.8, "F1@50": 87.4, "Edit": 87.4, "Acc": 89.7}}
    config.quirks = common.tst_quirks(args.fixed)
    config.data = common.group(
        {
            "source": "folder",  # folder | tfds | synthetic
            "root": "dataset/50salads",
            "tfds_dir": "",  # where `source=tfds` finds the prepared records
            "layout": "auto",  # axes of the feature files: channels_first | time_first | crops_first | auto
            "feature_dim": 2048,
            "recipe": "mstcn_30fps",  # of the features, to make those of videos: --recipe=list; empty: unknown
            "num_classes": 19,
            "split": common.splits(args.split, (1, 2, 3, 4, 5)),
            "splits": (1, 2, 3, 4, 5),
            "train_split": "train.split{split}",
            "test_split": "test.split{split}",
            "sample_rate": 8,
            "frame_rate": 30.0,  # of the labels, for time axes
            "max_buckets": 6,  # padded lengths, each compiled once
        }
    )
    config.backbone = common.group(
        {
            "kind": "diffact",
            "encoder": {
                "num_layers": 10,
                "width": 64,
                "kernel_size": 5,
                "dropout": 0.5,
                "channel_dropout": 0.5,
                "temporal_dropout": 0.5,
                "feature_layers": (5, 7, 9),
                "use_instance_norm": False,
            },
            "decoder": {"num_layers": 8, "width": 24, "kernel_size": 7, "dropout": 0.1, "time_dim": 512},
            "diffusion": {
                "timesteps": 1000,
                "sampling_steps": 25,
                "eta": 1.0,
                "scale": 1.0,
                "detach_decoder": False,
            },
        }
    )
    config.diffact = common.group(
        {
            "epochs": 5001,
            "evaluate_every": 100,
            "learning_rate": 0.0005,
            "weight_decay": 0.0,
            "batch_size": 1,
            "accumulate": 4,
            "conditions": ("full", "zero", "boundary05-", "segment=2", "segment=2"),
            "soft_label_sigma": 0.0,  # 0: hard labels with class weights
            "boundary_sigma": 20.0,
            "temporal_aug": True,
            "losses": {
                "encoder_ce": 0.5,
                "encoder_mse": 0.1,
                "decoder_ce": 0.5,
                "decoder_mse": 0.1,
                "decoder_boundary": 0.1,
            },
        }
    )
    config.refiner = common.tst_refiner(inner_dim=64)
    config.cache = common.tst_cache()
    config.tst = common.tst_stage(0.0005, 5e-05, inputs="cached")
    config.finetune = common.tst_finetune()
    config.decode = common.tst_decode("median", 30)
    config.eval = common.tst_eval(config.quirks, last_stage=config.stages[-1])
    config.train = common.tst_train()
    if args.files:
        return common.tst_on_files(config)
    return common.tst_demo(config) if args.demo else config
