"""The ASOT folder layout: which videos, which features, which labels, and what is said about bad data."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from actloc_jax.data.activities import TOGETHER, ActivityFolder, ActivitySource
from actloc_jax.data.activity_files import read_mapping

MAPPING = "2 stir\n-1 idle\n0 take\n2 mix\n5 pour\n"
LABELS = ["idle", "take", "mix", "stir", "pour"]
VIDEOS = ("P04_cam01_P04_tea", "P03_cam01_P03_tea", "P03_cam01_P03_milk")


def write_video(root: pathlib.Path, video: str, *, folder: str = "", rows: int = 10, ending: str = ".npy") -> None:
    """Ground truth of ten frames, and features whose first channel numbers the frames."""
    (root / "groundTruth").mkdir(parents=True, exist_ok=True)
    (root / "groundTruth" / video).write_text("".join(f"{name}\n" for name in LABELS for _ in range(2)))
    features = np.stack([np.arange(rows), np.full(rows, 0.123456789)], axis=1)
    directory = root / "features" / folder
    directory.mkdir(parents=True, exist_ok=True)
    if ending == ".npy":
        np.save(directory / f"{video}.npy", features.astype(np.float32))
    else:
        np.savetxt(directory / f"{video}.txt", features, fmt="%.17g")


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    """Breakfast-like: two activities."""
    folder = tmp_path / "breakfast"
    for video in VIDEOS:
        write_video(folder, video, folder=video.split("_")[-1])
    (folder / "mapping").mkdir()
    (folder / "mapping" / "mapping.txt").write_text(MAPPING)
    return folder


def errors(folder: ActivityFolder, activity: str = "tea", **options) -> str:
    """All errors, one per line."""
    return "\n".join(problem.message for problem in folder.problems(activity, **options) if problem.severity == "error")


def test_videos_are_sorted_and_chosen_by_the_last_part_of_their_name(root):
    for name in ("README", ".DS_Store_tea", "P05-cam_other"):
        (root / "groundTruth" / name).write_text("take\n")
    folder = ActivityFolder(root)
    assert folder.videos("tea") == ["P03_cam01_P03_tea", "P04_cam01_P04_tea"]
    assert folder.videos(["milk", "tea"]) == ["P03_cam01_P03_milk", "P03_cam01_P03_tea", "P04_cam01_P04_tea"]
    assert folder.videos() == folder.videos(TOGETHER) == [*folder.videos(["milk", "tea"]), "P05-cam_other"]


def test_youtube_names_hold_the_activity_before_the_last_part(root):
    for name in ("jump_car_0001", "jump_car_0002", "jump_car_0001_idt", "cpr_0001"):
        (root / "groundTruth" / name).write_text("take\n")
    folder = ActivityFolder(root, activity_of="prefix")
    assert folder.videos("jump_car") == ["jump_car_0001", "jump_car_0002"]
    assert folder.videos("cpr") == ["cpr_0001"]


def test_without_activities_every_video_is_taken(tmp_path):
    for video in ("rgb-01-1", "2020-04-19_14-03-25"):
        write_video(tmp_path, video)
    folder = ActivityFolder(tmp_path, activity_of="none")
    assert folder.videos() == folder.videos("salad") == ["2020-04-19_14-03-25", "rgb-01-1"]
    assert folder.features("rgb-01-1").shape == (10, 2)


def test_thinning_out_keeps_every_nth(root):
    folder = ActivityFolder(root)
    assert folder.videos(num_videos=1) == ["P03_cam01_P03_milk"]
    assert len(folder.videos(num_videos=2)) == 3  # floor(3 / 2) = 1: more than asked for, as published
    with pytest.raises(ValueError, match=r"num_videos=4, but .* has 3 videos"):
        folder.videos(num_videos=4)


def test_classes_are_the_ids_in_order_and_share_names(root):
    folder = ActivityFolder(root)
    assert folder.class_ids == (-1, 0, 2, 5)
    assert folder.class_names == ("idle", "take", "stir/mix", "pour")
    labels = folder.labels(VIDEOS[0])
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 3, 3]
    assert labels.dtype == np.int32


def test_frames_of_the_excluded_id_are_ignored(root):
    folder = ActivityFolder(root, exclude_id=-1)
    assert folder.class_names == ("take", "stir/mix", "pour")
    assert folder.labels(VIDEOS[0]).tolist() == [-1, -1, 0, 0, 1, 1, 1, 1, 2, 2]
    with pytest.raises(ValueError, match=r"excluded id 7 is not in .*mapping.txt \(ids -1 to 5\)"):
        _ = ActivityFolder(root, exclude_id=7).class_names


def test_another_mapping_file(root):
    (root / "mapping" / "mappingeval.txt").write_text("0 take\n0 idle\n1 mix\n1 stir\n1 pour\n")
    assert ActivityFolder(root, mapping="mapping/mappingeval.txt").class_names == ("take/idle", "mix/stir/pour")


def test_text_features_are_float64_and_numpy_is_preferred(root):
    video = VIDEOS[0]
    write_video(root, video, folder="tea", rows=12, ending=".txt")
    folder = ActivityFolder(root)
    assert folder.feature_path(video).name == f"{video}.npy"
    assert folder.features(video).dtype == np.float32
    folder.feature_path(video).unlink()
    assert folder.feature_path(video).name == f"{video}.txt"
    features = folder.features(video)
    assert features.dtype == np.float64
    assert features[3].tolist() == [3.0, 0.123456789]
    assert len(features) == 10  # the rows beyond the labels are cut


def test_features_may_lie_beside_the_activity_folders(root):
    write_video(root, "P09_tea")
    assert ActivityFolder(root).feature_path("P09_tea") == root / "features" / "P09_tea.npy"
    write_video(root, "P09_tea", folder="tea")
    assert ActivityFolder(root).feature_path("P09_tea") == root / "features" / "tea" / "P09_tea.npy"


def test_records_of_a_source(root):
    source = ActivityFolder(root, feature_dim=2).source("tea")
    assert isinstance(source, ActivitySource)
    assert source.videos == ("P03_cam01_P03_tea", "P04_cam01_P04_tea")
    assert len(source) == 2
    assert source.lengths == (10, 10)
    record = source.record(1, epoch=4)
    assert (record["video"], record["index"]) == ("P04_cam01_P04_tea", 1)
    np.testing.assert_array_equal(record["features"][:, 0], np.arange(10))
    np.testing.assert_array_equal(record["labels"], source.labels(1))
    assert [one["video"] for one in source] == list(source.videos)
    assert source.class_names == ("idle", "take", "stir/mix", "pour")


def test_good_data_has_no_problem_and_cut_rows_are_a_warning(root):
    assert ActivityFolder(root, feature_dim=2).problems() == []
    write_video(root, VIDEOS[0], folder="tea", rows=13)
    (problem,) = ActivityFolder(root).problems()
    assert problem.severity == "warning"
    assert "13 rows" in problem.message
    assert "10 labels" in problem.message


def test_a_missing_folder_says_what_to_put_there_and_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        ActivityFolder(tmp_path / "yti")
    message = str(error.value)
    for part in (str(tmp_path / "yti"), "groundTruth/<video>", "mapping/mapping.txt", "HOWTO_master", ":demo"):
        assert part in message
    assert "github.com/Annusha/unsup_temp_embed" in message
    assert "github.com/mingu6/action_seg_ot" in message


def test_an_unknown_activity_lists_the_known(root):
    with pytest.raises(ValueError, match=r"no video of activity 'coffee'.*give 'milk', 'tea'"):
        ActivityFolder(root).source("coffee")
    with pytest.raises(ValueError, match=r'activity_of=.*use "suffix"'):
        ActivityFolder(root, activity_of="middle")
    assert "no video of activity 'coffee'" in errors(ActivityFolder(root), "coffee")


def test_everything_wrong_is_found_at_once(root):
    spoilt = {f"P1{number}_tea": number for number in range(7)}
    for video in spoilt:
        write_video(root, video, folder="tea")
    features, truth = root / "features" / "tea", root / "groundTruth"
    (features / "P10_tea.npy").unlink()
    np.save(features / "P11_tea.npy", np.zeros([4, 2], np.float32))
    np.save(features / "P12_tea.npy", np.zeros([10, 3], np.float32))
    values = np.zeros([10, 2], np.float32)
    values[6, 1] = np.nan
    np.save(features / "P13_tea.npy", values)
    (truth / "P14_tea").write_text("take\nfly\n" + "take\n" * 8)
    (truth / "P15_tea").write_text("\n\n")
    (features / "P16_tea.npy").write_bytes(b"not an array")
    lines = errors(ActivityFolder(root, feature_dim=2)).splitlines()
    expected = (
        ("P10_tea.npy does not exist", "neither as .npy nor as .txt"),
        ("P11_tea.npy has 4 rows", "10 labels"),
        ("P12_tea.npy has 3 channels, expected 2",),
        ("P13_tea.npy", "1 NaN or infinite values", "frame 6"),
        ("P14_tea", "class 'fly' in 1 lines (2)", "mapping.txt"),
        ("P15_tea is empty",),
        ("P16_tea.npy is not a NumPy .npy file",),
    )
    assert len(lines) == len(expected)
    for line, parts in zip(lines, expected, strict=True):
        assert all(part in line for part in parts), (line, parts)


def test_reading_bad_data_is_the_same_error(root):
    video = VIDEOS[0]
    path = root / "features" / "tea" / f"{video}.npy"
    for array, message in (
        (np.zeros([4, 2]), "4 rows"),
        (np.zeros([10, 3]), "3 channels, expected 2"),
        (np.zeros([2, 10]), r"saved as \[channels, time\]"),
        (np.full([10, 2], np.inf), "NaN or infinite"),
        (np.zeros([10, 2, 2]), r"expected \[time, channels\]"),
    ):
        np.save(path, array)
        folder = ActivityFolder(root, feature_dim=2)
        with pytest.raises(ValueError, match=message):
            folder.features(video)
        assert len(folder.problems("tea")) >= 1
    (root / "groundTruth" / video).write_text("fly\n")
    with pytest.raises(ValueError, match="class 'fly'"):
        ActivityFolder(root).labels(video)


@pytest.mark.parametrize(
    ("text", "message"), [("1 2\n3\n", "not a matrix"), ("a b\n", "not a matrix"), ("", "is empty")]
)
def test_bad_text_features(root, text, message):
    folder = ActivityFolder(root)
    folder.feature_path(VIDEOS[0]).with_suffix(".txt").write_text(text)
    folder.feature_path(VIDEOS[0]).unlink()
    assert message in errors(folder)
    with pytest.raises(ValueError, match=message):
        folder.features(VIDEOS[0])


def test_mixed_widths_are_an_error_when_none_is_expected(root):
    np.save(root / "features" / "tea" / f"{VIDEOS[0]}.npy", np.zeros([10, 3], np.float32))
    assert "different widths: 2 (P03_cam01_P03_tea), 3 (P04_cam01_P04_tea)" in errors(ActivityFolder(root))
    assert "different widths" in errors(ActivityFolder(root), read_values=False)


def test_headers_alone_do_not_show_values(root):
    np.save(root / "features" / "tea" / f"{VIDEOS[0]}.npy", np.full([10, 2], np.nan, np.float32))
    assert not ActivityFolder(root).problems(read_values=False)
    assert not ActivityFolder(root).problems(need_features=False)
    assert "20 NaN" in errors(ActivityFolder(root))


def test_missing_parts_of_the_folder_are_all_named(root):
    (root / "features").rename(root / "feats")
    (root / "mapping").rename(root / "maps")
    found = errors(ActivityFolder(root))
    assert f"{root / 'features'} does not exist" in found
    assert f"{root / 'mapping' / 'mapping.txt'} does not exist" in found
    assert not errors(ActivityFolder(root, mapping="maps/mapping.txt"), need_features=False)
    (root / "groundTruth").rename(root / "truth")
    assert f"{root / 'groundTruth'} does not exist" in errors(ActivityFolder(root))


def test_a_bad_mapping_lists_its_lines(tmp_path):
    path = tmp_path / "mapping.txt"
    path.write_text("0 take\n1 pour milk\nx stir\n2 take\n")
    with pytest.raises(
        ValueError, match=r"line 2 is '1 pour milk'.*line 3 is 'x stir'.*line 4 lists class 'take' again"
    ):
        read_mapping(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="lists no classes"):
        read_mapping(path)
