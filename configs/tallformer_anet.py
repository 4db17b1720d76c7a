"""TALLFormer (arXiv 2204.01680) on ActivityNet-1.3, from pixels, with its own classifier of videos.

python -m actloc_jax.main --config=configs/tallformer_anet.py --workdir=runs/tallformer_anet
"""

from ml_collections import ConfigDict

from configs import common, common_tallformer


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: demo, fixed, memory (bank, momentum or computed)."""
    args = common.parse(arg, demo=False, fixed=False, memory="bank")
    config = ConfigDict()
    config.name = "tallformer_anet"
    config.paper = {"paper on ActivityNet": (("mAP", 35.6), ("mAP@0.5", 54.1))}
    config.data = common_tallformer.data(
        root="dataset/activitynet", annotations="activity_net_1_3_new.json", train_subsets="training",
        test_subsets="validation", fps=0.0, max_frames=768,
    )  # fmt: skip
    return common_tallformer.without_anchors(config, args, epochs=10, classes_per_segment=2)
