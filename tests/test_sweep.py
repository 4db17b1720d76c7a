"""One command over several values of a config field."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import splits, sweep
from configs import asot_50salads, asot_breakfast


def _recorded(fields: tuple[str, ...]) -> tuple[list[tuple], Any]:
    """A run that notes fields of its config, and scores the first of them."""
    seen: list[tuple] = []

    def run(config: ConfigDict, workdir: epath.Path) -> dict[str, dict[str, float]]:
        filled = splits.of_split(config, config.data.split)
        groups = [field.split(".") for field in fields]
        seen.append((workdir.name, *(filled[group][name] for group, name in groups)))
        return {"ASOT": {"MoF": 50.0 + len(seen)}, "nearest cluster": {"MoF": 1.0}}

    return seen, run


def test_every_value_runs_in_a_folder_of_its_own(tmp_path: pathlib.Path) -> None:
    config = asot_50salads.get_config()
    seen, run = _recorded(("transport.radius", "decode.radius", "transport.rho", "decode.rho"))
    scores = sweep.each(config, epath.Path(tmp_path), "transport.radius=0.02,0.1", run)
    assert seen == [
        ("transport.radius=0.02", 0.02, 0.02, 0.15, 0.15),
        ("transport.radius=0.1", 0.1, 0.1, 0.15, 0.15),
    ], "the segmentation's radius follows the training's"
    assert (config.transport.radius, config.decode.radius) == (0.04, 0.04), "left as it is"
    expected = {
        "0.02": {"ASOT": {"MoF": 51.0}, "nearest cluster": {"MoF": 1.0}},
        "0.1": {"ASOT": {"MoF": 52.0}, "nearest cluster": {"MoF": 1.0}},
    }
    assert scores == expected
    assert json.loads((tmp_path / "sweep.json").read_text()) == {"field": "transport.radius", "scores": expected}
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_runs_without_scores_leave_no_table(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    config = asot_50salads.get_config()
    assert sweep.each(config, epath.Path(tmp_path), "asot.epochs=3", lambda config, workdir: {}) == {"3": {}}
    assert "there is nothing to compare" in caplog.text
    assert not (tmp_path / "sweep.png").exists()


def test_a_field_that_follows_another_can_be_swept_alone(tmp_path: pathlib.Path) -> None:
    seen, run = _recorded(("transport.radius", "decode.radius"))
    sweep.each(asot_50salads.get_config(), epath.Path(tmp_path), "decode.radius=0.02", run)
    assert seen == [("decode.radius=0.02", 0.04, 0.02)]


@pytest.mark.parametrize(
    ("field", "text", "values"),
    [
        ("asot.epochs", "3,5", [3, 5]),
        ("transport.rho", "0,1,1e-2", [0.0, 1.0, 0.01]),
        ("network.learn_clusters", "True,false", [True, False]),
        ("transport.mode", "pmd,prox", ["pmd", "prox"]),
        ("eval.select", "MoF,F1 video", ["MoF", "F1 video"]),
        ("clusters.videos", "12", [12]),
    ],
)
def test_values_have_the_type_of_the_field(tmp_path: pathlib.Path, field: str, text: str, values: list[Any]) -> None:
    seen, run = _recorded((field,))
    sweep.each(asot_50salads.get_config(), epath.Path(tmp_path), f"{field}={text}", run)
    assert [value for _, value in seen] == values
    assert [type(value) for _, value in seen] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("transport.radios=0.1", r"the config has no field 'transport.radios'; write <field>=<value>"),
        ("transport.radius.x=0.1", r"no field 'transport.radius.x'"),
        ("transport=0.1", r"write one field and its values, such as transport.radius=0.02,0.04"),
        ("transport.radius", r"write one field and its values"),
        ("transport.radius=wide", r"'wide' is no value for transport.radius, which is 0.04 now"),
        ("transport.radius=0.1,", r"'' is no value for transport.radius"),
        ("asot.epochs=2.5", r"'2.5' is no value for asot.epochs, which is 30 now"),
        ("asot.epochs=true", r"'true' is no value for asot.epochs"),
        ("network.learn_clusters=1", r"'1' is no value for network.learn_clusters, which is True now"),
    ],
)
def test_what_is_no_field_or_no_value_is_refused_before_the_first_run(
    tmp_path: pathlib.Path, text: str, said: str
) -> None:
    seen, run = _recorded(())
    with pytest.raises(ValueError, match=said):
        sweep.each(asot_50salads.get_config(), epath.Path(tmp_path), text, run)
    assert not seen


def test_sweeps_over_all_activities(tmp_path: pathlib.Path) -> None:
    config = asot_breakfast.get_config()
    runs = []

    def run(config: ConfigDict, workdir: epath.Path) -> dict[str, dict[str, float]]:
        workdir.mkdir(parents=True)
        runs.append((config.data.split, config.decode.rho, workdir))
        return {"ASOT": {"MoF": config.decode.rho}}

    scores = sweep.each(config, epath.Path(tmp_path), "transport.rho=0.1,0.3", lambda c, w: splits.each(c, w, run))
    assert scores == {"0.1": {"ASOT": {"MoF": pytest.approx(0.1)}}, "0.3": {"ASOT": {"MoF": pytest.approx(0.3)}}}
    assert len(runs) == 20
    assert runs[11] == ("coffee", 0.3, epath.Path(tmp_path) / "transport.rho=0.3" / "split_coffee")
