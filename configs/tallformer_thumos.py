"""TALLFormer (arXiv 2204.01680) on THUMOS14, from pixels.

python -m actloc_jax.main --config=configs/tallformer_thumos.py --workdir=runs/tallformer
"""

from ml_collections import ConfigDict

from configs import common, common_tallformer


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: demo, fixed, memory (bank, momentum or computed), keep.

    keep: share of the chunks that a step trains; 0.15 is the published one, for 12 GB.
    """
    args = common.parse(arg, demo=False, fixed=False, memory="bank", keep="0.15")
    config = ConfigDict()
    config.name = "tallformer_thumos"
    config.system = "tallformer"
    config.stages = ("fill_bank", "train")
    config.paper = {"paper on THUMOS14": (("mAP", 59.1), ("mAP@0.5", 63.2))}
    config.quirks = common_tallformer.quirks(args.fixed, "anchors")
    config.data = common_tallformer.data()
    config.network = common_tallformer.anchor_network()
    config.clip = common_tallformer.clip()
    config.memory = common_tallformer.memory(keep_ratio=float(args.keep))
    config.augmentation = common_tallformer.augmentation()
    config.loss = common_tallformer.anchor_loss()
    config.decode = common_tallformer.anchor_decode()
    config.train = common_tallformer.train(seed=10)
    config.eval = common_tallformer.evaluation(test_set_selection=config.quirks.test_set_selection)
    common_tallformer.with_memory(config, args.memory)
    return common_tallformer.anchor_demo(config) if args.demo else config
