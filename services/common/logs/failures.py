"""What is told of an exception: its kind and where it came from, and its text only if that is ours.

The text of a library's exception holds what the library was given: a DSN with its password, a whole prompt that failed
a check, the arguments of a tool. So it is told only where a `raise` of our own code wrote it, which is a constant, and
of what the system says (OSError), of PostgreSQL and of gRPC their codes. The locals of frames are never told.
"""

import dis
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

OURS = str(Path(__file__).parents[2]) + "/"  # services/
FRAMES_MAX = 30  # The innermost; those before them are mostly the loop's.
FAILURES_MAX = 8  # Of a chain and of groups in it, all together.
_RAISE = dis.opmap["RAISE_VARARGS"]


def told(error: BaseException) -> list[dict[str, object]]:
    """Return the exception, what caused it, and what it is made of."""
    return [_one(each) for each, _ in zip(_all(error, set()), range(FAILURES_MAX), strict=False)]


def _all(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _all(each, seen)
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _all(before, seen)


def _one(error: BaseException) -> dict[str, object]:
    kind = type(error)
    found: dict[str, object] = {"type": f"{kind.__module__}.{kind.__qualname__}", "frames": _frames(error)}
    if text := _text(error):
        found["text"] = text
    return found


def _text(error: BaseException) -> str:
    if _is_worded_by_us(error):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or ""
    for name in ("sqlstate", "code"):  # PostgreSQL's, gRPC's.
        code = getattr(error, name, None)
        code = (
            code()
            if callable(code) and name == "code" and type(error).__module__.startswith("grpc")
            else code
        )
        if isinstance(code, str) or hasattr(code, "name"):
            return f"{name} {getattr(code, 'name', code)}"
    return ""


def _is_worded_by_us(error: BaseException) -> bool:
    """Whether a `raise` statement of our own made it: what the interpreter raises there quotes values."""
    last = _innermost(error.__traceback__)
    if last is None or not last.tb_frame.f_code.co_filename.startswith(OURS):
        return False
    return last.tb_frame.f_code.co_code[last.tb_lasti] == _RAISE


def _innermost(found: TracebackType | None) -> TracebackType | None:
    while found is not None and found.tb_next is not None:
        found = found.tb_next
    return found


def _frames(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__, limit=-FRAMES_MAX)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
