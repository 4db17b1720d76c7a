"""Published PyTorch checkpoints to ours and back, without PyTorch.

    python -m convert tst split_1_best.pth checkpoints/gtea_1 --class-names dataset/gtea/mapping.txt
    python -m convert tst split_1_best.pth --dry-run
    python -m convert tst --back checkpoints/gtea_1 split_1.npz
    python -m convert tst-cache cache/gtea_split1 caches/gtea_1
    python -m convert asot epoch=29-step=990.ckpt checkpoints/salads --class-names dataset/FS/mapping/mappingeval.txt
    python -m convert asot --back checkpoints/salads salads.npz
    python -m convert fustal epoch_100.pth.tar checkpoints/student
    python -m convert fustal epoch_039.pth.tar checkpoints/tridet --dataset tridet_thumos
    python -m convert fustal --back checkpoints/student student.npz
    python -m convert spot SPOT_best_semi.pth.tar checkpoints/spot --class-names config/dataset_class.py
    python -m convert spot --back checkpoints/spot spot.npz
    python -m convert tallformer swin_base_patch244_window877_kinetics400_22k.pth checkpoints/swin_base
    python -m convert tallformer epoch_1000_weights.pth checkpoints/tallformer
    python -m convert tallformer checkpoint-10.ckpt checkpoints/anet --class-names data/annots/anet/action_name.txt
    python -m convert tallformer --back checkpoints/tallformer tallformer.npz
    python -m convert i3d rgb_imagenet.pt checkpoints/i3d_rgb
    python -m convert i3d --back checkpoints/i3d_rgb i3d_rgb.npz
    python -m convert raft raft-sintel.pth checkpoints/raft_sintel
    python -m convert raft --back checkpoints/raft_sintel raft_sintel.npz

A file may be a path (also gs://) or hf://owner/repository/path.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Any

from etils import epath


def main(argv: list[str] | None = None) -> int:
    """Runs one command; errors of users end in one message and exit status 1."""
    args = _parser().parse_args(argv)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of files that it does not need
    try:
        return args.run(args)
    except (ValueError, FileNotFoundError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_system(
        commands, "tst", "TST, DiffAct and ASFormer checkpoints",
        files=".pth / .model / .pt", datasets="gtea, 50salads or breakfast", example="backbone.diffusion.scale=0.5",
    )  # fmt: skip
    _add_system(
        commands, "asot", "Lightning checkpoints of ASOT",
        files=".ckpt / .pth", datasets="breakfast, yti, 50salads or desktop_assembly", example="data.standardise=true",
    )  # fmt: skip
    fustal = _add_system(
        commands, "fustal", "checkpoints of FuSTAL, TriDet and ActionFormer",
        files=".pth.tar / .pth", datasets="fustal_thumos, tridet_thumos or actionformer_thumos",
        example="network.student.windows=9", classes="a file with one class name per line",
    )  # fmt: skip
    fustal.add_argument(
        "--weights", choices=("ema", "raw"), default="ema",
        help="the average over the training, where the file has one, or the weights of its last step",
    )  # fmt: skip
    _add_system(
        commands, "spot", "checkpoints of SPOT",
        files=".pth.tar / .pth", datasets="spot_anet or spot_thumos, with arguments as in spot_anet:labels=60",
        example="decode.row_seconds=0.5",
        classes="class_index.json, a file with one class name per line, or the original's config/dataset_class.py",
    )  # fmt: skip
    tallformer = _add_system(
        commands, "tallformer", "checkpoints of TALLFormer, and backbones of Video Swin and Swin",
        files=".pth / .ckpt", datasets="tallformer_thumos, tallformer_anet or tallformer_hacs",
        example="network.detector.window_heads=4", classes="a file with one class name per line",
    )  # fmt: skip
    tallformer.add_argument(
        "--weights", choices=("backbone", "momentum"), default="backbone",
        help="of a file with two backbones, the one to predict with: the trained one, or its slow average (m_backbone)",
    )  # fmt: skip
    i3d = _add_network(commands, "i3d", "files of I3D, RGB or optical flow, of both ports to PyTorch", ".pt / .pth")
    i3d.add_argument("--class-names", metavar="FILE", help="a file with one class name per line, for the logits")
    _add_network(commands, "raft", "files of RAFT (optical flow), large and small", ".pth")
    cache = commands.add_parser("tst-cache", help="TST's cache of backbone outputs")
    cache.add_argument("source", help="folder with meta.json and seed_xxx/<video>.pt")
    cache.add_argument("target", help="the cache folder to write")
    cache.set_defaults(run=_tst_cache)
    return parser


def _add_system(
    commands: Any, system: str, title: str, *, files: str, datasets: str, example: str,
    classes: str = "the data set's mapping.txt, for the names of the classes",
) -> argparse.ArgumentParser:  # fmt: skip
    """The command that converts the checkpoints of a system."""
    parser = _add_network(commands, system, title, files)
    parser.add_argument("--class-names", metavar="FILE", help=classes)
    parser.add_argument("--dataset", help=f"{datasets}: what the file does not tell is taken from its config")
    parser.add_argument(
        "--set", metavar="FIELD=JSON", action="append", default=[], type=_setting,
        help=f"a config field that the file does not tell, e.g. {example}",
    )  # fmt: skip
    return parser


def _add_network(commands: Any, name: str, title: str, files: str) -> argparse.ArgumentParser:
    """The command that converts the checkpoints of a network that needs no config."""
    parser = commands.add_parser(name, help=title)
    parser.add_argument("source", help=f"the {files} file; with --back a model folder")
    parser.add_argument("target", nargs="?", help="the model folder to write; with --back the .npz to write")
    parser.add_argument(
        "--back", action="store_true", help="from a model folder to an .npz with PyTorch's keys and layouts"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the mapping, write nothing")
    parser.add_argument("--to-npz", metavar="FILE", help="also write our parameters as an .npz with flat paths")
    parser.add_argument("--allow-missing", metavar="REGEX", help="keys that may be absent; they get fresh values")
    parser.add_argument("--allow-extra", metavar="REGEX", help="keys that may be left out")
    parser.set_defaults(run=_convert, system=name)
    return parser


def _setting(text: str) -> tuple[str, Any]:
    field, _, value = text.partition("=")
    try:
        return field, json.loads(value)
    except json.JSONDecodeError as err:
        raise argparse.ArgumentTypeError(
            f"{text!r}: the value of {field} must be JSON, such as 0.5 or [5,7,9]"
        ) from err


def _convert(args: argparse.Namespace) -> int:
    # after the flags, so that --help answers at once
    from convert import asot, checked, files, fustal, i3d, raft, spot, tallformer, tst

    modules = {
        "tst": tst, "asot": asot, "fustal": fustal, "spot": spot, "tallformer": tallformer, "i3d": i3d, "raft": raft,
    }  # fmt: skip
    converter = modules[args.system]
    if args.target is None and (args.back or not (args.dry_run or args.to_npz)):
        raise ValueError("a target is needed, or --dry-run, or --to-npz FILE")
    if args.back:
        state = converter.back(epath.Path(args.source))
        files.write_npz(epath.Path(args.target), state)
        print(f"{args.target}: {len(state):,} entries in PyTorch's layout")
        return 0
    options = {name: getattr(args, name) for name in ("dataset", "class_names", "weights") if name in args}
    if "set" in args:
        options["settings"] = dict(args.set)
    converted = converter.convert(
        files.fetch(args.source), allow_missing=args.allow_missing, allow_extra=args.allow_extra, **options
    )
    print(
        checked.mapping_text(converted) if args.dry_run else "\n".join([*converted.notes, checked.summary(converted)])
    )
    if args.dry_run:
        return 0
    if args.to_npz:
        files.write_npz(epath.Path(args.to_npz), converted.arrays)
        print(f"wrote {args.to_npz}")
    if args.target:
        checked.save(converted, epath.Path(args.target))
        print(f"wrote the model checkpoint {args.target}")
    return 0


def _tst_cache(args: argparse.Namespace) -> int:
    from convert import tst_cache

    written = tst_cache.convert_cache(epath.Path(args.source), epath.Path(args.target))
    print(f"{args.target}: {written:,} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
