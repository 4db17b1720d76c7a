"""ASOT's transport alone (arXiv 2404.01518): stored affinities of frames to actions become segmentations; no training.

    python -m actloc_jax.main --mode=predict --config=configs/asot_affinity.py --inputs=affinities/ --workdir=out

Inputs are `.npy` files [time, actions], one per video. The defaults are those of the published example.
"""

from ml_collections import ConfigDict

from configs import common, common_asot


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: cost (the files hold costs instead of affinities), fixed."""
    args = common.parse(arg, cost=False, fixed=False)
    config = ConfigDict()
    config.name = "asot_affinity"
    config.paper = {}
    config.data = common_asot.data("", {"videos": 1}, feature_dim=1, split="videos", frame_rate=0.0)
    config.data.source = "cost" if args.cost else "affinity"
    config.clusters = ConfigDict({"videos": 1})
    config.network = common_asot.network(1, 1)
    config.transport = common_asot.transport(rho=0.0, lambda_actions=0.05)
    config.asot = common_asot.stage(epochs=1)
    config.decode = common_asot.decode(config.transport)
    config.decode.update({"epsilon": 0.01, "lambda_actions": 0.06, "batch_size": 1})
    return common_asot.experiment(config, args)
