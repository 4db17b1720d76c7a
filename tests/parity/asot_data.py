"""Parity of ASOT's dataset reader, frame sampling and metrics with the original."""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np
import pytest

from actloc_jax.data.activities import TOGETHER, ActivityFolder, ActivitySource
from actloc_jax.data.frame_sampling import SampledFrames, WholeVideo, sample_frames
from actloc_jax.metrics import clustering
from tests.parity.harness import Case, parity


@parity("asot", "dataset_reader")
def check_dataset_reader(case: Case) -> None:
    """File filter and order, labels, frame sampling and standardisation, from text features on disk."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        _write_folder(case, root)
        for number, setting in enumerate(case.config["settings"]):
            _check_setting(case, ActivityFolder(root), number, setting)


def _write_folder(case: Case, root: pathlib.Path) -> None:
    """The case's videos as the original finds them: features as text, in the folder of their activity."""
    names = case.config["mapping"]
    (root / "mapping").mkdir()
    (root / "mapping" / "mapping.txt").write_text("".join(f"{index} {name}\n" for index, name in enumerate(names)))
    (root / "groundTruth").mkdir()
    for video, frames in case.config["videos"]:
        labels = case.arrays[f"gt_{video}"]
        assert len(labels) == frames
        (root / "groundTruth" / video).write_text("".join(f"{names[label]}\n" for label in labels))
        activity = root / "features" / video.split("_")[-1]
        activity.mkdir(parents=True, exist_ok=True)
        np.savetxt(activity / f"{video}.txt", case.arrays[f"raw_{video}"], fmt="%.17g")


def _check_setting(case: Case, folder: ActivityFolder, number: int, setting: dict) -> None:
    """One setting of the original's dataset: its files in order, and every item."""
    activity = TOGETHER if setting["action_class"] == ["all"] else setting["action_class"]
    videos = folder.videos(activity, num_videos=setting["n_videos"])
    assert videos == [item["file"] for item in setting["items"]]
    frames, standardise = setting["n_frames"], setting["standardise"]
    transform = WholeVideo(standardise) if frames is None else SampledFrames(frames, setting["random"], standardise)
    rng, again = (np.random.RandomState(_seed(setting)) for _ in range(2))
    for position, record in enumerate(ActivitySource(folder, videos)):
        sample = transform(record, rng)
        mask = case.arrays[f"mask_{number}_{position}"]
        labels = case.arrays[f"lab_{number}_{position}"]
        np.testing.assert_allclose(
            sample["features"], case.arrays[f"feat_{number}_{position}"], rtol=0, atol=case.meta["tolerance"]["atol"]
        )
        np.testing.assert_array_equal(sample["labels"][mask], labels[mask])
        assert (sample["labels"][~mask] == -1).all()
        assert len(np.unique(sample["labels"][mask])) == setting["items"][position]["n_unique"]
        if frames is None:
            assert mask.all()
            continue
        np.testing.assert_array_equal(sample["mask"], mask)
        indices, _ = sample_frames(len(record["labels"]), frames, again if setting["random"] else None)
        np.testing.assert_array_equal(record["labels"][indices], labels)  # the original labels the repeats, too


def _seed(setting: dict) -> int:
    """The seed in the words of the case: "np.random.seed(5) once, ..."; 0 where nothing is drawn."""
    return int(setting["rng"].split("seed(")[1].split(")")[0]) if setting["rng"] else 0


@parity("asot", "metrics")
def check_metrics(case: Case) -> None:
    """Matching, MoF, mIoU and F1, with one's own and with a given matching; what fails there is an error here."""
    for number, expected in enumerate(case.config["cases"]):
        predicted, true = case.arrays[f"pred_{number}"], case.arrays[f"gt_{number}"]
        if expected["exclude_cls"] is not None:
            kept = true != expected["exclude_cls"]
            predicted, true = predicted[kept], true[kept]
        given = expected["pred_to_gt_given"]
        matching = _integer_keys(given) if given else clustering.match_clusters(predicted, true)
        if isinstance(expected["mof"], str):
            assert expected["mof"].startswith("raises")
            for metric in (clustering.mof, clustering.miou):
                with pytest.raises(ValueError, match="at least one"):
                    metric(predicted, true, matching)
            with pytest.raises(ValueError, match="at least one"):
                clustering.f1_sampled(predicted, true, matching, rng=np.random.RandomState(0))
            continue
        assert matching == _integer_keys(expected["pred_to_gt"]), expected["name"]
        found = {
            "mof": clustering.mof(predicted, true, matching),
            "miou": clustering.miou(predicted, true, matching),
            "miou_with_mof_matching": clustering.miou(predicted, true, matching),
            "f1": _f1(predicted, true, matching, 7, expected["n_videos"]),
            "f1_seed11_with_mof_matching": _f1(predicted, true, matching, 11, expected["n_videos"]),
        }
        for name, value in found.items():
            np.testing.assert_allclose(
                value, expected[name], rtol=0, atol=case.meta["tolerance"]["atol"], err_msg=f"{expected['name']} {name}"
            )


def _f1(predicted: np.ndarray, true: np.ndarray, matching: dict[int, int], seed: int, videos: int) -> float:
    return clustering.f1_sampled(predicted, true, matching, rng=np.random.RandomState(seed), videos=videos)


def _integer_keys(matching: dict[str, int]) -> dict[int, int]:
    """JSON has only text keys."""
    return {int(cluster): label for cluster, label in matching.items()}
