"""Answers that must keep a JSON Schema: what is asked when one does not, and how often."""

import json
import re
from collections.abc import Callable

REPAIRS_MAX = 2

_FENCED = re.compile(r"\s*```[A-Za-z_]*[ \t]*\n(.*?)\n?\s*```\s*", re.DOTALL)


def bare(answer: str) -> str:
    """The answer without the marks of a code block, in which models like to wrap JSON."""
    fenced = _FENCED.fullmatch(answer)
    return (fenced[1] if fenced else answer).strip()


def problem_of(answer: str, problem: Callable[[object], str | None]) -> str | None:
    """What is wrong with an answer, in words for the model; None if it keeps the schema, which `problem` checks."""
    text = bare(answer)
    if not text:
        return "it is empty"
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return f"it is not JSON ({error})" if isinstance(error, json.JSONDecodeError) else "it is not JSON"
    return problem(value)


def asked_again(problem: str) -> str:
    """What the model is told."""
    return (
        f"Your answer does not keep the JSON schema that it has to keep: {problem}. "
        "Give the same answer as JSON that keeps the schema, and nothing else."
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
