"""The source of the package, parsed once for all tests that read it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

parsed = cache(ast.parse)


def statements(node: ast.AST) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Every statement of a tree, with those that it is in; expressions, most of a tree, are not visited."""

    def inside(node: ast.AST, outer: tuple[ast.AST, ...]) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
                yield child, outer
                yield from inside(child, (*outer, child))

    return inside(node, ())
