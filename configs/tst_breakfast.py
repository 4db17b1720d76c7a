"""TST on DiffAct, Breakfast (arXiv 2302.13074 on 2303.17959).

Published, mean of 4 splits, best of 4 configurations per split by the test split: F1@10/25/50 81.2/77.1/65.9,
Edit 79.0, Acc 76.9 (DiffAct alone: 80.3/75.9/64.6, 78.4, 76.4). A single run is expected to be lower (docs/quirks.md).
Stages: diffact, cache (60 noise draws of the frozen backbone on disk), tst.

    python -m actloc_jax.main --config=configs/tst_breakfast.py:split=1 --workdir=runs/breakfast_1
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: split (1 to 4, or all), stages (names joined by +), demo, fixed, files."""
    args = common.parse(arg, split="1", stages="diffact+cache+tst", demo=False, fixed=False, files=False)
    config = ConfigDict({"name": "tst_breakfast", "system": "tst"})
    config.stages = tuple(args.stages.split("+"))
    config.paper = {"paper on Breakfast": {"F1@10": 81.2, "F1@25": 77.1, "F1@50": 65.9, "Edit": 79.0, "Acc": 76.9}}
    config.quirks = common.tst_quirks(args.fixed)
    config.data = common.group(
        {
            "source": "folder",  # folder | tfds | synthetic
            "root": "dataset/breakfast",
            "tfds_dir": "",  # where `source=tfds` finds the prepared records
            "layout": "auto",  # axes of the feature files: channels_first | time_first | crops_first | auto
            "feature_dim": 2048,
            "recipe": "mstcn_15fps",  # of the features, to make those of videos: --recipe=list; empty: unknown
            "num_classes": 48,
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
                "num_layers": 12,
                "width": 256,
                "kernel_size": 5,
                "dropout": 0.5,
                "channel_dropout": 0.1,
                "temporal_dropout": 0.1,
                "feature_layers": (7, 8, 9),
                "use_instance_norm": False,
            },
            "decoder": {"num_layers": 8, "width": 128, "kernel_size": 5, "dropout": 0.1, "time_dim": 512},
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
            "epochs": 1001,
            "evaluate_every": 20,
            "learning_rate": 0.0001,
            "weight_decay": 0.0,
            "batch_size": 1,
            "accumulate": 4,
            "conditions": ("full", "zero", "boundary03-", "segment=1", "segment=1"),
            "soft_label_sigma": 4.0,  # 0: hard labels with class weights
            "boundary_sigma": 3.0,
            "temporal_aug": True,
            "losses": {
                "encoder_ce": 0.5,
                "encoder_mse": 0.025,
                "decoder_ce": 0.5,
                "decoder_mse": 0.025,
                "decoder_boundary": 0.1,
            },
        }
    )
    config.refiner = common.tst_refiner(inner_dim=128)
    config.cache = common.tst_cache()
    config.tst = common.tst_stage(5e-05, 5e-06, inputs="cached")
    config.finetune = common.tst_finetune()
    config.decode = common.tst_decode("median", 15)
    config.eval = common.tst_eval(config.quirks, last_stage=config.stages[-1])
    config.train = common.tst_train()
    if args.files:
        return common.tst_on_files(config)
    return common.tst_demo(config) if args.demo else config
