"""ASOT (arXiv 2404.01518) on Breakfast: one model per activity, without labels.

Published: MoF 63.3 per video and 56.1 over whole activities, means over the ten activities.

    python -m actloc_jax.main --config=configs/asot_breakfast.py:activity=coffee --workdir=runs/asot_coffee
    python -m actloc_jax.main --config=configs/asot_breakfast.py:activity=all --workdir=runs/asot_breakfast
"""

from ml_collections import ConfigDict

from configs import common, common_asot

CLUSTERS = {
    "cereals": 5, "coffee": 7, "friedegg": 9, "juice": 8, "milk": 5,
    "pancake": 14, "salat": 8, "sandwich": 9, "scrambledegg": 12, "tea": 7,
}  # fmt: skip


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: activity (one of ten, `all` for each in turn, `together` for one model of all), demo, fixed."""
    args = common.parse(arg, activity="all", demo=False, fixed=False)
    config = ConfigDict()
    config.name = "asot_breakfast"
    config.paper = {"paper on Breakfast": {"MoF": 56.1, "MoF video": 63.3}}
    clusters = {"together": 48} if args.activity == "together" else CLUSTERS
    config.data = common_asot.data(
        "dataset/Breakfast",
        clusters,
        feature_dim=64,
        split=args.activity,
        activity_of="suffix",
        standardise=True,
        recipe="dense_trajectories",
    )
    config.clusters = ConfigDict(clusters)
    config.network = common_asot.network(64, 128, 40)
    config.transport = common_asot.transport(rho=0.2, lambda_actions=0.1, alpha=0.4)
    config.asot = common_asot.stage(epochs=15)
    config.decode = common_asot.decode(config.transport, alpha=0.7)
    return common_asot.experiment(config, args)
