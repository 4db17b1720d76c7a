"""What is shared behind the two result types of a system: files, metrics, figures, reports.

RESULTS maps a task to its module; each offers `score`, `write`, `read`, `timelines` (figures),
`video_timelines` (what readers get of each video) and `report`.
"""

from __future__ import annotations

from types import ModuleType

from actloc_jax.results import clusters, detection, segmentation

RESULTS: dict[str, ModuleType] = {
    "segmentation": segmentation,
    "unsupervised segmentation": clusters,
    "detection": detection,
}
