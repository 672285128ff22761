"""What a model reads of an execution: short, the end of long output, and how it ended only if not well."""

from dataclasses import dataclass

STDOUT_CHARS_MAX = 3000  # A small model's context is about 8,000 characters in all.
STDERR_CHARS_MAX = 1000  # The end of a traceback names the error.
NOTHING = "(no output; print the result)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    stdout: str
    stderr: str
    value: str  # Of the last expression, and what was displayed.
    problem: str  # Sentences; empty if the program ended well.


def result_text(execution: Execution) -> str:
    """At most a little more than both bounds together."""
    parts = [_end_of(execution.stdout, STDOUT_CHARS_MAX), _end_of(execution.value, STDOUT_CHARS_MAX)]
    if execution.stderr:
        parts.append(f"stderr:\n{_end_of(execution.stderr, STDERR_CHARS_MAX)}")
    parts.append(execution.problem)
    return "\n".join(part.rstrip("\n") for part in parts if part) or NOTHING


def _end_of(text: str, chars_max: int) -> str:
    left_out = len(text) - chars_max
    return f"[{left_out} characters left out]\n{text[left_out:]}" if left_out > 0 else text
