"""ActionFormer (arXiv 2202.07925) on THUMOS14, fully supervised.

python -m actloc_jax.main --config=configs/actionformer_thumos.py --workdir=runs/actionformer
"""

from ml_collections import ConfigDict

from configs import common, common_detection


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: demo, fixed."""
    args = common.parse(arg, demo=False, fixed=False)
    config = ConfigDict()
    config.name = "actionformer_thumos"
    config.paper = common_detection.published(82.13, 77.80, 70.95, 59.40, 43.87, mean=66.83)
    config.network = ConfigDict({"student": common_detection.actionformer().to_dict()})
    config.student = common_detection.student(epochs=35, warmup_epochs=5, crop_margin=True)
    config = common_detection.supervised(config, args)
    config.decode.max_detections = 200
    return config
