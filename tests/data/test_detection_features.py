"""Features from every format and place, with sizes read from headers, and clear errors."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from actloc_jax.data.detection_features import FeatureFiles

FEATURES = np.random.default_rng(0).standard_normal([11, 6]).astype(np.float32)


def save(root, name, array=FEATURES):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, feats=array)
    elif path.suffix == ".csv":
        header = ",".join(f"f{column}" for column in range(array.shape[1]))
        np.savetxt(path, array, delimiter=",", header=header, comments="", fmt="%.9g")
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "a") as file:
            file["tsp/v"] = array
            file["v"] = array


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("features/v.npy", "features/{video}.npy"),
        ("i3d/pre_v_post.npz", "i3d/pre_{video}_post.npz"),
        ("i3d/v.npz", "i3d/{video}.npz:feats"),
        ("csv/v.csv", "csv/{video}.csv"),
        ("train/v.npy", "{subset}/{video}.npy"),
        ("all.h5", "all.h5:{video}"),
        ("all.hdf5", "all.hdf5:tsp/{video}"),
    ],
)
def test_formats(tmp_path, name, pattern):
    save(tmp_path, name)
    files = FeatureFiles(tmp_path, pattern, feature_dim=6)
    assert files.missing("v", "train") == []
    assert files.shape("v", "train") == (11, 6)
    read = files.read("v", "train")
    np.testing.assert_array_equal(read, FEATURES)
    assert read.dtype == np.float32
    assert len(files.missing("w", "train")) == 1
    with pytest.raises(FileNotFoundError):
        files.shape("w", "train")
    with pytest.raises(FileNotFoundError):
        files.read("w", "train")


def test_only_headers_are_read_for_sizes(tmp_path):
    for name in ("v.npy", "v.npz"):
        save(tmp_path, name, np.tile(FEATURES, [2000, 1]))
        damaged = bytearray((tmp_path / name).read_bytes())
        damaged[300_000:300_060] = b"\xff" * 60  # inside the values: NaN, and a wrong checksum
        (tmp_path / name).write_bytes(damaged)
        files = FeatureFiles(tmp_path, "{video}." + name[-3:])
        assert files.shape("v") == (22_000, 6), name
        with pytest.raises(ValueError, match=re.escape(name)):
            files.read("v")


def test_csv_header_of_column_numbers_is_no_row(tmp_path):
    header = ",".join(map(str, range(FEATURES.shape[1])))
    np.savetxt(tmp_path / "v.csv", FEATURES, delimiter=",", fmt="%.9g", header=header, comments="")
    files = FeatureFiles(tmp_path, "{video}.csv")
    assert files.shape("v") == FEATURES.shape
    np.testing.assert_array_equal(files.read("v"), FEATURES)


def test_csv_without_header_keeps_its_first_row(tmp_path):
    np.savetxt(tmp_path / "v.csv", FEATURES, delimiter=",", fmt="%.9g")
    files = FeatureFiles(tmp_path, "{video}.csv")
    assert files.shape("v") == (11, 6)
    np.testing.assert_array_equal(files.read("v"), FEATURES)


def test_streams_are_joined_rgb_first_and_cut_to_the_shorter(tmp_path):
    flow = FEATURES[:10, :4] + 5
    save(tmp_path, "train/rgb/v.npy")
    save(tmp_path, "train/flow/v.npy", flow)
    files = FeatureFiles(tmp_path, "{subset}/{stream}/{video}.npy", ("rgb", "flow"), feature_dim=10)
    assert files.shape("v", "train") == (10, 10)
    np.testing.assert_array_equal(files.read("v", "train"), np.concatenate([FEATURES[:10], flow], axis=1))
    save(tmp_path, "train/flow/v.npy", flow[:9])
    for call in (files.shape, files.read):
        with pytest.raises(ValueError, match=r"streams of a video differ by more than 1 row .*11 rows.*9 rows"):
            call("v", "train")
    (tmp_path / "train/flow/v.npy").unlink()
    (missing,) = files.missing("v", "train")
    assert missing.endswith("train/flow/v.npy")


def test_downsampling_keeps_every_nth_row_from_the_first(tmp_path):
    save(tmp_path, "v.npy")
    files = FeatureFiles(tmp_path, "{video}.npy", downsample=4)
    assert files.shape("v") == (3, 6)
    np.testing.assert_array_equal(files.read("v"), FEATURES[::4])


def test_channels_first(tmp_path):
    save(tmp_path, "v.npy", FEATURES.T)
    files = FeatureFiles(tmp_path, "{video}.npy", layout="channels_first", feature_dim=6)
    assert files.shape("v") == (11, 6)
    np.testing.assert_array_equal(files.read("v"), FEATURES)


def test_bad_files(tmp_path):
    files = FeatureFiles(tmp_path, "{video}.npy", feature_dim=8)
    save(tmp_path, "v.npy")
    for call in (files.shape, files.read):
        with pytest.raises(ValueError, match=r"6 channels .*expected 8"):
            call("v")
    spoilt = np.tile(FEATURES, 2)[:, :8].copy()
    spoilt[3, 1] = np.nan
    save(tmp_path, "v.npy", spoilt)
    with pytest.raises(ValueError, match="1 NaN or infinite values in 1 of 11 frames, first in frame 3"):
        files.read("v")
    assert np.isnan(files.read_unchecked("v")).sum() == 1
    save(tmp_path, "v.npy", np.zeros([0, 8], np.float32))
    with pytest.raises(ValueError, match="has no rows"):
        files.read("v")
    save(tmp_path, "v.npy", np.zeros([3, 4, 8], np.float32))
    with pytest.raises(ValueError, match="expected two"):
        files.shape("v")
    (tmp_path / "v.csv").write_text("a,b\n1,x\n")
    with pytest.raises(ValueError, match="not a table of numbers"):
        FeatureFiles(tmp_path, "{video}.csv").read("v")
    (tmp_path / "v.npz").write_bytes(b"PK nonsense")
    for call in (FeatureFiles(tmp_path, "{video}.npz").shape, FeatureFiles(tmp_path, "{video}.npz").read):
        with pytest.raises(ValueError, match=r"v\.npz"):
            call("v")
    np.savez(tmp_path / "v.npz", a=FEATURES, b=FEATURES)
    with pytest.raises(ValueError, match="holds 2 arrays"):
        FeatureFiles(tmp_path, "{video}.npz").read("v")


def test_bad_patterns(tmp_path):
    for pattern, streams in (
        ("features/{video}.pkl", ()),
        ("features/all.npy", ()),
        ("{stream}/{video}.npy", ()),
        ("{video}.npy", ("rgb",)),
        ("{split}/{video}.npy", ()),
    ):
        with pytest.raises(ValueError, match="feature pattern"):
            FeatureFiles(tmp_path, pattern, streams)


def test_h5_without_h5py_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "all.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match="pip install h5py"):
        FeatureFiles(tmp_path, "all.h5:{video}").read("v")
