"""ASOT (arXiv 2404.01518) on 50 Salads, without labels: 19 actions (mid) or 12 (eval).

Published, eval: MoF 64.5 per video.

    python -m actloc_jax.main --config=configs/asot_50salads.py:eval --workdir=runs/asot_50salads_eval
    python -m actloc_jax.main --config=configs/asot_50salads.py:mid --workdir=runs/asot_50salads_mid
"""

from ml_collections import ConfigDict

from configs import common, common_asot


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: eval (the default) or mid, activity (only `videos`), demo, fixed."""
    args = common.parse(arg, activity="videos", eval=False, mid=False, demo=False, fixed=False)
    if args.eval and args.mid:
        raise ValueError("Choose one of the granularities eval and mid.")
    config = ConfigDict()
    config.name = "asot_50salads_mid" if args.mid else "asot_50salads_eval"
    config.paper = {} if args.mid else {"paper on 50 Salads, eval": {"MoF video": 64.5}}
    clusters = {"videos": 19 if args.mid else 12}
    config.data = common_asot.data(
        "dataset/FS", clusters, feature_dim=64, split=args.activity, frame_rate=30.0,
        mapping="mapping/mapping.txt" if args.mid else "mapping/mappingeval.txt", recipe="dense_trajectories",
    )  # fmt: skip
    config.clusters = ConfigDict(clusters)
    config.network = common_asot.network(64, 128, 40)
    config.transport = common_asot.transport(rho=0.15, lambda_actions=0.15 if args.mid else 0.11)
    config.asot = common_asot.stage(epochs=30)
    config.decode = common_asot.decode(config.transport)
    return common_asot.experiment(config, args)
