"""Scores of whole videos: every published form is read alike, others are explained."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np
import pytest

from actloc_jax.data.video_scores import read_class_scores

CLASSES = ("wave", "clap", "jump")
FORMS: dict[str, Any] = {
    "cuhk": {"results": {"x": [0.7, 0.1, 0.2]}, "class": ["jump", "wave", "clap"]},
    "activitynet": {
        "version": "",
        "results": {"v_x": [{"label": "jump", "score": 0.7}, {"label": "wave", "score": 0.1}]},
    },
    "best": {"v_x": {"class": "jump", "score": 0.7}},
    "plain": {"x": [0.1, 0.2, 0.7]},
}
EXPECTED = {"cuhk": [0.1, 0.2, 0.7], "activitynet": [0.1, 0, 0.7], "best": [0, 0, 0.7], "plain": [0.1, 0.2, 0.7]}
DATA = pathlib.Path(os.environ.get("ACTLOC_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data"))


def write(path: pathlib.Path, content: Any) -> pathlib.Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_are_read_with_and_without_prefix(form: str, tmp_path: pathlib.Path) -> None:
    scores = read_class_scores(write(tmp_path / "a.json", FORMS[form]), CLASSES)
    for name in ("x", "v_x"):
        np.testing.assert_array_equal(scores[name], EXPECTED[form])
    assert (len(scores), scores.missing(["x", "v_x"])) == (1, "")
    said = scores.missing(["x", "y", "z"])
    assert "a.json has scores of 1 videos, but not of 2 of the 3 that are predicted, e.g. y, z" in said
    assert "--config.decode.classifier=own" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "holds no videos"),
        ({"results": {}}, "holds no videos"),
        ({"results": {"x": [0.1]}, "class": ["fly"]}, "1 classes that are not among the 3 of the data set, e.g. 'fly'"),
        ({"x": [0.1, 0.2]}, "1 videos, e.g. x: it has 2 scores for 3 classes"),
        ({"x": [0.1, 0.2, "a"]}, "x: a score is no number"),
        ({"x": 3}, "x: int is no list of scores"),
        ({"results": {"x": [{"label": "fly", "score": 1}]}}, "x: label 'fly' is not among the 3 classes"),
        ({"x": {"class": "fly", "score": 1}}, "class 'fly' of x is not among the 3"),
    ],
)
def test_other_content_is_explained(content: Any, said: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"a.json") as raised:
        read_class_scores(write(tmp_path / "a.json", content), CLASSES)
    assert said in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere.json does not exist"):
        read_class_scores(tmp_path / "nowhere.json", CLASSES)


@pytest.mark.skipif(not (DATA / "hacs").is_dir(), reason="the real scores are not here")
def test_real_scores_of_hacs_are_read() -> None:
    names = (DATA / "thumos14" / "class_names" / "hacs_class_name.txt").read_text().splitlines()
    scores = read_class_scores(DATA / "hacs" / "hacs_val_video_cls_top3.json.gz", [name for name in names if name])
    assert len(scores) == 5970
    row = scores["Fv0MeIzhe5A"]
    assert names[int(row.argmax())] == "Playing bagpipes"
    assert np.count_nonzero(row) == 3
