"""Whether an item of a batch may be accepted: what can be said of it before anybody waits.

It is judged as a call of its creator's would be, so that nobody learns a day later what could be told at once. Which
models there are is another matter: that changes, and is looked at when the item's turn has come.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from ollamesh.inference.v1 import batch_pb2 as pb

from services.common.errors import InvalidRequest, NotServed, Violation
from services.inference.core.asks import Chat, Generate
from services.inference.core.bounds import Bounds, check
from services.inference.core.callers import Wishes
from services.inference.wire import requests

VIOLATIONS_MAX = 100  # Told at once; who has more of them has seen enough.
# What is about a stream and its reader.
_OF_A_STREAM = ("request_id", "priority", "queue_timeout", "linger", "delta_per_token")
_IN_A_PART = re.compile(r"^items\.items\[(\d+)\]")


def ask_of(item: pb.BatchItem) -> Chat | Generate:
    """Return what an item asks. Raises InvalidRequest and NotServed, for fields of the request inside."""
    if item.HasField("chat"):
        return requests.chat(item.chat)
    return requests.generate(item.generate)


def wishes_of(item: pb.BatchItem) -> Wishes:
    """Nobody reads its stream but the worker, which charges it with its result."""
    request = item.chat if item.HasField("chat") else item.generate
    return replace(requests.wishes(request, 0.0), is_kept=False, is_charged=False)


def strip(item: pb.BatchItem) -> None:
    """Take away what has no effect in a batch, so that it is neither judged nor kept."""
    request = item.chat if item.HasField("chat") else item.generate
    for name in _OF_A_STREAM:
        request.ClearField(name)


def check_items(items: Iterable[pb.BatchItem], bounds: Bounds, *, first_index: int) -> None:
    """Strip each of some items; raise InvalidRequest with what is wrong with them, and where."""
    broken: list[Violation] = []
    for index, item in enumerate(items, first_index):
        strip(item)
        kind = item.WhichOneof("request")
        where = f"items[{index}].{kind}"
        try:
            with _placed(where):
                check(ask_of(item), bounds)
        except InvalidRequest as error:
            broken += error.violations
        if len(broken) >= VIOLATIONS_MAX:
            break
    if broken:
        raise InvalidRequest(broken[:VIOLATIONS_MAX])


@contextmanager
def numbered(first_index: int) -> Iterator[None]:
    """Have what is wrong inside a part of a stream named by its place in the whole batch."""

    def place(violation: Violation) -> Violation:
        named = _IN_A_PART.sub(lambda found: f"items[{first_index + int(found[1])}]", violation.field)
        return Violation(named, violation.description, violation.rule)

    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(list(map(place, error.violations[:VIOLATIONS_MAX]))) from None


@contextmanager
def _placed(where: str) -> Iterator[None]:
    try:
        yield
    except InvalidRequest as error:
        placed = [Violation(f"{where}.{one.field}", one.description, one.rule) for one in error.violations]
        raise InvalidRequest(placed) from None
    except NotServed as error:
        raise NotServed(field=f"{where}.{error.facts.get('field', '')}") from None
