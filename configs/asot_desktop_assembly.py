"""ASOT (arXiv 2404.01518) on Desktop Assembly, without labels.

Published: MoF 73.4 per video.

    python -m actloc_jax.main --config=configs/asot_desktop_assembly.py --workdir=runs/asot_desktop_assembly
"""

from ml_collections import ConfigDict

from configs import common, common_asot


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: activity (only `videos`), demo, fixed."""
    args = common.parse(arg, activity="videos", demo=False, fixed=False)
    config = ConfigDict()
    config.name = "asot_desktop_assembly"
    config.paper = {"paper on Desktop Assembly": {"MoF video": 73.4}}
    clusters = {"videos": 22}
    config.data = common_asot.data(
        "dataset/desktop_assembly", clusters, feature_dim=512, split=args.activity, frame_rate=0.0
    )
    config.clusters = ConfigDict(clusters)
    config.network = common_asot.network(512, 128, 40)
    config.transport = common_asot.transport(rho=0.25, lambda_actions=0.16, radius=0.02)
    config.asot = common_asot.stage(epochs=30)
    config.decode = common_asot.decode(config.transport)
    return common_asot.experiment(config, args)
