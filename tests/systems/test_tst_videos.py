"""The data set of a TST experiment: the same videos from a folder and from prepared records."""

from __future__ import annotations

import numpy as np
import pytest
from etils import epath

from actloc_jax.data import synthetic, tfds_builders
from actloc_jax.data.segmentation import SegmentationFolder
from actloc_jax.systems.tst.videos import open_dataset
from configs import tst_gtea


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> epath.Path:
    """The demo data set, with a second split that has a validation bundle."""
    root = synthetic.write_folder(epath.Path(tmp_path_factory.mktemp("data")) / "demo", synthetic.Settings())
    videos = SegmentationFolder(root).videos("train", 1)
    for subset, own in (("train", videos[:5]), ("val", videos[5:7]), ("test", videos[7:9])):
        (root / "splits" / f"{subset}.split2.bundle").write_text("".join(f"{video}.txt\n" for video in own))
    return root


@pytest.fixture(scope="module")
def prepared(root, tmp_path_factory) -> str:
    return str(tfds_builders.prepare(SegmentationFolder(root), tmp_path_factory.mktemp("prepared")))


def config_of(source: str, root: epath.Path, prepared: str, arg: str):
    config = tst_gtea.get_config(arg)
    config.data.update({"source": source, "num_classes": 8, "feature_dim": 64})
    config.data.update({"root": str(root)} if source == "folder" else {"root": "nowhere", "tfds_dir": prepared})
    return config


@pytest.mark.parametrize("arg", ["", "fixed"])
def test_folder_and_tfds_have_the_same_videos_in_every_split(root, prepared, arg, tmp_path):
    folder, tfds = (
        open_dataset(config_of(source, root, prepared, arg), epath.Path(tmp_path)) for source in ("folder", "tfds")
    )
    assert tfds.class_names == folder.class_names
    splits = ["train.split1", "test.split1", "train.split2", "test.split2", "val.split2"]
    if arg == "fixed":
        splits.append("val.split1")
        assert len(folder.source("val.split1")) > 0
        assert not set(folder.source("val.split1").videos) & set(folder.source("train.split1").videos)
    for split in splits:
        first, second = folder.source(split), tfds.source(split)
        assert tuple(second.videos) == tuple(first.videos)
        assert tuple(second.lengths) == tuple(first.lengths)
        np.testing.assert_array_equal(second.record(0)["features"], first.record(0)["features"])
        for video, labels in folder.truth(split).items():
            np.testing.assert_array_equal(tfds.truth(split)[video], labels)
        assert tfds.problems(split) == folder.problems(split) == []
    assert tfds.source("val.split2").videos == tuple(SegmentationFolder(root).videos("val", 2))


def test_prepared_data_that_do_not_fit_the_config_are_refused(root, prepared, tmp_path):
    config = config_of("tfds", root, prepared, "")
    with pytest.raises(ValueError, match=r"it has no train\.split3"):
        open_dataset(config, epath.Path(tmp_path)).source("train.split3")
    config.data.feature_dim = 32
    with pytest.raises(ValueError, match="64 channels, expected 32"):
        open_dataset(config, epath.Path(tmp_path)).source("train.split1")
    config.data.num_classes = 11
    with pytest.raises(ValueError, match=r"has 8 classes, but config\.data\.num_classes is 11"):
        open_dataset(config, epath.Path(tmp_path))
    config.data.tfds_dir = ""
    with pytest.raises(FileNotFoundError, match="holds no prepared data"):
        open_dataset(config, epath.Path(tmp_path))
