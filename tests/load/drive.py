"""`python -m tests.load.drive < PLAN > RECORD`: sends what a plan says when it says so, and tells what became of it.

A process of its own, so that what the traffic costs is not taken for what it asks. Nothing here waits for an answer
before the next request: each is a task, and there are at most `in_flight_max` of them.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

import msgspec
import uvloop
from ollamesh.client import Client, Password
from ollamesh.client.errors import CallError

from tests.load.callers import Refused, Sign, ask
from tests.load.record import NOT_SENT, OK, UNFINISHED, Answer, Plan, Record
from tests.load.schedule import Kind, Shot

HEAD_START_S = 0.2
LOOK_EVERY_S = 1.0
WARMS: frozenset[Kind] = frozenset({"chat", "embed"})


class Driver:
    def __init__(self, plan: Plan, clients: Sequence[Client]) -> None:
        self._plan = plan
        self._clients = clients
        self._answers: list[Answer] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._bugs: list[BaseException] = []
        self._in_flight: list[tuple[float, int]] = []
        self._start_s = 0.0

    async def run(self) -> Record:
        """Send everything, wait for the answers at most `drain_s`, and give up what is left."""
        self._start_s = time.monotonic() + HEAD_START_S
        looking = asyncio.create_task(self._look())
        try:
            for order, shot in enumerate(self._plan.shots):
                await asyncio.sleep(self._start_s + shot.at_s - time.monotonic())
                self._send(shot, self._clients[order % len(self._clients)])
            if self._under_way:
                await asyncio.wait(self._under_way, timeout=self._plan.drain_s)
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
        finally:
            looking.cancel()
        if self._bugs:
            raise self._bugs[0]
        used = os.times()
        return Record(
            answers=self._answers,
            wall_s=self._now_s(),
            cpu_s=used.user + used.system,
            in_flight=self._in_flight,
        )

    def _send(self, shot: Shot, client: Client) -> None:
        if len(self._under_way) >= self._plan.in_flight_max:
            now_s = self._now_s()
            self._answers.append(
                Answer(
                    kind=shot.kind, at_s=shot.at_s, began_s=now_s, first_s=-1, ended_s=now_s, verdict=NOT_SENT
                )
            )
            return
        task = asyncio.create_task(self._ask(shot, client))
        self._under_way.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bugs.append(error)

    async def _ask(self, shot: Shot, client: Client) -> None:
        began_s, sign, verdict = self._now_s(), Sign(self._now_s), UNFINISHED
        try:
            await ask(client, self._plan, shot, sign)
            verdict = OK
        except CallError as error:
            verdict = error.reason or error.code.name
        except Refused as refused:
            verdict = refused.reason
        finally:
            self._answers.append(
                Answer(
                    kind=shot.kind,
                    at_s=shot.at_s,
                    began_s=began_s,
                    first_s=-1 if sign.first_s is None else sign.first_s,
                    ended_s=self._now_s(),
                    verdict=verdict,
                    token_count=sign.token_count,
                )
            )

    async def _look(self) -> None:
        while True:
            self._in_flight.append((self._now_s(), len(self._under_way)))
            await asyncio.sleep(LOOK_EVERY_S)

    def _now_s(self) -> float:
        return time.monotonic() - self._start_s


async def drive(plan: Plan) -> Record:
    async with AsyncExitStack() as opened:
        clients = [
            await opened.enter_async_context(Client(plan.edge, Password(plan.username, plan.password)))
            for _ in range(plan.connection_count)
        ]
        for client in clients:  # Neither logging in is measured, nor models' being loaded.
            await client.access_token()
        for kind in {shot.kind for shot in plan.shots} & WARMS:
            await ask(clients[0], plan, Shot(at_s=0, kind=kind, number=-1), Sign())
        return await Driver(plan, clients).run()


if __name__ == "__main__":
    result = uvloop.run(drive(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)))
    sys.stdout.buffer.write(msgspec.json.encode(result))
