"""The pages on data of one's own are true: their commands are run, on generated features and a table of segments."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import splits, systems
from actloc_jax.data import synthetic, synthetic_detection

ROOT = pathlib.Path(__file__).parents[1]
IMPORT = "actloc_jax.data.import_csv"

# What makes the published networks small enough for a test; the pages' own fields are left as they are.
TINY = {
    "configs/tst_gtea.py": """
        --config.diffact.epochs=1 --config.diffact.evaluate_every=1 --config.diffact.batch_size=4
        --config.backbone.encoder.num_layers=2 --config.backbone.encoder.width=8
        --config.backbone.encoder.feature_layers=(0,1) --config.backbone.decoder.num_layers=2
        --config.backbone.decoder.width=8 --config.backbone.decoder.time_dim=8
        --config.backbone.diffusion.sampling_steps=2 --config.refiner.inner_dim=8 --config.refiner.segment_dim=8
        --config.refiner.num_layers=3 --config.tst.epochs=1 --config.tst.batch_size=4 --config.data.max_buckets=1
        --config.eval.timelines=1 --config.decode.batch_size=4""",
    "configs/tridet_thumos.py": """
        --config.student.epochs=2 --config.student.evaluate_every=0 --config.student.warmup_epochs=1
        --config.network.student.width=16
        --config.network.student.neck_width=16 --config.network.student.head_width=16
        --config.network.student.branch_blocks=1 --config.network.student.stem_blocks=1
        --config.network.student.embedding_layers=1 --config.network.student.head_layers=1
        --config.network.student.sgp_hidden=16 --config.network.student.bins=8 --config.network.student.max_length=320
        --config.student.ranges=((0,12),(12,10000)) --config.data.max_buckets=1 --config.decode.per_level=50
        --config.eval.timelines=1""",
}


def _commands(page: str) -> list[list[str]]:
    """The commands below the heading `From a table`, words apart, without that which needs the networks of I3D."""
    text = (ROOT / "docs" / page).read_text()
    section = re.split(r"\n##+ ", text.split("From a table\n", 1)[1])[0]
    lines = [line for block in re.findall(r"```\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    commands = [shlex.split(line.removeprefix("python ")) for line in lines if line.startswith("python ")]
    return [command for command in commands if "--mode=extract" not in command]


def _config_of(command: list[str]) -> ConfigDict:
    """The config that the flags of a command make."""
    given = dict(word[2:].split("=", 1) for word in command if word.startswith("--"))
    name, _, argument = given.pop("config").removeprefix("configs/").partition(":")
    config = importlib.import_module(f"configs.{name.removesuffix('.py')}").get_config(argument or None)
    for field, text in given.items():
        if field.startswith("config."):
            group, _, name = field.removeprefix("config.").rpartition(".")
            node = config
            for part in filter(None, group.split(".")):
                node = node[part]
            node[name] = text if isinstance(node[name], str) else type(node[name])(ast.literal_eval(text))
    return splits.of_split(config, "1")


def _run(folder: pathlib.Path, command: list[str], *more: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        [sys.executable, *command, *more], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-3000:]
    return answer.stdout + answer.stderr


@pytest.fixture
def segmentation(tmp_path: pathlib.Path) -> pathlib.Path:
    """A table, and features of 2048 channels at 15 rows per second."""
    rows = ["video,start,end,label,subset"]
    for folder in ("features", "new_features"):
        (tmp_path / folder).mkdir()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for subset, videos in zip(
        ("train", "test"), synthetic.generate(synthetic.Settings(6, 3, channels=64)), strict=True
    ):
        for video in videos:
            # Wide as I3D's, as the page says, of which 64 tell something.
            wide = np.pad(video.features, ((0, 0), (0, 2048 - 64)))
            np.save(tmp_path / "features" / f"{video.name}.npy", wide)
            edges = np.flatnonzero(np.diff(video.labels, prepend=-1, append=-1))
            for first, last in itertools.pairwise(edges):
                name = synthetic.CLASSES[video.labels[first]]
                if name != "background":
                    rows.append(f"{video.name}.mp4,{first / 15:.3f},{last / 15:.3f},{name},{subset}")
    np.save(tmp_path / "new_features" / "new.npy", wide)
    (tmp_path / "segments.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.fixture
def detection(tmp_path: pathlib.Path) -> pathlib.Path:
    """A table with durations, and features of 64 channels, a row for each 16 frames at 25 frames per second."""
    rows = ["video,start,end,label,subset,duration"]
    (tmp_path / "features").mkdir()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    train, test = synthetic_detection.generate(synthetic_detection.Settings(8, 3, max_steps=300))
    for video in (*train, *test):
        annotation = video.annotation
        np.save(tmp_path / "features" / f"{annotation.video}.npy", video.features)
        for (start, end), label in zip(annotation.segments, annotation.labels, strict=True):
            name = synthetic_detection.CLASSES[label]
            rows.append(f"{annotation.video},{start},{end},{name},{annotation.subset},{annotation.duration}")
    (tmp_path / "segments.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.mark.parametrize("page", ["own_dataset.md", "detection.md"])
def test_the_imported_folder_is_what_the_page_s_fields_describe(
    page: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = request.getfixturevalue("segmentation" if page == "own_dataset.md" else "detection")
    imported, inspected, trained, *_ = _commands(page)
    assert imported[:2] == ["-m", IMPORT]
    said = _run(folder, imported)
    printed = next(line for line in said.splitlines() if line.startswith("python -m actloc_jax.main"))
    for word in shlex.split(printed):
        if "<" not in word:
            assert word in ["python", *inspected], "the import prints the command of the page"
    monkeypatch.chdir(folder)
    for command in (inspected, trained):
        config = _config_of(command)
        dataset = systems.of(config).dataset(config, epath.Path("runs"))
        for split in (config.data.train_split, config.data.test_split):
            assert not list(dataset.problems(split))
        assert len(dataset.class_names) == (8 if page == "own_dataset.md" else 5)


@pytest.mark.slow
def test_every_command_on_segmentation_runs(segmentation: pathlib.Path) -> None:
    imported, inspected, trained, evaluated, predicted = _commands("own_dataset.md")
    _run(segmentation, imported)
    tiny = TINY["configs/tst_gtea.py"].split()
    assert "0 error(s)" in _run(segmentation, inspected, *tiny)
    _run(segmentation, trained, *tiny)
    scores = json.loads((segmentation / "runs" / "kitchen" / "evaluation.json").read_text())
    assert {"TST", "chance"} <= {*scores, *scores["metrics"]}
    assert (segmentation / "runs" / "kitchen" / "report.html").exists()
    assert "results on test.split1" in _run(segmentation, evaluated, *tiny)
    _run(segmentation, predicted)
    frames = (segmentation / "out" / "predictions" / "new").read_text().splitlines()[1].split()
    assert set(frames) <= set(synthetic.CLASSES)


@pytest.mark.slow
def test_every_command_on_detection_runs(detection: pathlib.Path) -> None:
    imported, inspected, trained = _commands("detection.md")
    _run(detection, imported)
    tiny = TINY["configs/tridet_thumos.py"].split()
    assert "0 error(s)" in _run(detection, inspected, *tiny)
    _run(detection, trained, *tiny)
    found = json.loads((detection / "runs" / "kitchen" / "predictions" / "detections.json").read_text())
    assert len(found["results"]) == 3
    assert (detection / "runs" / "kitchen" / "report.html").exists()
