"""ASOT (arXiv 2404.01518) on YouTube Instructions: one model per activity, without labels; background is left out.

Published: F1 63.3 per video and 35.1 over whole activities, means over the five activities.

    python -m actloc_jax.main --config=configs/asot_yti.py:activity=all --workdir=runs/asot_yti
"""

from ml_collections import ConfigDict

from configs import common, common_asot

CLUSTERS = {"changing_tire": 11, "coffee": 10, "cpr": 7, "jump_car": 12, "repot": 8}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: activity (one of five, or `all` for each in turn), demo, fixed."""
    args = common.parse(arg, activity="all", demo=False, fixed=False)
    config = ConfigDict()
    config.name = "asot_yti"
    config.paper = {"paper on YTI": {"F1": 35.1, "F1 video": 63.3}}
    config.data = common_asot.data(
        "dataset/YTI", CLUSTERS, feature_dim=3000, split=args.activity, activity_of="prefix", exclude_id=-1,
        frame_rate=0.0,
    )  # fmt: skip
    config.clusters = ConfigDict(CLUSTERS)
    config.network = common_asot.network(3000, 32, 32)
    config.transport = common_asot.transport(rho=0.15, lambda_actions=0.12)
    config.asot = common_asot.stage(epochs=10)
    config.decode = common_asot.decode(config.transport)
    return common_asot.experiment(config, args)
