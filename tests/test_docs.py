"""README and docs name only what exists: the test command, configs, fields, files."""

from __future__ import annotations

import functools
import importlib
import pathlib
import re
from collections.abc import Iterator

import pytest
from ml_collections import ConfigDict

from actloc_jax import modes

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_ci_runs_the_readme_s_test_command_word_for_word() -> None:
    (command,) = re.findall(r"^python3 -m venv .*pytest.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: pathlib.Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_configs_arguments_and_fields_that_exist(page: pathlib.Path) -> None:
    for line in page.read_text().splitlines():
        match = re.search(r"--config=configs/(\w+)\.py(?::([\w=,+]+))?", line)
        if match is None:
            continue
        config = importlib.import_module(f"configs.{match[1]}").get_config(match[2])
        for field in re.findall(r"--config\.([\w.]+)=", line):
            node = config
            for part in field.split("."):
                assert part in node, f"{page.name}: {field}"
                node = node[part]


@functools.cache
def _fields() -> set[str]:
    """Fields and groups of all configs, with dots."""

    def within(group: ConfigDict, prefix: str) -> Iterator[str]:
        for name in group:
            yield prefix + name
            if isinstance(group[name], ConfigDict):
                yield from within(group[name], f"{prefix}{name}.")

    configs = [importlib.import_module(f"configs.{path.stem}") for path in ROOT.glob("configs/[!c]*.py")]
    return {field for config in configs for field in within(config.get_config(), "")}


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name not in ("architecture.md", "convert.md")],  # name functions and parameters
    ids=lambda page: page.name,
)
def test_fields_that_are_named_alone_exist_in_a_config(page: pathlib.Path) -> None:
    groups = {field.split(".")[0] for field in _fields()}
    named = re.findall(r"`(?:config\.)?([a-z_]+(?:\.[a-z_]+)+)(?:=[^`]*)?`", page.read_text())
    unknown = [field for field in named if field.split(".")[0] in groups and field not in _fields()]
    files = {field for field in unknown if field.endswith((".py", ".json"))}
    modules = {field for field in unknown if (ROOT / "actloc_jax" / f"{field.replace('.', '/')}.py").exists()}
    assert sorted(set(unknown) - files - modules) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_use_modes_and_flags_that_exist_and_go_together(page: pathlib.Path) -> None:
    for command in re.findall(r"python -m actloc_jax\.main ([^\n`|]*)", page.read_text()):
        given = dict(re.findall(r"--(\w+)(?:=(\S+))?", re.sub(r"--config\.\S+", "", command)))
        mode = given.get("mode", "train")
        if "<" in mode:
            continue
        assert mode in modes.MODES, command
        modes.refuse_others(mode, given)
        known = {flag for other in modes.MODES.values() for flag in other.flags} | {*modes.EVERYWHERE, "help"}
        assert given.keys() <= known, command


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_every_page_can_be_reached_from_the_readme(page: pathlib.Path) -> None:
    assert f"docs/{page.name}" in (ROOT / "README.md").read_text()


def test_the_readme_s_python_example_shows_what_it_is_there_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    nearest, asot = map(float, re.findall(r"[\d.]+", capsys.readouterr().out))
    assert asot > nearest + 0.2


@pytest.mark.slow
def test_the_backbone_alone_gives_features_of_video(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tallformer.md").read_text(), re.DOTALL)
    exec(compile(example, "tallformer.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "(1, 32, 768)"
