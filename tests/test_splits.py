"""Which splits a run is about, and their mean."""

from __future__ import annotations

import json

from etils import epath

from actloc_jax import splits
from configs import tst_gtea


def test_a_split_is_filled_in_everywhere():
    config = tst_gtea.get_config("split=3")
    assert splits.chosen(config) == ("3",)
    filled = splits.of_split(config, "3")
    assert filled.data.train_split == "train.split3"
    assert filled.data.test_split == "test.split3"
    assert filled.eval.selection_split == "test.split3"
    assert config.data.train_split == "train.split{split}"


def test_all_splits_run_in_folders_of_their_own_and_are_averaged(tmp_path):
    config = tst_gtea.get_config("split=all")
    assert splits.chosen(config) == ("1", "2", "3", "4")
    runs = []

    def run(config, workdir):
        runs.append((config.data.test_split, workdir.name))
        return {"TST": {"Acc": float(config.data.split)}}

    assert splits.each(config, epath.Path(tmp_path), run) == {"TST": {"Acc": 2.5}}
    assert runs == [(f"test.split{k}", f"split_{k}") for k in range(1, 5)]
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["mean"] == {"TST": {"Acc": 2.5}}
    assert written["splits"]["4"] == {"TST": {"Acc": 4.0}}
