"""Parity of TALLFormer from pixels: the whole detector on a video, and training steps with the memory."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.video_swin import VideoSwin, VideoSwinSizes
from actloc_jax.layers.functional import Network, Params, flatten, unflatten, united
from actloc_jax.ops.anchors import Anchors, make_anchors
from actloc_jax.systems.tallformer import bank as banks
from actloc_jax.systems.tallformer.afsd_losses import AfsdLossSettings
from actloc_jax.systems.tallformer.anchor_decode import AnchorDecodeSettings, Merged, Window, merge, window_candidates
from actloc_jax.systems.tallformer.anchor_losses import AnchorLossSettings
from actloc_jax.systems.tallformer.completion import Memory
from actloc_jax.systems.tallformer.memory_training import afsd_loss_fn, anchor_loss_fn, parameter_group
from actloc_jax.training import optimizers, sharding, state
from actloc_jax.training.state import TrainState
from convert import tallformer_tables
from convert.tallformer_head_tables import ACTIVITYNET, THUMOS
from tests.parity import tallformer_afsd, tallformer_anchors
from tests.parity.harness import Case, cases, parity
from tests.parity.tallformer_anchor_losses import PUBLISHED, padded
from tests.parity.tallformer_anchors import channels_of, close
from tests.parity.tallformer_swin import sizes_of


def backbone_of(config: dict[str, Any], weights: dict[str, Any]) -> tuple[VideoSwinSizes, Network, Params]:
    """Sizes, network and parameters of the backbone of a detector."""
    sizes = sizes_of(config)
    params = tallformer_tables.VIDEO_SWIN.convert_all(tallformer_tables.backbone_state(weights))
    return sizes, Network(lambda rngs: VideoSwin(sizes, rngs=rngs)), unflatten(params)


def video_of(array: np.ndarray) -> np.ndarray:
    """Thirty-seconds of the input [batch, 3, time, height, width] as [batch, time, height, width, 3] float32."""
    return np.moveaxis(array, 1, -1) / np.float32(32)


def anchors_of(lengths: list[int], frames: int) -> Anchors:
    """The published anchors of a window with levels of these lengths."""
    return make_anchors(lengths, PUBLISHED, frames)


@parity("tallformer", "detector_eval")
def check_detector_eval(case: Case) -> None:
    """Features, heads and merged detections of a video in three windows, and of its first window alone."""
    config, arrays = case.config, case.arrays
    _, backbone, weights = backbone_of(config["model"]["backbone"], case.weights())
    sizes, detector, params, running = tallformer_anchors.detector_of(config["model"], case.weights())
    lengths = [arrays[f"w0/cls{level}"].shape[2] for level in range(sizes.levels)]
    test = config["test_cfg"]
    settings = AnchorDecodeSettings(
        per_level=test["nms_pre"],
        above=test["score_thr"],
        threshold=float(re.search(r"[\d.]+", test["nms"])[0]),
        most=test["max_per_video"],
    )

    @jax.jit
    def run(video: jax.Array) -> Any:
        features = backbone(weights, video, config["model"]["chunk_size"], method="clip_features")
        return features, detector(united(params, running), features)

    found = []
    for number, window in enumerate(config["windows"]):
        video = video_of(arrays[f"imgs{number}_int8"])
        features, output = run(video)
        close(case, features.swapaxes(1, 2), f"feat{number}")
        for head, levels in zip(("cls", "reg"), output, strict=True):
            for level, values in enumerate(levels):
                close(case, channels_of(values, sizes.anchors), f"w{number}/{head}{level}")
        logits, deltas = (np.concatenate(levels, axis=1)[0] for levels in output)
        place = Window(window["tshift"], window["tsize"])
        found.append(window_candidates(logits, deltas, anchors_of(lengths, video.shape[1]), place, settings))
    _check_detections(case, merge(found, settings), "result_class")
    _check_detections(case, merge(found[:1], settings), "single_window_class")


def _check_detections(case: Case, found: Merged, name: str) -> None:
    """Detections of every class; those with nearly the same score may change places."""
    tolerance = {"rtol": case.meta["tolerance"]["rtol"], "atol": case.meta["tolerance"]["atol"]}
    for label in range(case.config["model"]["head"]["num_classes"]):
        rows, expected = found.labels == label, case.arrays[f"{name}{label}"]
        ours = np.column_stack([found.segments[rows], found.scores[rows]])
        np.testing.assert_allclose(ours[:, 2], expected[:, 2], err_msg=f"{name}{label}", **tolerance)
        same = np.isclose(ours[:, None], expected, **tolerance).all(axis=2)
        assert same.any(axis=0).all(), f"{name}{label}: not found {expected[~same.any(axis=0)]}"
        assert same.any(axis=1).all(), f"{name}{label}: not expected {ours[~same.any(axis=1)]}"


def access_of(rows: list[np.ndarray], rows_per_chunk: int) -> tuple[banks.BankAccess, banks.MemoryBank]:
    """A bank of these videos [rows, channels] on one device, and how to reach it."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    plan = banks.BankPlan(tuple(map(len, rows)), rows[0].shape[1], "float32", 1, "rows")
    return banks.BankAccess(mesh, plan.layout, rows_per_chunk), banks.fill(plan, mesh, rows.__getitem__)


def check_sums(case: Case, by_key: dict[str, np.ndarray]) -> None:
    """The sums of all parameters and running statistics after the last step."""
    tolerance = case.meta["tolerance"]
    for key, (total, _) in case.meta["final_checksums_sum_sumsq"].items():
        if key in by_key:
            values = np.asarray(by_key[key], np.float64)
            allowed = tolerance["rtol"] * np.abs(values).sum() + tolerance["atol"] * values.size
            assert abs(values.sum() - total) <= allowed, key


@parity("tallformer", "train_steps")
def check_train_steps(case: Case) -> None:
    """Each step: rows read, loss, gradients of the first, the bank after it, rates; in the end the parameters."""
    config, arrays = case.config, case.arrays
    chunk, steps = config["membank"]["chunk_size"], config["steps"]
    swin, backbone, weights = backbone_of(config["model"]["backbone"], case.weights())
    sizes, detector, params, running = tallformer_anchors.detector_of(config["model"], case.weights())
    names = list(config["bank_meta"])
    access, bank = access_of([arrays[f"bank0/{name}"] for name in names], chunk // config["membank"]["feat_downsample"])
    frames = arrays["s0/imgs_int8"].shape[2]
    memory = Memory(backbone, access, num_chunks=frames // chunk)
    anchors = anchors_of([arrays[f"s0/cls{level}"].shape[2] for level in range(sizes.levels)], frames)
    rate, momentum, decay, factor = map(float, re.findall(r"\d[\d.e-]*", config["optimizer"]))
    tx = optimizers.grouped(
        {
            group: optimizers.sgd(_rates(case, column, scale * rate), weight_decay=decay, momentum=momentum)
            for group, column, scale in (("detector", 0, 1.0), ("backbone", 1, factor))
        },
        lambda path: parameter_group(path, swin.is_frozen),
    )
    loss_fn = anchor_loss_fn(memory, detector, anchors, AnchorLossSettings())
    step = state.gradient_step(loss_fn, tx)
    gradients, update = jax.jit(step.gradients), jax.jit(step.update)
    current = state.create({"backbone": weights, "detector": params}, tx, batch_stats=running, extra={"bank": bank})
    for number, entry in enumerate(steps):
        batch = _batch(case, number, [names.index(name) for name in entry["videos"]], entry["tshift"], chunk)
        found = gradients(current.extra, state.without(current, "extra", "opt_state"), batch, jax.random.key(0))
        tolerance = case.meta["tolerance"]["loss_steps_0_1" if number < 2 else "loss_steps_2_3"]["rtol"]
        parts = [found.scalars[name] for name in ("classification", "segment", "loss")]
        np.testing.assert_allclose(parts, arrays[f"s{number}/loss"], rtol=tolerance, err_msg=f"step {number}")
        if number == 0:
            _check_gradients(case, THUMOS.to_torch(flatten(found.params)))
        _check_bank(case, number, found.extra["bank"], names, entry["videos"])
        current, _ = update(state.without(current, "extra", "batch_stats"), found.params, found.scalars)
        current = current._replace(batch_stats=found.batch_stats, extra=found.extra)
    by_key = THUMOS.to_torch({**flatten(current.params), **flatten(current.batch_stats, "detector/")})
    for name in (name for name in arrays if name.startswith("final/")):
        close(case, by_key[name.removeprefix("final/")], name)
    check_sums(case, by_key)


def _rates(case: Case, column: int, base: float) -> optimizers.Schedule:
    """The warm-up inside epoch 0, checked against the rates of the case."""
    schedule = optimizers.warmup_cosine_restarts(base, period_epochs=100, steps_per_epoch=100, warmup_steps=500)
    for number in range(len(case.config["steps"])):
        np.testing.assert_allclose(schedule(number), case.arrays[f"s{number}/lr"][column], rtol=1e-9)
    return schedule


def _batch(case: Case, number: int, videos: list[int], starts: list[int], chunk: int) -> dict[str, Any]:
    """The batch of a step, with empty slots and one place that is not used among the chunks to read."""
    arrays, size = case.arrays, len(videos)
    video = video_of(arrays[f"s{number}/imgs_int8"])
    chunks = video.reshape(size, -1, chunk, *video.shape[2:])
    keep, drop = (arrays[f"s{number}/{name}"].astype(np.int32) for name in ("keep", "drop"))
    segments, labels = padded(*([arrays[f"s{number}/{kind}{i}"] for i in range(size)] for kind in ("gt", "lab")))
    empty = (
        max(len(array) for name, array in arrays.items() if "/lab" in name) + 1 - labels.shape[1]
    )  # one shape for all
    return {
        "chunks": chunks[:, keep],
        "keep": np.tile(keep, (size, 1)),
        "drop": np.tile(np.append(drop, np.int32(-1)), (size, 1)),
        "videos": np.asarray(videos, np.int32),
        "starts": np.asarray(starts, np.int32),
        "segments": jnp.pad(segments, ((0, 0), (0, empty), (0, 0))),
        "labels": jnp.pad(labels, ((0, 0), (0, empty)), constant_values=-1),
    }


def _check_gradients(case: Case, by_key: dict[str, np.ndarray]) -> None:
    """Gradients of the first step, those of the case whole, the others by their norms; frozen ones are zero."""
    tolerance = case.meta["tolerance"]["grad0"]
    for name in (name for name in case.arrays if name.startswith("grad0/")):
        close(case, by_key[name.removeprefix("grad0/")], name, **tolerance)
    for key, norm in case.meta.get("grad_norms_step0", {}).items():
        found_norm = np.linalg.norm(by_key[key])
        np.testing.assert_allclose(found_norm, 0 if norm is None else norm, err_msg=key, **tolerance)


def _check_bank(case: Case, number: int, bank: banks.MemoryBank, names: list[str], written: list[str]) -> None:
    offsets = np.asarray(bank.offsets)
    for name in written:
        video = names.index(name)
        rows = bank.rows[offsets[video] : offsets[video + 1]]
        close(case, rows, f"s{number}/bank/{name}", rtol=0, atol=case.meta["tolerance"]["bank"]["atol"])


@parity("tallformer", "anet_train_steps")
def check_anet_train_steps(case: Case) -> None:
    """Each step: losses, gradients of the first, the bank; in the end the parameters."""
    config, arrays = case.config, case.arrays
    model, membank = config["cfg"]["model"], config["cfg"]["membank_cfg"]
    (video_case,) = [other for other in cases("tallformer", "anet_membank") if other.meta["case"] in case.meta["notes"]]
    chunk, frames = membank["chunk_size"], config["cfg"]["num_frames"]
    swin, backbone, weights = backbone_of(model["backbone"], case.weights())
    sizes, detector, params = tallformer_afsd.detector_of(config["cfg"], case.weights())
    access, bank = access_of([video_case.arrays["bank0"]], chunk // membank["t_downsample"])
    memory = Memory(backbone, access, num_chunks=frames // chunk + 1)
    settings = AfsdLossSettings(overlap=config["piou"], distance_weight=config["lw"], class_weight=config["cw"])
    of_backbone, of_detector, decay = (
        float(re.search(pattern, config["optimizer"])[1])
        for pattern in (r"backbone lr ([\d.e-]+)", r"detection lr ([\d.e-]+)", r"weight_decay ([\d.e-]+)")
    )
    tx = optimizers.grouped(
        {
            "detector": optimizers.adam(of_detector, weight_decay=decay),
            "backbone": optimizers.adam(of_backbone, weight_decay=decay),
        },
        lambda path: parameter_group(path, swin.is_frozen),
    )
    step = state.gradient_step(afsd_loss_fn(memory, detector, sizes, settings), tx)
    gradients, update = jax.jit(step.gradients), jax.jit(step.update)
    current = state.create({"backbone": weights, "detector": params}, tx, extra={"bank": bank})
    for number in range(sum(name.endswith("/losses") for name in arrays)):
        batch = _anet_batch(case, number, video_case.arrays["x_int8"], chunk, frames)
        found = gradients(current.extra, state.without(current, "extra", "opt_state"), batch, jax.random.key(0))
        _check_anet_step(case, number, found)
        current, _ = update(state.without(current, "extra", "batch_stats"), found.params, found.scalars)
        current = current._replace(batch_stats=found.batch_stats, extra=found.extra)
    _check_adam_parameters(case, current, of_backbone, of_detector)


def _anet_batch(case: Case, number: int, x: np.ndarray, chunk: int, frames: int) -> dict[str, Any]:
    """The batch of a step: zeros before and behind the video, unused places among the chunks."""
    arrays, most = case.arrays, max(len(value) for name, value in case.arrays.items() if name.endswith("/keep"))
    zeros, keep = int(arrays[f"s{number}/pad"]), arrays[f"s{number}/keep"].astype(np.int32)
    video = np.pad(video_of(x)[0], ((zeros, chunk - zeros), (0, 0), (0, 0), (0, 0)))
    chunks = video.reshape(-1, chunk, *video.shape[1:])
    drop = np.setdiff1d(np.arange(len(chunks), dtype=np.int32), keep)
    unused = most - len(keep)
    target = arrays["target"]
    return {
        "chunks": np.pad(chunks[keep], ((0, unused), *[(0, 0)] * 4))[None],
        "keep": np.pad(keep, (0, unused), constant_values=-1)[None],
        "drop": np.pad(drop, (0, len(chunks) - len(drop)), constant_values=-1)[None],
        "videos": np.zeros(1, np.int32),
        "starts": np.array([-zeros], np.int32),
        "segments": (target[:, :2] * np.float32(frames))[None].astype(np.float32),
        "labels": np.ones((1, len(target)), np.int32),
        "video_classes": target[:1, 3].astype(np.int32),
    }


def _check_anet_step(case: Case, number: int, found: state.Gradients) -> None:
    columns = [*list(tallformer_afsd.LOSSES.values())[:-1], "loss"]
    losses = [found.scalars[name] for name in columns]
    tolerance = case.meta["tolerance"]["losses"]["rtol"]
    np.testing.assert_allclose(losses, case.arrays[f"s{number}/losses"], rtol=tolerance, err_msg=f"step {number}")
    bank = found.extra["bank"]
    close(case, bank.rows[: bank.offsets[1]][::8], f"s{number}/bank")
    if number == 0:
        _check_gradients(case, ACTIVITYNET.to_torch(flatten(found.params)))


def _check_adam_parameters(case: Case, current: TrainState, of_backbone: float, of_detector: float) -> None:
    """The case allows single parameters twice the rate per step, where a gradient is near 0."""
    by_key = ACTIVITYNET.to_torch(flatten(current.params))
    given = {"rtol": case.meta["tolerance"]["rtol"], "atol": case.meta["tolerance"]["atol"]}
    for name in (name for name in case.arrays if name.startswith("final/")):
        key = name.removeprefix("final/")
        apart = np.abs(by_key[key] - case.arrays[name])
        off = apart > given["atol"] + given["rtol"] * np.abs(case.arrays[name])
        rate = of_backbone if key.startswith("backbone.") else of_detector
        assert apart[off].max(initial=0) <= 2 * int(current.step) * rate, name
        assert off.mean() <= 0.01, name
    check_sums(case, by_key)
