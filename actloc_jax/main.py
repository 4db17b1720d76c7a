"""Temporal action segmentation and detection in JAX.

  train    (default)  python -m actloc_jax.main --config=configs/tst_gtea.py --workdir=runs/gtea
  evaluate            python -m actloc_jax.main --config=configs/tst_gtea.py --workdir=runs/gtea --mode=evaluate
  predict             python -m actloc_jax.main --mode=predict --checkpoint=runs/gtea --inputs=features/ --workdir=out
                      (or, of given results, --predictions=detections.json)
  inspect             python -m actloc_jax.main --config=configs/tst_gtea.py --mode=inspect

A config takes arguments after a colon, separated by commas: `:split=2`, `:split=all` (every split, then their mean),
`:demo` (about a minute on two CPU cores, on generated data), `:fixed` (the sane choice for every quirk).
Any field can be set: `--config.train.seed=1`, and tried with several values: `--sweep=train.seed=1,2,3`.
A second run in the same workdir goes on where the first one stopped.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment file, with its arguments: configs/tst_gtea.py:split=2."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run (also gs://); default: runs/<config name>.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "predict", "inspect"], "What to do.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Model to evaluate or to predict with: a converted folder or a workdir; default: --workdir."
)
_PREDICTIONS = flags.DEFINE_string(
    "predictions", None, "evaluate: a file of detections or a folder of frame labels, instead of a model."
)
_INPUTS = flags.DEFINE_list("inputs", [], "predict: files or folders, separated by commas.")
_SWEEP = flags.DEFINE_string(
    "sweep", "", "train, evaluate: run once for each value of a field: transport.radius=0.02,0.04."
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "When a run fails, also show where in the code it did.")
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    os.path.join(os.path.expanduser("~"), ".cache", "actloc_jax", "xla"),
    "Folder that keeps compiled programs between runs; empty turns it off.",
)


def main(argv: list[str]) -> None:
    """Runs the mode that the flags ask for; errors of users end in one sentence and exit status 1."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected argument {argv[1]!r}: options are written --name=value.")
    import jax  # after the flags, so that --help answers at once

    from actloc_jax.train import Interrupted
    from actloc_jax.training.logging import TerminalHandler
    from actloc_jax.training.sharding import initialise_distributed

    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[TerminalHandler()], force=True)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns about choices that are ours
    for noisy in ("orbax", "jax", "etils", "grain", "tensorboardX"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if _CACHE.value:
        jax.config.update("jax_compilation_cache_dir", _CACHE.value)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        initialise_distributed()
        status = _run()
    except (ValueError, OSError) as error:
        if _TRACEBACK.value:
            raise
        sys.exit(f"error: {error}")
    except Interrupted as error:
        print(error, file=sys.stderr)
        status = 143
    sys.exit(status)


def _parse(argv: list[str]) -> list[str]:
    """Reads the flags; a config that cannot be read, or has no such field, ends in one sentence."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:  # from ml_collections, the first one around the second
        named = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
        sys.exit(f"error: the config has no field {named}".replace("\n", ". "))
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"error: {error}")


def _run() -> int:
    from etils import epath

    from actloc_jax import inspect, predict, splits, sweep, train
    from actloc_jax.evaluate import evaluate

    config = _CONFIG.value
    if _MODE.value == "predict":
        if not _INPUTS.value:
            raise ValueError("--mode=predict needs --inputs=<feature files or folders>.")
        checkpoint = _CHECKPOINT.value or _WORKDIR.value
        predict.predict(checkpoint, _INPUTS.value, _WORKDIR.value or "runs/predictions", config=config)
        return 0
    if config is None:
        raise ValueError("--config is needed, for example --config=configs/tst_gtea.py:demo (see the folder configs/).")
    workdir = epath.Path(_WORKDIR.value or f"runs/{config.name}")
    if config.train.debug_nans:
        import jax

        jax.config.update("jax_debug_nans", True)
    if _MODE.value == "inspect":
        errors = sum(inspect.inspect(splits.of_split(config, split), workdir) for split in splits.chosen(config))
        return 1 if errors else 0

    def run(config: Any, workdir: epath.Path) -> dict[str, dict[str, float]]:
        if _MODE.value == "train":
            return splits.each(config, workdir, train.train)
        return splits.each(
            config, workdir, lambda c, w: evaluate(c, w, checkpoint=_CHECKPOINT.value, predictions=_PREDICTIONS.value)
        )

    if _SWEEP.value:
        sweep.each(config, workdir, _SWEEP.value, run)
    else:
        run(config, workdir)
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
