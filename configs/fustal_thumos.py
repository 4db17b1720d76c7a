"""FuSTAL (arXiv 2407.08971) on THUMOS14: detection from video labels, in three stages.

    python -m actloc_jax.main --config=configs/fustal_thumos.py --workdir=runs/fustal
    python -m actloc_jax.main --config=configs/fustal_thumos.py:stage=student --workdir=runs/fustal

Published: 50.8 average mAP over tIoU 0.1 to 0.7.
"""

from ml_collections import ConfigDict

from configs import common, common_detection

STAGES = ("generator", "proposals", "filter", "student")


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: stage (generator, proposals, filter, student or all), demo, fixed."""
    args = common.parse(arg, stage="all", demo=False, fixed=False)
    if args.stage not in (*STAGES, "all"):
        raise ValueError(f"stage={args.stage} does not exist; the stages are {', '.join(STAGES)} and all.")
    config = ConfigDict()
    config.name = "fustal_thumos"
    config.system = "fustal"
    config.paper = {"paper on THUMOS14": {"mAP": 50.8}}
    config.stages = STAGES if args.stage == "all" else (args.stage,)
    config.quirks = common_detection.quirks(args.fixed)
    config.data = common_detection.data(
        generator=common_detection.features(
            "dataset/THUMOS14",
            annotations="gt.json",
            features="features/{subset}/{stream}/{video}.npy",
            streams=("rgb", "flow"),
            recipe="cola",
            grid={"stride": 16.0, "window": 16.0, "fps": 25.0, "align": "start"},
            train_subsets="train",
            train_list="split_train.txt",
            test_list="split_test.txt",
            unknown_durations=True,
        ),
        student=common_detection.thumos14(
            train_list="../THUMOS14/split_train.txt", test_list="../THUMOS14/split_test.txt"
        ),
    )
    config.network = ConfigDict(
        {"generator": {"width": 2048, "dropout": 0.7}, "student": common_detection.tridet().to_dict()}
    )
    config.generator = ConfigDict(
        {
            "checkpoint": "",  # a converted folder or a workdir to start from
            "steps": 6000,
            "batch_size": 16,
            "snippets": 750,  # sampled of each video
            "learning_rate": 1e-4,
            "weight_decay": 5e-4,
            "easy_ratio": 5,
            "hard_ratio": 20,
            "narrow": 3,
            "wide": 6,
            "mining_dropout": 0.6,
            "evaluate_every": 100,  # steps
        }
    )
    config.proposals = ConfigDict(
        {
            "checkpoint": "",  # of the generator; empty: the stage generator of this workdir
            "class_threshold": 0.2,  # probability from which a class is looked for in a video
            "class_thresholds": (0.0, 0.25, 0.025),  # first, end, step of the cuts of class activations
            "action_thresholds": (0.1, 0.925, 0.025),  # of the cuts of actionness
            "upscale": 24,
            "surroundings": 0.25,
            "video_weight": 0.2,
            "nms_threshold": 0.5,
        }
    )
    config.filter = ConfigDict(
        {
            "proposals": "",  # a file of proposals for the training videos; empty: those of the stage proposals
            "min_prior": 0.2,  # sum of the tIoU with other proposals of the video
            "min_score": 0.4,
        }
    )
    config.student = common_detection.student()
    config.decode = common_detection.decode()
    config.eval = common_detection.evaluation(select="mAP" if config.quirks.select_on_test else None)
    config.train = common_detection.train(seed=3407)
    return demo(config) if args.demo else config


def demo(config: ConfigDict) -> ConfigDict:
    """The same experiment on generated videos with video labels, about two minutes on two CPU cores."""
    config.name += "_demo"
    config.paper = {}
    config.data.source = "synthetic"
    config.data.generator = common_detection.demo_features("start")
    config.data.student = common_detection.demo_features()
    config.data.max_buckets = 2
    config.network.generator.width = 128
    common_detection.demo_detector(config.network.student)
    config.generator.update({"steps": 300, "batch_size": 10, "snippets": 320, "learning_rate": 1e-3})
    config.generator.evaluate_every = 150
    config.filter.min_score = 0.6
    config.student.update({"epochs": 32, "distil_from": 24, "learning_rate": 1e-3, "ema_decay": 0.99})
    config.student.update({"ranges": common_detection.THUMOS14_RANGES[:3] + ((16, 10000),), "batch_size": 6})
    config.student.update({"evaluate_from": 15, "evaluate_every": 8})
    config.decode.batch_size = 8
    return config
