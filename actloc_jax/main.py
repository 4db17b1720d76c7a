"""Temporal action segmentation and detection in JAX: `python -m actloc_jax.main --mode=<mode> --<flag>=<value> ...`

A config takes arguments after a colon, separated by commas: `:split=2`, `:split=all` (every split, then their mean),
`:demo` (about a minute on two CPU cores, on generated data), `:fixed` (the sane choice for every quirk).
Any field can be set: `--config.train.seed=1`, and tried with several values: `--sweep=train.seed=1,2,3`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from actloc_jax import modes

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment file, with its arguments: configs/tst_gtea.py:split=2."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run (also gs://); default: runs/<config name>.")
_MODE = flags.DEFINE_enum("mode", "train", list(modes.MODES), "What to do.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Model to evaluate or to predict with: a converted folder or a workdir; default: --workdir."
)
_PREDICTIONS = flags.DEFINE_string(
    "predictions", None, "evaluate: a file of detections or a folder of frame labels, instead of a model."
)
_INPUTS = flags.DEFINE_list("inputs", [], "predict, extract: files or folders, separated by commas.")
_RECIPE = flags.DEFINE_string("recipe", "", "extract: which features; list: print all recipes (docs/own_video.md).")
_RGB = flags.DEFINE_string("rgb", "", "extract, predict: converted I3D checkpoint of the rgb stream.")
_FLOW = flags.DEFINE_string("flow", "", "extract, predict: converted I3D checkpoint of the flow stream.")
_OPTICAL_FLOW = flags.DEFINE_string(
    "optical_flow", "", "extract, predict: tvl1 | tvl1_opencv | raft | dis, instead of that of the recipe."
)
_RAFT = flags.DEFINE_string("raft", "", "extract, predict: converted RAFT checkpoint, for optical flow by raft.")
_VIDEOS = flags.DEFINE_list(
    "videos", [], "predict, evaluate: files or folders of the videos, to be shown in their pages (docs/report.md)."
)
_SWEEP = flags.DEFINE_string(
    "sweep", "", "train, evaluate: run once for each value of a field: transport.radius=0.02,0.04."
)
_LENGTHS = flags.DEFINE_list("lengths", [], "export: steps of time to compile for; default: what suits the system.")
_BATCH = flags.DEFINE_integer("batch", 1, "export: videos (TALLFormer: windows) per call.")
_PLATFORMS = flags.DEFINE_list("platforms", ["cpu", "cuda", "tpu"], "export: where the program is to run.")
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
    if _MODE.value == "options":
        sys.exit(_print_options())
    if _MODE.value == "extract" and _RECIPE.value in ("list", "help"):
        from actloc_jax.data import feature_recipes

        print(feature_recipes.tables())
        sys.exit(0)
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
    if {"--help", "-help", "-h"} & set(argv):
        print(_help(argv))
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
        modes.refuse_others(_MODE.value, {name for name in flags.FLAGS if flags.FLAGS[name].present})
        if _CONFIG.present and not os.path.exists(_config_file()):
            raise ValueError(f"--config: {_config_file()} does not exist; the experiments are in the folder configs/")
        return rest
    except flags.Error as error:  # of what a config raises, the last line, without the way there
        sys.exit(f"error: {_last_sentence(str(error))} (--help shows the flags of every mode)")
    except (AttributeError, KeyError) as error:  # from ml_collections, the first one around the second
        named = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
        sys.exit(f"error: the config has no field {named}".replace("\n", ". "))
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def _last_sentence(text: str) -> str:
    """Of a traceback in a message, the last line without the name of the error; other messages as they are."""
    if "Traceback (most recent call last)" not in text:
        return " ".join(text.split())
    return re.sub(r"^\w+: ", "", text.strip().splitlines()[-1].strip()).rstrip(".")


def _help(argv: list[str]) -> str:
    """Of the mode that is asked for, else of all."""
    asked = [after for word, after in zip(argv, argv[1:] + [""], strict=True) if word in ("--mode", "-mode")]
    asked += [word.partition("=")[2] for word in argv if word.startswith(("--mode=", "-mode="))]
    about = {name: flags.FLAGS[name].help for name in flags.FLAGS}
    if asked and asked[-1] in modes.MODES:
        return modes.help_of(asked[-1], about)
    every = "\n".join(f"  --{flag.name}: {flag.help}" for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]))
    return f"{__doc__}\n{modes.overview()}\n\nFlags:\n{every}"


def _print_options() -> int:
    if _CONFIG.value is None:
        print("error: --mode=options needs --config, for example --config=configs/tst_gtea.py.", file=sys.stderr)
        return 1
    from actloc_jax import options

    print(options.describe(_CONFIG.value, _config_file()))
    return 0


def _config_file() -> str:
    """The file of the experiment, without its arguments."""
    return config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]


def _run() -> int:
    from etils import epath

    from actloc_jax import export, extract, inspect, predict, splits, sweep, train
    from actloc_jax.evaluate import evaluate

    config = _CONFIG.value
    networks = extract.Networks(_RGB.value, _FLOW.value, _OPTICAL_FLOW.value, _RAFT.value)
    if _MODE.value == "extract":
        return extract.from_flags(_RECIPE.value, _INPUTS.value, _WORKDIR.value or "runs/features", networks)
    if _MODE.value == "predict":
        if not _INPUTS.value:
            raise ValueError("--mode=predict needs --inputs=<feature files, videos or folders>.")
        checkpoint = _CHECKPOINT.value or _WORKDIR.value
        workdir = _WORKDIR.value or "runs/predictions"
        predict.predict(checkpoint, _INPUTS.value, workdir, config=config, videos=_VIDEOS.value, networks=networks)
        return 0
    if _MODE.value == "export":
        export.export(
            _CHECKPOINT.value or _WORKDIR.value, _WORKDIR.value or "runs/exported", config=config,
            lengths=_numbers("lengths", _LENGTHS.value), batch_size=_BATCH.value, platforms=_PLATFORMS.value,
        )  # fmt: skip
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
        chosen = {"checkpoint": _CHECKPOINT.value, "predictions": _PREDICTIONS.value, "videos": _VIDEOS.value}
        return splits.each(config, workdir, lambda c, w: evaluate(c, w, **chosen))

    if _SWEEP.value:
        sweep.each(config, workdir, _SWEEP.value, run)
    else:
        run(config, workdir)
    return 0


def _numbers(flag: str, words: list[str]) -> list[int]:
    if not all(word.isdigit() for word in words):
        raise ValueError(f"--{flag}={','.join(words)} must be whole numbers, separated by commas.")
    return [int(word) for word in words]


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
