"""A worker that leaves its head leaves nothing running, and says so."""

import asyncio
import socket

from services.inference.core.jobs import Priority
from services.inference.core.ledger import Ledger
from services.inference.engine import Terms
from services.inference.processes import messages as told
from services.inference.processes.head import head_at
from services.inference.processes.link import Link
from services.inference.work import Answering
from tests.unit.completions import ReadCompletion, nothing_told
from tests.unit.engine_rig import ORDER, WITHIN_S, FakeInstance, until

TERMS = Terms(tenant="a", priority=Priority.DEFAULT, wait_max_s=60.0, total_max_s=60.0, run_max_s=60.0)


async def test_what_runs_has_ended_when_the_head_is_left_and_the_head_was_told() -> None:
    instance, heard = FakeInstance(), list[told.FromWorker]()
    instance.may_stop.set()
    ours, theirs = socket.socketpair()
    link = Link()

    def take(data: bytes) -> None:
        """Accept whatever is asked, and let the first have a slot."""
        match message := told.from_worker(data):
            case told.Submit(number=number):
                link.send(told.Accepted(number=number))
                if number == 1:
                    link.send(
                        told.Run(number=number, instance="gpu", model="m", digest="", first_token_s=9.0)
                    )
        heard.append(message)

    link.gives(take)
    await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
    async with head_at(
        theirs.detach(),
        {"gpu": instance},
        Ledger(),
        stop=asyncio.Event(),
        counted=lambda: (),
        refused=lambda _: None,
    ) as head:
        for _ in range(2):
            completion = ReadCompletion()
            await head.engine.submit(ORDER, TERMS, Answering(ORDER, completion, told=nothing_told))
        await until(lambda: instance.running_count == 1)
    assert instance.running_count == 0
    assert head.engine.open_count == 0
    await asyncio.wait_for(link.until_lost(), WITHIN_S)
    abandoned = [message.number for message in heard if isinstance(message, told.Abandon)]
    ended = [message for message in heard if isinstance(message, told.Ended)]
    assert abandoned == [1, 2]
    assert [(message.number, message.cancelled) for message in ended] == [(1, True)]
    assert isinstance(heard[-1], told.Counts), "the last counts come last"
