"""The programs that prepare real input write folders that the reader accepts, from small generated input."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.data import problems
from actloc_jax.data.segmentation import SegmentationFolder
from actloc_jax.metrics.segmentation import segments
from benchmarks import breakfast_fv64, workout_sequences


@pytest.fixture
def clips(tmp_path):
    """An archive of three exercises; the first channel of a clip holds its number, the second its exercise's."""
    rng = np.random.default_rng(0)
    arrays = {}
    for number in range(30):
        rows = rng.standard_normal([(1, 2, 3, 15)[number % 4], 32]).astype(np.float16)
        rows[:, 0], rows[:, 1] = number, number % 3
        arrays[f"{('squat', 'leg raise', 'push-up')[number % 3]}_{number}"] = rows
    np.savez(tmp_path / "clips.npz", **arrays)
    return tmp_path / "clips.npz"


def write_workout(archive, out, **options) -> SegmentationFolder:
    workout_sequences.write(archive, out, **({"num_folds": 2, "clips_per_sequence": 4, "seed": 0} | options))
    return SegmentationFolder(out)


def test_sequences_have_whole_clips_and_no_clip_is_in_training_and_test(clips, tmp_path):
    folder = write_workout(clips, tmp_path / "out")
    assert folder.class_names == ("leg_raise", "push-up", "squat")
    assert folder.splits() == [1, 2]
    classes = np.array([2, 0, 1])  # index in the mapping of the exercises as the archive numbers them
    for split in folder.splits():
        seen = {}
        for subset in ("train", "test"):
            assert problems.find_problems(folder, subset, split) == []
            seen[subset] = set()
            for record in folder.source(subset, split):
                features, labels = record["features"], record["labels"]
                inside = features[1:, 0] == features[:-1, 0]  # the number of the clip changes only between two clips
                seen[subset] |= set(features[:-1, 0][inside].tolist())
                np.testing.assert_array_equal(labels[:-1][inside], classes[features[:-1, 1][inside].astype(int)])
                starts = segments(labels, background=()).starts
                lengths = np.diff(np.append(starts, len(labels)))
                assert np.all(lengths % 8 == 0)
                assert np.all(lengths >= 16)
        assert not seen["train"] & seen["test"]
        assert seen["train"] | seen["test"] == {number for number in range(30) if number % 4}


def test_rows_are_blended_across_the_joint():
    first, second = np.zeros([2, 1], np.float32), np.full([2, 1], 8, np.float32)
    features, names = workout_sequences.join([("a", first), ("b", second)])
    assert names == ["a"] * 16 + ["b"] * 16
    np.testing.assert_allclose(features[10:22, 0], [0, 0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8, 8])
    np.testing.assert_allclose(features[:10], 0)
    np.testing.assert_allclose(features[22:], 8)


def test_an_exercise_follows_itself_only_where_no_other_is_left():
    clip = np.zeros([2, 1], np.float32)
    clips = [("a", clip)] * 3 + [("b", clip)] * 3 + [("c", clip)] * 3
    for seed in range(5):
        names = [name for name, _ in workout_sequences.shuffle(clips, np.random.default_rng(seed))]
        assert sorted(names) == list("aaabbbccc")
        repeats = [n for n in range(8) if names[n] == names[n + 1]]
        assert all(set(names[n + 1 :]) == {names[n]} for n in repeats)


def test_sequences_repeat_with_their_seed(clips, tmp_path):
    first, again, other = (
        write_workout(clips, tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first.truths("train", 1) == again.truths("train", 1)
    assert first.truths("train", 1) != other.truths("train", 1)


def test_other_archives_and_used_folders_are_refused(clips, tmp_path):
    np.savez(tmp_path / "short.npz", squat_1=np.zeros([1, 4]))
    with pytest.raises(ValueError, match="no array <exercise>_<number> of at least 2 rows"):
        write_workout(tmp_path / "short.npz", tmp_path / "out")
    with pytest.raises(FileExistsError, match="is not empty; remove it or choose another --out"):
        write_workout(clips, tmp_path)


def test_breakfast_videos_are_held_out_in_turn_with_the_classes_that_occur(tmp_path):
    source = tmp_path / "features_fv64"
    (source / "groundTruth").mkdir(parents=True)
    (source / "mapping").mkdir()
    (source / "mapping" / "mapping.txt").write_text("0 SIL\n1 pour_tea\n2 pour_coffee\n3 take_cup\n")
    features = {}
    for number, video in enumerate("abc"):
        features[video] = np.random.default_rng(number).standard_normal([70 + number, 64]).astype(np.float32)
        np.save(source / f"{video}.npy", features[video])
        names = ["SIL"] * 20 + ["take_cup" if number else "pour_coffee"] * (50 + number)
        (source / "groundTruth" / video).write_text("\n".join(names))
    breakfast_fv64.write(source, tmp_path / "out")
    folder = SegmentationFolder(tmp_path / "out", feature_dim=64)
    assert folder.class_names == ("SIL", "pour_coffee", "take_cup")
    assert folder.layout == "time_first"
    assert [folder.videos("test", k) for k in folder.splits()] == [["a"], ["b"], ["c"]]
    assert folder.videos("train", 2) == ["a", "c"]
    record = folder.source("test", 3)[0]
    np.testing.assert_array_equal(record["features"], features["c"])
    np.testing.assert_array_equal(record["labels"], np.repeat([0, 2], [20, 52]))
    with pytest.raises(FileNotFoundError, match=r"has no \.npy files"):
        breakfast_fv64.write(_without_features(source), tmp_path / "other")


def _without_features(source):
    for path in source.glob("*.npy"):
        path.unlink()
    return source
