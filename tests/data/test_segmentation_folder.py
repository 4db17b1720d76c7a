"""Reading an MS-TCN folder: layouts, numbering of classes, lengths, and what a user is told when it is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.data import feature_files
from actloc_jax.data.problems import find_problems, require_no_errors
from actloc_jax.data.segmentation import SegmentationFolder, read_mapping


def messages(folder: SegmentationFolder, subset: str = "train", **options) -> str:
    return "\n".join(map(str, find_problems(folder, subset, 1, **options)))


@pytest.mark.parametrize("layout", ["channels_first", "time_first"])
@pytest.mark.parametrize("feature_dim", [8, None])
def test_both_layouts_give_the_same_records(make_folder, tmp_path, layout, feature_dim):
    root = make_folder(layout=layout)
    folder = SegmentationFolder(root, feature_dim=feature_dim)
    source = folder.source("train", 1)
    assert folder.layout == layout
    assert layout in folder.describe_layout()
    assert source.videos == ("a", "b", "c")
    assert source.lengths == (40, 57, 33)
    record = source[1]
    stored = np.load(root / "features" / "b.npy")
    np.testing.assert_array_equal(record["features"], stored.T if layout == "channels_first" else stored)
    assert record["features"].shape == (57, 8)
    assert record["labels"].dtype == np.int32
    assert [folder.class_names[label] for label in record["labels"]] == folder.label_names("b")
    assert record["index"] == 1
    assert not find_problems(folder, "train", 1)


@pytest.mark.parametrize(
    ("layout", "axes"), [("channels_first", (0, 2, 1)), ("time_first", (1, 0, 2)), ("crops_first", (0, 1, 2))]
)
def test_spatial_crops_are_found_in_every_layout(make_folder, layout, axes):
    root = make_folder()
    crops = {
        video: np.random.default_rng(1).standard_normal([3, frames, 8]) for video, frames in (("a", 40), ("b", 57))
    }
    for path in (root / "features").iterdir():
        path.unlink()
    for video, array in crops.items():
        np.save(root / "features" / f"{video}.npy", array.transpose(axes))
    folder = SegmentationFolder(root)
    assert folder.layout == layout
    np.testing.assert_array_equal(folder.features("a"), crops["a"].astype(np.float32))


def test_ambiguous_axes_are_an_error_that_says_what_to_set(make_folder):
    root = make_folder()
    for path in (root / "features").iterdir():
        path.unlink()
    np.save(root / "features" / "a.npy", np.zeros([40, 40], np.float32))
    with pytest.raises(ValueError, match=r"which axis of the features is time.*a: axes \(40, 40\), 40 labels.*set the"):
        SegmentationFolder(root, feature_dim=40).layout  # noqa: B018
    assert SegmentationFolder(root, layout="time_first").layout == "time_first"


def test_class_index_by_written_id_or_by_line(tmp_path):
    path = tmp_path / "mapping.txt"
    path.write_text("2 cut\n0 pour\n1 stir\n")
    assert read_mapping(path) == ("pour", "stir", "cut")
    assert read_mapping(path, class_index="line_number") == ("cut", "pour", "stir")


def test_a_bad_mapping_is_reported_whole(tmp_path):
    path = tmp_path / "mapping.txt"
    path.write_text("0 cut\n1 pour milk\n2 cut\n")
    with pytest.raises(ValueError, match=r"line 2 is '1 pour milk'.*class 'cut' is listed 2 times"):
        read_mapping(path)
    path.write_text("1 cut\n2 pour\n")
    with pytest.raises(ValueError, match=r"the ids are \[1, 2\], expected every number from 0 to 1"):
        read_mapping(path)


def test_missing_data_folder_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        SegmentationFolder(tmp_path / "gtea")
    for part in (str(tmp_path / "gtea"), "groundTruth/<video>.txt", "zenodo.org/records/3625992", ":demo"):
        assert part in str(error.value)


def test_missing_split_names_those_that_exist(make_folder):
    folder = SegmentationFolder(make_folder())
    assert folder.splits() == [1]
    with pytest.raises(FileNotFoundError, match=r"train\.split3\.bundle does not exist.*test\.split1\.bundle"):
        folder.videos("train", 3)


def test_ground_truth_alone_is_enough_for_metrics(make_folder):
    root = make_folder()
    for path in (root / "features").iterdir():
        path.unlink()
    folder = SegmentationFolder(root)
    assert len(folder.truths("train", 1)["b"]) == 57
    assert not find_problems(folder, "train", 1, need_features=False)
    assert "has no .npy files" in messages(folder)


def test_all_problems_of_a_split_are_reported_together(make_folder):
    root = make_folder()
    bundle = root / "splits" / "train.split1.bundle"
    bundle.write_text("a.txt\nb.txt\nc.txt\nd.txt\na.txt\nlost.txt\n")
    labels = (root / "groundTruth" / "a.txt").read_text().splitlines()
    labels[4] = labels[9] = "chop"
    (root / "groundTruth" / "a.txt").write_text("\n".join(labels) + "\n")
    features = np.load(root / "features" / "b.npy")
    features[3, 7] = np.nan
    features[2, 9] = np.inf
    np.save(root / "features" / "b.npy", features)
    np.save(root / "features" / "c.npy", np.zeros([8, 66], np.float32))
    np.save(root / "features" / "d.npy", np.zeros([6, 48], np.float32))
    folder = SegmentationFolder(root, feature_dim=8)
    found = messages(folder)
    for expected in (
        "lists a 2 times",
        "videos are in both the train and the test bundle",
        "class 'chop' in 2 lines (5, 10)",
        "2 NaN or infinite values in 2 of 57 frames, first in frame 7",
        "c.npy has 66 frames (read as channels_first) but",
        "33 labels; features are 2.00 times as many",
        "d.npy has 6 channels (read as channels_first), expected 8",
        "lost.txt does not exist",
        "lost.npy does not exist",
    ):
        assert expected in found
    with pytest.raises(ValueError, match="7 problems with the data"):
        require_no_errors(find_problems(folder, "train", 1))
    assert "NaN" not in messages(folder, read_values=False)


def test_small_difference_of_length_is_cut_with_a_warning(make_folder):
    root = make_folder()
    path = root / "groundTruth" / "b.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    folder = SegmentationFolder(root)
    problems = find_problems(folder, "train", 1)
    assert [problem.severity for problem in problems] == ["warning"]
    assert "57 frames" in problems[0].message
    assert "56 labels" in problems[0].message
    require_no_errors(problems)
    source = folder.source("train", 1)
    assert source.lengths[1] == len(source[1]["features"]) == len(source[1]["labels"]) == 56
    assert len(source.truths()["b"]) == 56


def test_large_difference_of_length_is_refused_when_read(make_folder):
    root = make_folder()
    np.save(root / "features" / "b.npy", np.zeros([8, 28], np.float32))
    with pytest.raises(ValueError, match=r"28 frames.*57 labels; labels are 2\.04 times as many"):
        SegmentationFolder(root).source("train", 1)[1]


def test_unknown_class_nan_and_wrong_width_are_refused_when_read(make_folder):
    root = make_folder()
    source = SegmentationFolder(root, feature_dim=8).source("train", 1)
    (root / "groundTruth" / "a.txt").write_text("cut\nchop\n")
    with pytest.raises(ValueError, match=r"a\.txt, line 2: class 'chop' is not in .*mapping\.txt \(known: background,"):
        source.labels(0)
    np.save(root / "features" / "b.npy", np.full([8, 57], np.nan, np.float32))
    with pytest.raises(ValueError, match=r"b\.npy: 456 NaN or infinite values"):
        source[1]
    np.save(root / "features" / "c.npy", np.zeros([5, 33], np.float32))
    with pytest.raises(ValueError, match=r"c\.npy has 5 channels .* expected 8"):
        source[2]


def test_mixed_widths_without_an_expected_one(make_folder):
    root = make_folder()
    np.save(root / "features" / "c.npy", np.zeros([5, 33], np.float32))
    assert "different widths: 8 channels in most files, but 5 (c)" in messages(SegmentationFolder(root))


def test_empty_split(make_folder):
    root = make_folder()
    (root / "splits" / "train.split1.bundle").write_text("\n")
    folder = SegmentationFolder(root)
    assert "lists no videos" in messages(folder)
    with pytest.raises(ValueError, match=r"train\.split1\.bundle lists no videos"):
        folder.source("train", 1)


def test_files_that_are_no_arrays_are_named(make_folder):
    root = make_folder()
    (root / "features" / "a.npy").write_bytes(b"not an array")
    whole = (root / "features" / "b.npy").read_bytes()
    (root / "features" / "b.npy").write_bytes(whole[:-10])
    np.save(root / "features" / "c.npy", np.array([["x", "y"]]))
    found = messages(SegmentationFolder(root, layout="channels_first"))
    assert "a.npy is not a NumPy .npy file" in found
    assert "b.npy cannot be read" in found
    assert "truncated" in found
    assert "c.npy holds <U1 values" in found


def test_pickled_objects_are_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{}, {}]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds object values"):
        feature_files.read_shape(tmp_path / "a.npy")


def test_features_without_labels_are_read_by_their_width(tmp_path):
    array = np.random.default_rng(0).standard_normal([8, 20]).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(feature_files.read_video_features(tmp_path / "a.npy", feature_dim=8), array.T)
    np.testing.assert_array_equal(feature_files.read_video_features(tmp_path / "a.npy", feature_dim=20), array)
    with pytest.raises(ValueError, match="none of which is the 9 channels"):
        feature_files.read_video_features(tmp_path / "a.npy", feature_dim=9)
    np.save(tmp_path / "b.npy", np.zeros([8, 8], np.float32))
    with pytest.raises(ValueError, match="channels_first and time_first fit equally; set the layout"):
        feature_files.read_video_features(tmp_path / "b.npy", feature_dim=8)


def test_a_width_that_no_axis_has_is_named_with_the_one_expected():
    with pytest.raises(
        ValueError, match=r"no axis of the features is the 64 channels expected \(a: axes \(2048, 312\)"
    ):
        feature_files.detect_layout({"a": (2048, 312)}, {}, feature_dim=64)


def test_label_files_and_mappings_without_their_usual_names(make_folder):
    root = make_folder()
    (root / "groundTruth" / "a.txt").rename(root / "groundTruth" / "a")
    (root / "mapping").mkdir()
    (root / "mapping.txt").rename(root / "mapping" / "mapping.txt")
    folder = SegmentationFolder(root)
    assert len(folder.labels("a")) == 40
