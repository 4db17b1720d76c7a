"""The demo of a config with networks as small as they get, for tests of the loop."""

from __future__ import annotations

import importlib
from typing import Any

from ml_collections import ConfigDict


def tiny_config(name: str = "tst_gtea", **changes: Any) -> ConfigDict:
    """`configs/<name>.py:demo` shrunk to two epochs of tiny networks.

    Args:
        name: of the config.
        changes: fields with `__` for dots, such as `tst__epochs=3`.
    """
    config = importlib.import_module(f"configs.{name}").get_config("demo")
    if config.backbone.kind == "diffact":
        config.backbone.encoder.update({"num_layers": 2, "width": 8, "feature_layers": (0, 1)})
        config.backbone.decoder.update({"num_layers": 2, "width": 8, "time_dim": 8})
        config.backbone.diffusion.sampling_steps = 2
        config.diffact.update({"epochs": 2, "evaluate_every": 2, "batch_size": 8})
    else:
        config.backbone.update({"num_layers": 2, "width": 8})
        config.asformer.update({"epochs": 2, "evaluate_every": 2, "batch_size": 8})
        config.finetune.update({"epochs": 1, "evaluate_every": 1, "batch_size": 8})
    config.refiner.update({"inner_dim": 8, "segment_dim": 8, "num_layers": 3})
    config.tst.update({"epochs": 2, "evaluate_every": 2, "batch_size": 8})
    config.cache.update({"seeds": 2, "batch_size": 4})
    config.decode.batch_size = 4
    config.eval.timelines = 1
    for field, value in changes.items():
        group, _, rest = field.partition("__")
        config[group][rest.replace("__", ".")] = value
    return config
