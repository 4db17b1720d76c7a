"""Names of the classes of a detector: files written by PyTorch do not hold them."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath

from actloc_jax.data.annotations import read_class_names

THUMOS14 = (
    "BaseballPitch", "BasketballDunk", "Billiards", "CleanAndJerk", "CliffDiving", "CricketBowling", "CricketShot",
    "Diving", "FrisbeeCatch", "GolfSwing", "HammerThrow", "HighJump", "JavelinThrow", "LongJump", "PoleVault",
    "Shotput", "SoccerPenalty", "TennisSwing", "ThrowDiscus", "VolleyballSpiking",
)  # fmt: skip


def class_names_of(
    classes: int | None, given: epath.PathLike | None, source: epath.Path, notes: list[str]
) -> Sequence[str]:
    """Names by class index: those of the file `given`, else THUMOS14's where there are as many, else numbers.

    Args:
        classes: number of classes in the file; None if it does not tell.
        given: a file in a format of `read_class_names`.
        source: the file that is converted, for messages.
        notes: gets a line where names are assumed.

    Raises:
        ValueError: `given` names another number of classes, or nothing tells how many there are.
    """
    if given is not None:
        names = read_class_names(given)
        if classes not in (None, len(names)):
            raise ValueError(f"{given} names {len(names)} classes, {source} has {classes}")
        return names
    if classes is None:
        raise ValueError(f"{source} does not tell the number of classes: its class head is missing; give --class-names")
    if classes == len(THUMOS14):
        notes.append("class names are not in the file: 20 classes are taken for THUMOS14's; else give --class-names")
        return THUMOS14
    digits = max(2, len(str(classes - 1)))
    names = [f"class_{index:0{digits}d}" for index in range(classes)]
    listed = ", ".join(names[:2])
    notes.append(f"class names are not in the file: {listed}, ...; evaluation needs --class-names")
    return names
