"""The source files of the model as files that need torch alone: copies whose imports name the file beside them."""

from __future__ import annotations

import ast
from pathlib import Path

import codecctl
from codecctl import __version__

PACKAGE = Path(codecctl.__file__).parent
_HEADER = """\
# From codecctl {version}, file codecctl/{place}; written by `codecctl export`.
# SPDX-License-Identifier: MIT
# SPDX-FileCopyrightText: 2026 the codecctl authors

"""


def standalone(*modules: str) -> dict[str, str]:
    """The text of these modules of the package and of all that they import from it, by the name of their file.

    The config's classes become plain namespaces: only the exporting side validates.
    """
    texts: dict[str, str] = {}
    left = list(modules)
    while left:
        module = left.pop()
        if _flat(module) + ".py" not in texts:
            text, imported = _rewritten(module)
            texts[_flat(module) + ".py"] = text
            left += imported
    return texts


def _rewritten(module: str) -> tuple[str, list[str]]:
    """A module's text with its imports of the package rewritten, and the modules that these name."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    lines, imported = path.read_text(encoding="utf-8").splitlines(), []
    for node in ast.parse("\n".join(lines)).body:
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("codecctl."):
            continue
        assert node.module
        assert node.end_lineno
        names = ", ".join(alias.name + (f" as {alias.asname}" if alias.asname else "") for alias in node.names)
        if node.module.startswith("codecctl.config."):
            new = "; ".join(f"from types import SimpleNamespace as {alias.name}" for alias in node.names)
        else:
            new = f"from .{_flat(node.module)} import {names}"
            imported.append(node.module)
        lines[node.lineno - 1 : node.end_lineno] = [new] + [""] * (node.end_lineno - node.lineno)
    header = _HEADER.format(version=__version__, place=path.relative_to(PACKAGE).as_posix())
    return header + "\n".join(lines) + "\n", imported


def _flat(module: str) -> str:
    """`codecctl.model.fronts.front` -> `fronts_front`: transformers copies the files of one folder alone."""
    return module.removeprefix("codecctl.").removeprefix("model.").removeprefix("export.").replace(".", "_")
