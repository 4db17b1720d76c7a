"""From a video to a prediction with systems that read features, and what is refused on the way."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import own_videos, splits, systems, workdirs
from actloc_jax.data.feature_manifests import manifest_of
from actloc_jax.data.feature_recipes import RECIPES, recipe_of, text_of
from actloc_jax.extract import Networks, extract
from actloc_jax.model import load
from actloc_jax.own_videos import as_features
from actloc_jax.systems.api import TrainStage
from actloc_jax.training import checkpoints
from tests.data.video_writing import pictures, write_video
from tests.feature_networks import NETWORKS, StandIns
from tests.tiny import tiny_asot, tiny_config, tiny_fustal, tiny_spot

pytest.importorskip("av", reason="PyAV is an optional dependency")

RECIPE = "cola:window=10,stride=10,fps=15"
TINY = {"tst": tiny_config, "asot": tiny_asot, "fustal": tiny_fustal, "spot": tiny_spot}


@pytest.fixture
def video(tmp_path: pathlib.Path) -> pathlib.Path:
    """Four seconds of 25 frames."""
    write_video(tmp_path / "cooking.mp4", pictures(100), [*range(100)], 25)
    return tmp_path / "cooking.mp4"


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """No test reads what another one left."""
    monkeypatch.setattr(own_videos, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def _model(tiny: Callable[..., ConfigDict], recipe: str, workdir: pathlib.Path) -> str:
    """A model with random weights that says that it was trained on features of a recipe."""
    config = tiny()
    stages = {"tst": "diffact", "asot": "asot", "fustal": "student", "spot": "finetune"}
    stage_name = stages[config.system]
    views = config.data.student if config.system == "fustal" else config.data
    views.recipe = recipe
    if "stages" in config:
        config.stages = (stage_name,)
    config = splits.of_split(config, splits.chosen(config)[0])
    dataset = systems.of(config).dataset(config, epath.Path(workdir))
    stage = systems.of(config).stages(config, dataset, epath.Path(workdir))[-1]
    assert isinstance(stage, TrainStage)
    meta = workdirs.model_meta(config, dataset, stage.name, 0)
    checkpoints.save_model(workdir / "model", stage.model(jax.jit(stage.scratch)(jax.random.key(0))), meta)
    return str(workdir / "model")


@pytest.mark.parametrize(
    "system", [pytest.param(name, marks=[pytest.mark.slow] if name in ("fustal", "spot") else []) for name in TINY]
)
def test_a_video_is_predicted_through_the_features_of_the_checkpoint(
    system: str, video: pathlib.Path, tmp_path: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins = StandIns(monkeypatch, channels=16 if system == "spot" else 32)
    model = load(_model(TINY[system], RECIPE, tmp_path), networks=NETWORKS)
    timeline = model.predict(video)
    assert timeline.video == "cooking"
    (features,) = cache.rglob("*.npy")
    made = manifest_of(features)
    assert made.rows == 6
    assert np.load(features).shape == (6, made.channels)
    assert made.video["frames"] == 100
    again = model.predict(video)
    assert stand_ins.loaded == 2, "the second time, features come from the cache"
    assert again.tracks == timeline.tracks
    if system in ("fustal", "spot"):
        ends = [segment.end for track in timeline.tracks for segment in track.segments]
        assert max(ends, default=0) <= 100 / 25 + 1


def test_a_checkpoint_that_does_not_say_its_features_takes_no_videos(video: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"does not say which features it was trained on.*--recipe=list"):
        as_features([str(video)], "", NETWORKS)
    with pytest.raises(ValueError, match=r"trained on features 'tsn': outputs of two TSN classifiers"):
        as_features([str(video)], "tsn", NETWORKS)
    with pytest.raises(ValueError, match=r"needs the rgb stream of I3D: give --rgb"):
        as_features([str(video.parent)], "mstcn_15fps", Networks())
    with pytest.raises(FileNotFoundError, match=r"--rgb=rgb holds no checkpoint; make one .* convert i3d"):
        as_features([str(video.parent)], "mstcn_15fps", NETWORKS)
    with pytest.raises(FileNotFoundError, match=r"absent.mp4 does not exist"):
        as_features([str(video.parent / "absent.mp4")], "cola", NETWORKS)


def test_a_video_that_fails_ends_prediction(video: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StandIns(monkeypatch)
    video.write_bytes(video.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"The videos cannot be used:\n  .*cooking.mp4"):
        as_features([str(video)], "cola", NETWORKS)


def test_features_of_another_recipe_are_refused_and_doubtful_ones_told(
    video: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    StandIns(monkeypatch)
    made = extract(recipe_of(RECIPE), [str(video)], tmp_path / "features", NETWORKS).features
    folder = str(tmp_path / "features")
    assert as_features([folder], RECIPE, Networks()) == [folder]
    assert as_features([folder], "", Networks()) == [folder]
    with pytest.raises(ValueError, match=r"cooking.npy: the checkpoint was trained on features of recipe mstcn_15fps"):
        as_features([str(made["cooking"])], "mstcn_15fps", Networks())
    as_features([folder], RECIPE + ",optical_flow=raft", Networks())
    assert "optical_flow tvl1 instead of raft" in caplog.text
    np.save(tmp_path / "published.npy", np.zeros([4, 6], np.float32))
    assert as_features([str(tmp_path / "published.npy")], "mstcn_15fps", Networks())


def test_every_config_names_a_recipe_that_is_known() -> None:
    for path in sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py")):
        if path.stem.startswith("common") or path.stem.startswith("tallformer"):
            continue
        for argument in ("", "demo"):
            if path.stem == "asot_affinity" and argument:
                continue  # reads no features
            config = importlib.import_module(f"configs.{path.stem}").get_config(argument)
            for name in _recipes(config):
                assert not name or name in RECIPES or name in ("tsn", "dense_trajectories", "generated"), path
                assert argument == "" or name in ("generated", ""), f"{path}: the demo's features belong to no video"


def _recipes(config: ConfigDict) -> list[Any]:
    data = config.data
    return [data[view].recipe for view in ("generator", "student") if view in data] or [data.recipe]


@pytest.mark.parametrize("system", TINY)
def test_training_on_features_of_another_recipe_is_refused(
    system: str, video: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StandIns(monkeypatch)
    config = TINY[system]()
    config = splits.of_split(config, splits.chosen(config)[0])
    systems.of(config).dataset(config, epath.Path(tmp_path))  # generates the demo's data
    (features,) = (path for path in tmp_path.rglob("features") if path.is_dir())
    extract(recipe_of(RECIPE), [str(video)], features, NETWORKS)
    (features / "cooking.npy").unlink()
    views = [config.data[name] for name in ("generator", "student") if name in config.data] or [config.data]
    for recipe, severity, said in (
        ("generated", "error", "is generated"),
        ("mstcn_15fps", "error", "window 10 instead of 21"),
        (RECIPE + ",optical_flow=dis", "warning", "optical_flow tvl1 instead of dis"),
        ("", "warning", "which the config does not say"),
    ):
        for view in views:
            view.recipe = recipe
        found = systems.of(config).dataset(config, epath.Path(tmp_path)).problems(config.data.train_split)
        found = [problem for problem in found if "were made by recipe" in problem.message]
        assert [problem.severity for problem in found] == [severity]
        assert said in found[0].message
        assert f"recipe={RECIPES['cola'].name}:fps=15" in found[0].message
    for view in views:
        view.recipe = RECIPE
    found = systems.of(config).dataset(config, epath.Path(tmp_path)).problems(config.data.train_split)
    assert not [problem for problem in found if "recipe" in problem.message]


@pytest.mark.parametrize("text", [*RECIPES, RECIPE, "actionformer:crop=ten,streams=rgb", "cola:fps=29.97"])
def test_recipes_can_be_written_and_read_again(text: str) -> None:
    recipe = recipe_of(text)
    assert recipe_of(text_of({"name": recipe.name, **recipe.fields()})) == recipe
