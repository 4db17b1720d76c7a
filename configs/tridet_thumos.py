"""TriDet (arXiv 2303.07347) on THUMOS14, fully supervised: FuSTAL's student on annotated segments.

python -m actloc_jax.main --config=configs/tridet_thumos.py --workdir=runs/tridet
"""

from ml_collections import ConfigDict

from configs import common, common_detection


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: demo, fixed."""
    args = common.parse(arg, demo=False, fixed=False)
    config = ConfigDict()
    config.name = "tridet_thumos"
    config.paper = common_detection.published(83.62, 80.07, 72.94, 62.35, 47.35, mean=69.27)
    config.network = ConfigDict({"student": common_detection.tridet().to_dict()})
    config.student = common_detection.student(epochs=40, warmup_epochs=20, weight_decay=0.025)
    return common_detection.supervised(config, args)
