"""The Python interface: every system by the same two calls, the documented example, and a light import."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

import actloc_jax
from actloc_jax import predict, splits, systems, workdirs
from actloc_jax.data.proposals import read_proposals
from actloc_jax.results.files import read_frame_labels
from actloc_jax.systems import api
from actloc_jax.training import checkpoints
from tests.data.video_writing import pictures, write_video
from tests.tiny import tiny_asot, tiny_config, tiny_fustal, tiny_spot, tiny_tallformer_training

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS: dict[str, Callable[[pathlib.Path], ConfigDict]] = {
    "tst": lambda root: tiny_config(stages=("diffact",)),
    "asot": lambda root: tiny_asot(),
    "fustal": lambda root: tiny_fustal("tridet_thumos"),
    "spot": lambda root: tiny_spot(),
    "tallformer": lambda root: tiny_tallformer_training(root / "demo_data"),
}


def write_untrained(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Leaves a workdir as a training of the last stage does, without the training; the demo's data are in it."""
    config, workdir = splits.of_split(config, splits.chosen(config)[0]), epath.Path(workdir)
    system = systems.of(config)
    dataset = system.dataset(config, workdir)
    stage = [stage for stage in system.stages(config, dataset, workdir) if isinstance(stage, api.TrainStage)][-1]
    meta = workdirs.model_meta(config, dataset, stage.name, 0)
    folder = workdir / "checkpoints" / stage.name / "best"
    checkpoints.save_model(folder, stage.model(stage.scratch(jax.random.key(0))), meta)


def inputs_of(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Files that the system reads, of the demo's data."""
    data = workdir / "demo_data"
    return sorted([*data.glob("features/**/*.npy"), *data.glob("videos/**/*.npy")])


@pytest.fixture(scope="module", params=CONFIGS)
def workdir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp(request.param)
    write_untrained(CONFIGS[request.param](folder), folder)
    return folder


def test_every_system_predicts_what_the_command_line_does(workdir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file = inputs_of(workdir)[0]
    model = actloc_jax.load(workdir)
    timeline = model.predict(file)
    assert isinstance(model, actloc_jax.Model)
    assert isinstance(timeline, actloc_jax.Timeline)
    assert timeline.video == file.stem
    assert timeline.segments
    assert all(0 <= s.start <= s.end <= timeline.duration + 1e-6 for s in timeline.segments)
    again = model.predict(np.load(file), name=file.stem)
    assert again.segments == timeline.segments, "an array is what the file holds"

    (answer,) = predict.predict(workdir, [str(file)], tmp_path / "out")
    assert answer.video == file.stem
    folder = tmp_path / "out" / "timelines"
    for suffix, text in {"csv": timeline.to_csv(), "srt": timeline.to_srt(), "vtt": timeline.to_vtt()}.items():
        assert (folder / f"{file.stem}.{suffix}").read_text(encoding="utf-8") == text
    assert (tmp_path / "out" / "segments.csv").read_text(encoding="utf-8") == timeline.to_csv()
    assert f"timelines/{file.stem}.html" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    page = (folder / f"{file.stem}.html").read_text(encoding="utf-8")
    assert len(page) < 1_000_000
    assert page.count('"stage":') == page.count(f'"stage":"{model.meta["stage"]}"') == 1
    saved = tmp_path / "out" / "predictions"
    if model.system.task == "detection":
        rows = read_proposals(saved / "detections.json", model.meta["class_names"]).videos[file.stem]
        assert len(rows) == len(timeline.segments)
    else:
        (labels,) = read_frame_labels(epath.Path(saved))
        assert 1 + np.count_nonzero(np.diff(labels.labels)) == len(timeline.segments)
    assert timeline.plot().axes
    assert json.loads(timeline.to_json())["results"][file.stem]


def test_a_folder_gives_a_timeline_for_each_video(tmp_path: pathlib.Path) -> None:
    write_untrained(tiny_config(stages=("diffact",)), tmp_path)
    model, folder = actloc_jax.load(tmp_path), tmp_path / "three"
    folder.mkdir()
    for file in inputs_of(tmp_path)[:3]:
        (folder / file.name).write_bytes(file.read_bytes())
    found = model.predict_all([folder])
    assert [timeline.video for timeline in found] == sorted(file.stem for file in folder.iterdir())
    with pytest.raises(ValueError, match=r"three holds 3 videos; expected one. Use predict_all"):
        model.predict(folder)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npy"):
        model.predict(tmp_path / "nowhere.npy")


def test_a_video_that_a_system_reads_is_played_by_its_page(tmp_path: pathlib.Path) -> None:
    write_untrained(tiny_tallformer_training(tmp_path / "demo_data"), tmp_path)
    video = tmp_path / "clip é.mp4"
    write_video(video, pictures(120, 20, 20), list(range(120)), rate=15)
    timeline = actloc_jax.load(tmp_path).predict(video)
    assert timeline.media == epath.Path(video)
    assert timeline.duration == pytest.approx(8.0, abs=0.1)
    predict.predict(tmp_path, [str(video)], tmp_path / "out")
    page = (tmp_path / "out" / "timelines" / "clip é.html").read_text(encoding="utf-8")
    assert '"video":"../../clip%20%C3%A9.mp4"' in page


def test_videos_beside_features_are_shown(tmp_path: pathlib.Path) -> None:
    write_untrained(tiny_config(stages=("diffact",)), tmp_path / "run")
    file = inputs_of(tmp_path / "run")[0]
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / f"{file.stem}.mp4", pictures(30), list(range(30)), rate=15)
    predict.predict(tmp_path / "run", [str(file)], tmp_path / "out", videos=[tmp_path / "videos"])
    page = (tmp_path / "out" / "timelines" / f"{file.stem}.html").read_text(encoding="utf-8")
    assert f'"video":"../../videos/{file.stem}.mp4"' in page
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; expected a video, or a folder of them"):
        predict.predict(tmp_path / "run", [str(file)], tmp_path / "out", videos=[tmp_path / "nowhere"])


def test_the_documented_example_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write_untrained(tiny_config(stages=("diffact",)), tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    exec(compile(example, "docs/python.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(re.fullmatch(r" *[\d.]+ s to +[\d.]+ s  \w+", line) for line in lines)
    written = {path.name: path.stat().st_size for path in (tmp_path / "runs" / "python").iterdir()}
    assert sorted(written) == [f"coffee.{suffix}" for suffix in ("csv", "html", "json", "png", "srt", "vtt")]
    assert all(written.values())


def test_names_are_there_without_loading_jax() -> None:
    code = (
        "import sys, actloc_jax; print(dir(actloc_jax)); assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ)
    )
    assert answer.returncode == 0, answer.stderr
    for name in actloc_jax.__all__:
        assert f"'{name}'" in answer.stdout
        assert getattr(actloc_jax, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        actloc_jax.lod  # noqa: B018


def test_loading_what_is_no_checkpoint_says_so(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no model checkpoint"):
        actloc_jax.load(tmp_path)
