"""Annotations that are kept in a file for each subset: THUMOS14's text files, or JSON beside or instead of them.

```
<folder>/val.json, test.json             ActivityNet's format, as TALLFormer's converter writes it; or
<folder>/val/<class>_val.txt, test/...   THUMOS14's text files, in a folder for each subset; or
<folder>/<class>_val.txt, <class>_test.txt
```
JSON is preferred where there are both: it also has durations. Ambiguous regions are never ground truth, in no subset;
TALLFormer's converter leaves them out of its test set, there alone, by skipping text files whose name begins with A.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from etils import epath

from actloc_jax.data.activitynet_json import parse_activitynet_json
from actloc_jax.data.annotations import Annotations, merge
from actloc_jax.data.problems import Problem
from actloc_jax.data.thumos14_text import read_thumos14_text


def read_annotation_folder(
    folder: epath.PathLike, subsets: Sequence[str], *, class_names: Sequence[str] | None = None
) -> tuple[Annotations, list[Problem]]:
    """Reads the annotations of some subsets.

    Args:
        folder: see the head of this file.
        subsets: "val", "test".
        class_names: the classes by index; otherwise as the files say, see their readers.

    Returns:
        The annotations of all of them, and what is wrong with JSON that cannot be read in parts.

    Raises:
        FileNotFoundError, ValueError: no such files, or others; subsets whose text files have other classes.
    """
    folder = epath.Path(folder)
    files = {subset: folder / f"{subset}.json" for subset in dict.fromkeys(subsets)}
    if not all(path.exists() for path in files.values()):
        folders = {subset: folder / subset if (folder / subset).is_dir() else folder for subset in files}
        parts = [read_thumos14_text(each, subset, class_names=class_names) for subset, each in folders.items()]
        return functools.reduce(merge, parts), []
    read = functools.partial(parse_activitynet_json, missing_duration="unknown")
    if class_names is None:  # a class may be missing from one of the files
        class_names = sorted({name for path in files.values() for name in read(path)[0].class_names})
    parsed = [read(path, class_names=class_names) for path in files.values()]
    problems = [problem for _, wrong in parsed for problem in wrong]
    return functools.reduce(merge, [annotations for annotations, _ in parsed]), problems
