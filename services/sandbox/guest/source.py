"""Compiles a program so that the value of its last expression is known."""

import __future__

import ast
from contextlib import suppress
from types import CodeType

# A tree takes a hundred times the memory of its source. What is larger is data rather than a question with an answer.
PARSED_BYTES_MAX = 64 << 10

_FUTURES: int = sum(
    getattr(__future__, name).compiler_flag for name in {*__future__.all_feature_names} - {"nested_scopes"}
)


def compiled(source: bytes, file_name: str, flags: int = 0) -> tuple[CodeType, CodeType | None]:
    """The program, and apart from it its last expression, if it ends with one whose value is wanted.

    `flags` are the __future__ features that hold already; see `futures`.
    """
    if len(source) <= PARSED_BYTES_MAX:
        with suppress(RecursionError):  # A tree may not be as deep as a source.
            return _apart(source, file_name, flags)
    return compile(source, file_name, "exec", flags, dont_inherit=True), None


def futures(code: CodeType) -> int:
    """The __future__ features that hold in `code`, as flags."""
    return code.co_flags & _FUTURES


def _apart(source: bytes, file_name: str, flags: int) -> tuple[CodeType, CodeType | None]:
    tree = compile(source, file_name, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr) or _silenced(source, last):
        return compile(tree, file_name, "exec", flags, dont_inherit=True), None
    tree.body.pop()
    body = compile(tree, file_name, "exec", flags, dont_inherit=True)
    expression = ast.Expression(last.value)
    return body, compile(expression, file_name, "eval", flags | futures(body), dont_inherit=True)


def _silenced(source: bytes, last: ast.Expr) -> bool:
    """Whether a semicolon follows, by which notebooks tell that a value is not wanted."""
    assert last.end_lineno is not None
    assert last.end_col_offset is not None
    lines = source.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return lines[last.end_lineno - 1][last.end_col_offset :].lstrip().startswith(b";")
