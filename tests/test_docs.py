"""README and docs name only what exists: the test command, configs, fields, files."""

from __future__ import annotations

import importlib
import pathlib
import re

import pytest

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


def test_the_readme_s_python_example_shows_what_it_is_there_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    nearest, asot = map(float, re.findall(r"[\d.]+", capsys.readouterr().out))
    assert asot > nearest + 0.2


def test_the_backbone_alone_gives_features_of_video(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tallformer.md").read_text(), re.DOTALL)
    exec(compile(example, "tallformer.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "(1, 32, 768)"
