"""TALLFormer (arXiv 2204.01680) on HACS Segments, from pixels; its settings are ActivityNet's, as far as published.

python -m actloc_jax.main --config=configs/tallformer_hacs.py --workdir=runs/tallformer_hacs
"""

from ml_collections import ConfigDict

from configs import common, common_tallformer


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: demo, fixed, memory (bank, momentum or computed)."""
    args = common.parse(arg, demo=False, fixed=False, memory="bank")
    config = ConfigDict()
    config.name = "tallformer_hacs"
    config.paper = {"paper on HACS, as quoted by TriDet": (("mAP", 36.5), ("mAP@0.5", 55.0))}
    config.data = common_tallformer.data(
        root="dataset/hacs", annotations="HACS_segments_v1.1.1.json", train_subsets="training",
        test_subsets="validation", fps=0.0, max_frames=768,
    )  # fmt: skip
    return common_tallformer.without_anchors(config, args, epochs=15, classes_per_segment=1)
