"""The options of a config: its arguments, and every field with its value, type and what the file says of it.

What a field means is written once, as the comment beside it in the config file or in the function that the file calls;
it is read from there.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import pathlib
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

Path = tuple[str, ...]
PUBLISHED = "paper"  # the group of published results, which are no options


def describe(config: ConfigDict, file: str) -> str:
    """The options as text, a line per field, under a line per group.

    Args:
        config: the experiment, with its arguments applied.
        file: the config file, whose comments are read.
    """
    source = _Source(pathlib.Path(file))
    comments = source.comments()
    rows = [(path, value) for path, value in _fields(config, ()) if path[0] != PUBLISHED]
    width = max(len(".".join(path)) for path, _ in rows)
    lines, group = [f"{config.name} ({file})", "", source.arguments()], None
    for path, value in rows:
        if path[:-1] != group:
            about = comments.get(path[:-1])
            lines += ["", f"  # {about}"] if about else [""] if len(path) < 3 else []
        group = path[:-1]
        comment = comments.get(path, "")
        lines.append(f"  {'.'.join(path):<{width}}  {_type(value):<6} {value!r}" + f"  # {comment}" * bool(comment))
    lines += ["", "Set any of them: --config.<field>=<value>, for example --config.train.seed=1."]
    return "\n".join(lines)


def _fields(config: Mapping[str, Any], prefix: Path) -> Iterator[tuple[Path, Any]]:
    """Fields with their values: single ones first, then the groups."""
    for name in config:
        if not isinstance(config[name], ConfigDict):
            yield (*prefix, name), config[name]
    for name in config:
        if isinstance(config[name], ConfigDict):
            yield from _fields(config[name], (*prefix, name))


def _type(value: Any) -> str:
    return "any" if value is None else type(value).__name__


class _Source:
    """A config file and those that it imports, as syntax trees with the comments of their lines."""

    def __init__(self, path: pathlib.Path) -> None:
        text = path.read_text()
        tree = ast.parse(text)
        self._functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self._beside, self._above = _line_comments(text)
        lines = ["", *text.splitlines()]
        self._indents = {line: len(lines[line]) - len(lines[line].lstrip()) for line in self._above}
        self._imported = {
            alias.asname or alias.name: _Source(pathlib.Path(spec.origin))
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module == "configs"
            for alias in node.names
            if (spec := importlib.util.find_spec(f"configs.{alias.name}")) and spec.origin
        }

    def arguments(self) -> str:
        """What `get_config` says of its arguments."""
        return ast.get_docstring(self._functions["get_config"]) or "No arguments."

    def comments(self) -> dict[Path, str]:
        """Comments by field; where a field is written in several places, the first one that has a comment counts."""
        found: dict[Path, str] = {}
        self._function("get_config", (), found, set())
        return found

    def _function(self, name: str, prefix: Path, found: dict[Path, str], seen: set[tuple[str, Path]]) -> None:
        """Adds the comments on what a function writes into the group `prefix`."""
        if name not in self._functions or (name, prefix) in seen:
            return
        seen.add((name, prefix))
        for statement in self._functions[name].body:
            self._visit(statement, prefix, found, seen)

    def _visit(self, node: ast.AST, prefix: Path, found: dict[Path, str], seen: set[tuple[str, Path]]) -> None:
        """Adds the comments on fields that a statement or expression writes: assignments, keys, keywords, calls."""
        if isinstance(node, ast.Assign):
            chain = _attributes(node.targets[0])
            self._note(node.targets[0], (*prefix, *chain), found)
            self._visit(node.value, (*prefix, *chain), found, seen)
        elif isinstance(node, ast.Dict):
            last_of_line = {value.end_lineno: key for key, value in zip(node.keys, node.values, strict=True)}
            for key, value in zip(node.keys, node.values, strict=True):
                path = (*prefix, key.value) if isinstance(key, ast.Constant) else prefix
                if path != prefix and last_of_line[value.end_lineno] is key:
                    self._note(key, path, found)
                self._visit(value, path, found, seen)
        elif isinstance(node, ast.Call):
            self._call(node, prefix, found, seen)
        else:
            for child in ast.iter_child_nodes(node):
                self._visit(child, prefix, found, seen)

    def _call(self, node: ast.Call, prefix: Path, found: dict[Path, str], seen: set[tuple[str, Path]]) -> None:
        group = prefix
        if isinstance(node.func, ast.Attribute) and node.func.attr == "update":
            group = (*prefix, *_attributes(node.func.value))
        for argument in node.args:
            self._visit(argument, group, found, seen)
        for keyword in node.keywords:
            path = (*group, keyword.arg) if keyword.arg else group
            self._note(keyword, path, found)
            self._visit(keyword.value, path, found, seen)
        if isinstance(node.func, ast.Name):
            self._function(node.func.id, group, found, seen)
        elif isinstance(node.func, ast.Attribute):
            module = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if module in self._imported:
                other = self._imported[module]
                other._function(node.func.attr, group, found, set())
            else:
                self._visit(node.func.value, group, found, seen)

    def _note(self, node: ast.AST, path: Path, found: dict[Path, str]) -> None:
        comment = self._beside.get(node.lineno, "")
        if not comment and node.col_offset == self._indents.get(node.lineno):
            comment = self._above[node.lineno]
        if comment:
            found.setdefault(path, comment)


def _attributes(node: ast.AST) -> Path:
    """`config.data.source` to ("data", "source"); nothing for what is no attribute."""
    chain = []
    while isinstance(node, ast.Attribute):
        chain.append(node.attr)
        node = node.value
    return tuple(reversed(chain))


def _line_comments(text: str) -> tuple[dict[int, str], dict[int, str]]:
    """Comments by line: those behind code, and blocks of comment lines by the line below them."""
    beside, above, block = {}, {}, []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, words = token.start[0], token.string.lstrip("# ").strip()
        if words.startswith(("fmt:", "noqa")):
            continue
        if token.line.lstrip().startswith("#"):
            block = [*(block if line in above else []), words]
            above.pop(line, None)
            above[line + 1] = " ".join(block)
        else:
            beside[line] = words
    return beside, above
