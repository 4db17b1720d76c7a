"""The configs of TALLFormer have the published settings and build in all variants; their parts work on rendered videos.

The demos themselves are run by hand: they take minutes.
"""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.backbones.afsd import AfsdSizes
from actloc_jax.backbones.daotad import AnchorDetectorSizes
from actloc_jax.data import synthetic_video_detection as synthetic
from actloc_jax.data.video_augmentation import Augmentation
from actloc_jax.layers import functional
from actloc_jax.ops import nms
from actloc_jax.systems.tallformer import filling, settings, stages, videos
from actloc_jax.systems.tallformer.afsd_decode import AfsdDecodeSettings
from actloc_jax.systems.tallformer.afsd_losses import AfsdLossSettings
from actloc_jax.systems.tallformer.anchor_decode import AnchorDecodeSettings, Window
from actloc_jax.systems.tallformer.anchor_losses import AnchorLossSettings
from actloc_jax.systems.tallformer.predictor import Row
from actloc_jax.systems.tallformer.system import SYSTEM

NAMES = ("tallformer_thumos", "tallformer_anet", "tallformer_hacs")
TINY = synthetic.Settings(train_videos=3, test_videos=1, min_frames=140, max_frames=150, side=20)


def _config(name: str, arg: str = "") -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(arg)


def _tiny(name: str, workdir: pathlib.Path, monkeypatch: pytest.MonkeyPatch, arg: str = "") -> tuple[ConfigDict, Any]:
    """A demo with hardly any videos or width, and its data set."""
    longest = {"min_frames": 90, "max_frames": 120} if name != "tallformer_thumos" else {}
    monkeypatch.setattr(videos, "DEMO", dict.fromkeys(videos.DETECTORS, dataclasses.replace(TINY, **longest)))
    config = _config(name, f"demo,{arg}" if arg else "demo")
    config.data.frame_size, config.clip.crop = (20, 20), (16, 16)
    config.network.backbone.update({"width": 8, "depths": (1,), "heads": (2,)})
    config.network.detector.update({"width": 8, "heads": 2})
    if name == "tallformer_thumos":
        config.network.detector.update({"windows": (5,), "window_heads": 2, "head_layers": 1, "pyramid_width": 8})
    config.train.update({"batch_size": 2, "threads": 0})
    config.memory.layout = "rows"
    return config, SYSTEM.dataset(config, epath.Path(workdir))


def test_thumos14_has_the_published_settings() -> None:
    config = _config("tallformer_thumos")
    assert settings.anchor_loss(config) == AnchorLossSettings()
    assert settings.anchor_decode(config) == AnchorDecodeSettings()
    assert settings.augmentation(config) == Augmentation()
    assert settings.detector_sizes(config, 20) == AnchorDetectorSizes()
    assert functional.count(settings.backbone_network(config).shapes()) == 87_638_984
    anchors = settings.window_anchors(config, AnchorDetectorSizes())
    assert (len(anchors.segments), np.diff((0, *anchors.ends)).tolist()) == (585, [300, 150, 75, 40, 20])
    choice = settings.chunk_choice(config)
    keep, drop = choice.draw(np.random.default_rng(0))
    assert (choice.num_chunks, len(keep), len(drop)) == (15, 2, 13)
    assert settings.rows_per_chunk(config) == 16
    rates = stages._rates(config, 13)
    part = 0.01 + 0.99 * (1 + np.cos(0.38 * np.pi)) / 2  # in epoch 38 of 100
    np.testing.assert_allclose([rates["detector"](step) for step in (0, 500)], [1e-3, 1e-2 * part])
    np.testing.assert_allclose(rates["backbone"](500), 4e-3 * part)
    assert (config.train.batch_size, config.train.epochs, config.train.seed) == (16, 1000, 10)
    assert [epoch + 1 for epoch in range(1000) if stages._evaluate_at(config.train)(epoch)] == [
        600,
        700,
        800,
        900,
        1000,
    ]
    assert len(settings.chunk_choice(_config("tallformer_thumos", "keep=0.4")).draw(np.random.default_rng(0))[0]) == 6


@pytest.mark.parametrize(("name", "classes", "epochs"), [("tallformer_anet", 2, 10), ("tallformer_hacs", 1, 15)])
def test_whole_videos_have_the_published_settings(name: str, classes: int, epochs: int) -> None:
    config = _config(name)
    assert settings.afsd_loss(config) == AfsdLossSettings()
    assert settings.afsd_decode(config) == AfsdDecodeSettings(classes_per_segment=classes)
    assert settings.detector_sizes(config, 200) == AfsdSizes()
    choice = settings.chunk_choice(config)
    assert (choice.num_chunks, choice.keep_ratio, choice.how) == (25, 0.36, "distinct_jitter")
    rates = stages._rates(config, 100)
    np.testing.assert_allclose([rates["detector"](step) for step in (0, 799, 800)], [1e-4, 1e-4, 1e-5])
    np.testing.assert_allclose(rates["backbone"](0), 4e-6)
    assert config.train.epochs == epochs
    assert videos.frame_options(config) == {"fps": None, "size": (256, 256), "max_frames": 768}


@pytest.mark.parametrize("name", NAMES)
def test_builds_in_all_variants(name: str) -> None:
    plain, fixed, demo = _config(name), _config(name, "fixed"), _config(name, "demo")
    assert (plain.system, plain.name, plain.stages) == ("tallformer", name, ("fill_bank", "train"))
    assert all(plain.quirks.values())
    assert not any(fixed.quirks.values())
    assert (plain.eval.select, fixed.eval.select) == ("mAP", None)
    assert (demo.name, demo.data.source) == (f"{name}_demo", "synthetic")
    settings.detector_sizes(demo, 3)
    with pytest.raises(ValueError, match="Unknown config argument 'quick'"):
        _config(name, "quick")


def test_fixed_settings_are_the_sane_ones() -> None:
    assert not settings.anchor_loss(_config("tallformer_thumos", "fixed")).assignment.claims_without_overlap
    whole = _config("tallformer_anet", "fixed")
    assert not settings.afsd_loss(whole).overlap_moves_segments
    assert settings.afsd_decode(whole).suppression == dataclasses.replace(nms.AFSD_SOFT, selects_last=True)


def test_says_what_cannot_be_used() -> None:
    config = _config("tallformer_thumos")
    config.memory.keep_ratio = 0.01
    with pytest.raises(ValueError, match=r"trains none of the 15 chunks .* at least 0.067"):
        settings.chunk_choice(config)
    config.network.backbone.depht = 3
    with pytest.raises(ValueError, match=r"config.network.backbone has no field depht; it has .*depths"):
        settings.backbone_sizes(config)
    config = _config("tallformer_anet")
    config.loss.ranges = ((0, 30),)
    with pytest.raises(ValueError, match="1 entries for 6 levels"):
        settings.afsd_loss(config)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["momentum", "computed"])
def test_other_kinds_of_memory_make_a_step(
    name: str, kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset = _tiny(name, tmp_path, monkeypatch, f"memory={kind}")
    train = SYSTEM.stages(config, dataset, epath.Path(tmp_path))[-1]
    state = jax.eval_shape(train.scratch, jax.random.key(0))
    batch = next(iter(train.batches()))
    after, scalars = jax.eval_shape(train.train_step, state, batch, jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)
    assert ("count/bank_age" in scalars) == (kind == "momentum")
    assert config.stages == (("fill_bank", "train") if kind == "momentum" else ("train",))
    model, first = train.model(state), next(iter(train.predictor.batches(dataset.source("test"))))
    assert ("slow_backbone" in model) == (kind == "momentum")
    for which in ("slow", "both") if kind == "momentum" else ("trained",):
        config.decode.backbone = which
        predictor = SYSTEM.predictor(config, dataset.class_names, "train")
        jax.eval_shape(predictor.predict, model, first.arrays, jax.random.key(0))


def test_kinds_of_memory_that_do_not_fit_are_named() -> None:
    config = _config("tallformer_thumos", "memory=computed")
    config.decode.backbone = "slow"
    with pytest.raises(
        ValueError, match=r"backbone=slow needs a model with a slower backbone, which .*computed has not"
    ):
        settings.check_evaluated_backbone(config)
    config.stages = ("fill_bank", "train")
    with pytest.raises(ValueError, match="has no memory bank to fill"):
        SYSTEM.stages(config, None, epath.Path("nowhere"))
    config.memory.keep_ratio = 0.0
    with pytest.raises(ValueError, match="trains none of the 15 chunks"):
        settings.chunk_choice(config)
    with pytest.raises(ValueError, match="memory='none' is unknown; use memory=bank, memory=momentum"):
        _config("tallformer_thumos", "memory=none")


@pytest.mark.slow
def test_filling_resumes_and_trains_from_what_is_there(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, dataset = _tiny("tallformer_thumos", tmp_path, monkeypatch)
    fill, train = SYSTEM.stages(config, dataset, epath.Path(tmp_path))
    fresh = jax.jit(train.scratch)(jax.random.key(0))
    with pytest.raises(FileNotFoundError, match="the memory bank has not been filled"):
        train.warm_start(fresh)
    assert not fill.done()
    fill.run()
    assert fill.done()
    files = sorted(filling.bank_folder(tmp_path).glob("*.npy"))
    before = [np.load(path) for path in files]
    assert [len(rows) for rows in before] == [80, 80, 80]  # 140 to 150 frames: 10 chunks of 8 rows
    files[1].unlink()
    assert not fill.done()
    kept = files[0].stat().st_mtime_ns
    fill.run()
    assert files[0].stat().st_mtime_ns == kept
    np.testing.assert_array_equal(np.load(files[1]), before[1])
    config.clip.crop = (12, 12)
    assert not fill.done()
    config.clip.crop = (16, 16)

    start = train.warm_start(jax.jit(train.scratch)(jax.random.key(0)))
    np.testing.assert_array_equal(start.extra["bank"].rows[80:160], before[1])
    batch = next(iter(train.batches()))
    state, scalars = jax.jit(train.train_step.__call__)(start, batch, jax.random.key(1))
    assert np.isfinite(float(scalars["loss"]))
    written = np.flatnonzero(np.any(state.extra["bank"].rows != start.extra["bank"].rows, axis=1))
    offsets = np.asarray(start.extra["bank"].offsets)
    first = offsets[batch["index"]] + batch["first_row"]
    expected = (first[:, None, None] + batch["keep"][:, :, None] * 8 + np.arange(8)).reshape(2, -1)
    assert set(written) <= set(
        np.concatenate([row[row < end] for row, end in zip(expected, offsets[batch["index"] + 1], strict=True)])
    )
    assert len(written) > 0


def test_whole_videos_make_a_step(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, dataset = _tiny("tallformer_anet", tmp_path, monkeypatch)
    _, train = SYSTEM.stages(config, dataset, epath.Path(tmp_path))
    state = jax.eval_shape(train.scratch, jax.random.key(0))
    batch = next(iter(train.batches()))
    after, scalars = jax.eval_shape(train.train_step, state, batch, jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)
    assert {"loss", "video", "count/bank_age"} <= scalars.keys()
    ready = jax.eval_shape(lambda batch: stages.network_batch(config, batch), batch)
    assert ready["chunks"].shape == (2, 4, 16, 16, 16, 3)
    np.testing.assert_array_equal(stages.network_batch(config, batch)["starts"], -batch["shift"])


def test_windows_are_stitched_when_the_last_one_has_come(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset = _tiny("tallformer_thumos", tmp_path, monkeypatch)
    config.decode.batch_size = 1
    predictor = SYSTEM.predictor(config, dataset.class_names, "train")
    (first,) = predictor.batches(dataset.source("test"))  # both windows of the only video
    assert first.arrays["frames"].shape == (2, 8, 16, 16, 16, 3)
    assert [(row.is_first, row.is_last, row.window.start) for row in first.rows] == [
        (True, False, 0),
        (False, True, 96),
    ]
    anchors = settings.window_anchors(config, settings.detector_sizes(config, 3))
    outputs = {
        "classes": np.full([1, len(anchors.segments), 3], -20.0, np.float32),
        "deltas": np.zeros([1, len(anchors.segments), 2], np.float32),
    }
    outputs["classes"][0, 20, 1] = 5.0  # row 4, shortest anchor: frames 24 to 40
    rows = [Row("v", Window(0, 128), True, False, 10.0, 15.0), Row("v", Window(96, 50), False, True, 10.0, 15.0)]
    assert predictor.decode(outputs, rows[:1]) == {"TALLFormer": []}
    (found,) = predictor.decode(outputs, rows[1:])["TALLFormer"]
    np.testing.assert_allclose(found.segments, [[2.4, 4.0], [12.0, 13.6]])
    np.testing.assert_array_equal(found.labels, [1, 1])


def test_a_users_videos_are_found(tmp_path: pathlib.Path) -> None:
    config = _config("tallformer_thumos", "demo")
    root = synthetic.write_folder(tmp_path / "data", dataclasses.replace(TINY, side=36))
    inputs = videos.open_inputs(config, {}, [str(root / "videos")])
    assert (len(inputs), inputs.record(0)["video"]) == (4, "video_test_003")
    with pytest.raises(FileNotFoundError, match="holds no videos"):
        videos.open_inputs(config, {}, [str(tmp_path)])
    config.data.fps = 0.0
    with pytest.raises(ValueError, match=r"4 of 4 videos cannot be read:\n.*how many of them are a second"):
        videos.open_inputs(config, {}, [str(root / "videos")])


def test_reads_the_text_files_of_thumos14(tmp_path: pathlib.Path) -> None:
    for subset, line in (("val", "v1 1.0 2.0"), ("test", "t1 3.0 4.5")):
        (tmp_path / "annotations" / subset).mkdir(parents=True)
        (tmp_path / "annotations" / subset / f"Diving_{subset}.txt").write_text(line + "\n")
    read, problems = videos.read_annotations(epath.Path(tmp_path), _config("tallformer_thumos").data, ["val", "test"])
    assert (read.class_names, read.subsets(), problems) == (("Diving",), {"val": 1, "test": 1}, [])
    np.testing.assert_array_equal(read.videos["t1"].segments, [[3.0, 4.5]])
