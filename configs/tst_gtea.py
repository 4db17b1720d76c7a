"""TST on DiffAct, GTEA (arXiv 2302.13074 on 2303.17959).

Published, mean of 4 splits, chosen on the test splits out of several runs: F1@10/25/50 94.2/93.0/87.1, Edit 90.9,
Acc 81.4 (DiffAct alone: 92.5/91.5/84.7, 89.6, 80.3). A single run is expected to be lower (docs/quirks.md).
Stages: diffact, then tst, which samples the frozen backbone anew in every step.

    python -m actloc_jax.main --config=configs/tst_gtea.py:split=1 --workdir=runs/gtea_1
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: split (1 to 4, or all), stages (names joined by +), demo, fixed, files."""
    args = common.parse(arg, split="1", stages="diffact+tst", demo=False, fixed=False, files=False)
    config = ConfigDict({"name": "tst_gtea", "system": "tst"})
    config.stages = tuple(args.stages.split("+"))
    config.paper = {"paper on GTEA": {"F1@10": 94.2, "F1@25": 93.0, "F1@50": 87.1, "Edit": 90.9, "Acc": 81.4}}
    config.quirks = common.tst_quirks(args.fixed)
    config.data = common.group(
        {
            "source": "folder",  # folder | tfds | synthetic
            "root": "dataset/gtea",
            "tfds_dir": "",  # where `source=tfds` finds the prepared records
            "layout": "auto",  # axes of the feature files: channels_first | time_first | crops_first | auto
            "feature_dim": 2048,
            "recipe": "mstcn_15fps",  # of the features, to make those of videos: --recipe=list; empty: unknown
            "num_classes": 11,
            "split": common.splits(args.split, (1, 2, 3, 4)),
            "splits": (1, 2, 3, 4),
            "train_split": "train.split{split}",
            "test_split": "test.split{split}",
            "sample_rate": 1,
            "frame_rate": 15.0,  # of the labels, for time axes
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
            "decoder": {"num_layers": 8, "width": 24, "kernel_size": 5, "dropout": 0.1, "time_dim": 512},
            "diffusion": {
                "timesteps": 1000,
                "sampling_steps": 25,
                "eta": 1.0,
                "scale": 0.5,
                "detach_decoder": False,
            },
        }
    )
    config.diffact = common.group(
        {
            "epochs": 10001,
            "evaluate_every": 100,
            "learning_rate": 0.0005,
            "weight_decay": 1e-06,
            "batch_size": 1,
            "accumulate": 4,
            "conditions": ("full", "zero", "boundary03-", "segment=1", "segment=1"),
            "soft_label_sigma": 1.4,  # 0: hard labels with class weights
            "boundary_sigma": 1.0,
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
    config.tst = common.tst_stage(0.0005, 5e-05, inputs="live")
    config.finetune = common.tst_finetune()
    config.decode = common.tst_decode("purge", 3)
    config.eval = common.tst_eval(config.quirks, background=("background",), last_stage=config.stages[-1])
    config.train = common.tst_train()
    if args.files:
        return common.tst_on_files(config)
    return common.tst_demo(config) if args.demo else config
