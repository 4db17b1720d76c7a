"""The files of the ASOT layout: mapping and text features, and what the layout looks like (numpy only)."""

from __future__ import annotations

import warnings

import numpy as np
from etils import epath

PUBLISHED_AT = (
    'Features of Breakfast, YouTube Instructions and 50 Salads are linked from the page "HOWTO_master" of '
    "https://github.com/Annusha/unsup_temp_embed, those of Desktop Assembly from the README of "
    "https://github.com/mingu6/action_seg_ot."
)


def read_mapping(path: epath.PathLike) -> dict[str, int]:
    """Class name -> id from lines "<id> <class name>", in the order of the lines.

    Raises:
        FileNotFoundError: no such file.
        ValueError: all that is wrong with the file.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist; expected one "<id> <class name>" per line')
    mapping: dict[str, int] = {}
    problems = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or not parts[0].removeprefix("-").isdecimal():
            problems.append(f'line {number} is {line.strip()!r}, expected "<id> <class name>" without further blanks')
        elif parts[1] in mapping:
            problems.append(f"line {number} lists class {parts[1]!r} again")
        else:
            mapping[parts[1]] = int(parts[0])
    if not mapping and not problems:
        problems.append("it lists no classes")
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}")
    return mapping


def read_text_matrix(path: epath.PathLike) -> np.ndarray:
    """Numbers separated by blanks, one row per line: [rows, columns] float64.

    Raises:
        ValueError: not such a file.
    """
    path = epath.Path(path)
    lines = path.read_text().splitlines()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty file: reported below
            matrix = np.loadtxt(lines, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} is not a matrix of numbers ({error}); expected one row per frame") from error
    if matrix.size == 0:
        raise ValueError(f"{path} is empty; expected one row of numbers per frame")
    return matrix


def expected_tree(root: epath.PathLike) -> str:
    """The layout that a data folder must have, as text for messages."""
    return (
        "Expected this layout:\n"
        f"  {root}/\n"
        "    features/<activity>/<video>.npy    [time, channels], or <video>.txt; or without <activity>/\n"
        "    groundTruth/<video>                one class name per line and frame\n"
        '    mapping/mapping.txt                "<id> <class name>" per line'
    )
