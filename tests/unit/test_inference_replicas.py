"""Whatever becomes of replicas and of what they share: what a client has read is the beginning of one and the same text."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import MeshError
from services.inference.streams.limits import Limits
from tests.fakes.shared_log import Memory
from tests.unit.streams_rig import WHOLE, Client, Replica, in_virtual_time

LONG_S = 30.0  # After which everything has come to its end.
KEPT_S = 60.0
MAY_SAY = {"INSTANCE_LOST", "STREAM_EXPIRED", "STREAM_UNREACHABLE", "STREAM_CANCELLED"}

moments = st.sampled_from([0.0, 0.03, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0])
which = st.integers(0, 5)
steps = st.one_of(
    st.tuples(st.just("wait"), moments),
    st.tuples(st.just("ask"), which),
    st.tuples(st.just("resume"), st.tuples(which, which)),
    st.tuples(st.just("leave"), which),
    st.tuples(st.just("kill"), which),
    st.tuples(st.just("cut off"), which),
    st.tuples(st.just("mend"), which),
    st.tuples(st.sampled_from(["flush", "fill", "empty"]), which),
)


class Story:
    """Three replicas, of which one always lives, and clients who all ask the same."""

    def __init__(self, *, linger_s: float) -> None:
        self.memory = Memory()
        limits = Limits(kept_s=KEPT_S)
        self.replicas = [Replica(self.memory, name, limits=limits) for name in ("one", "two", "three")]
        self.clients: list[Client] = []
        self.refusals: set[str] = set()
        self._linger_s = linger_s

    async def play(self, script: list[tuple[str, object]]) -> None:
        for what, how in script:
            await self._step(what, how)
            self._check()
        self.memory.cut_off.difference_update(replica.process_id for replica in self.replicas)
        self.memory.is_full = False
        await asyncio.sleep(LONG_S)
        self._check()
        for client in self.clients:
            assert not client.is_reading, "nobody waits for ever"
            client.leave()
        await asyncio.sleep(KEPT_S + LONG_S)
        for replica in self.replicas:
            assert replica.is_empty
            replica.running.cancel()
            assert not replica.desk.running
        await asyncio.sleep(0)

    async def _step(self, what: str, how: object) -> None:
        match what, how:
            case "wait", float(seconds):
                await asyncio.sleep(seconds)
            case "ask", int(place):
                replica = self._replica(place)
                try:
                    stream = await replica.open(linger_s=self._linger_s)
                except MeshError as refusal:  # Whom it was to share the answer of is lost.
                    self.refusals.add(refusal.reason)
                else:
                    self.clients.append(Client(stream, replica))
            case "resume", (int(who), int(place)) if self.clients:
                await self._client(who).resume(self._replica(place))
            case "leave", int(who) if self.clients:
                self._client(who).leave()
            case "kill", int(place) if len(self.replicas) > 1:
                await self._kill(self._replica(place))
            case _, int(place):
                self._disturb(what, self._replica(place).process_id)

    def _disturb(self, what: str, process_id: str) -> None:
        match what:
            case "cut off":
                self.memory.cut_off.add(process_id)
            case "mend":
                self.memory.cut_off.discard(process_id)
            case "flush":
                self.memory.flush()
            case "fill" | "empty":
                self.memory.is_full = what == "fill"

    async def _kill(self, replica: Replica) -> None:
        self.replicas.remove(replica)
        for client in self.clients:
            if client.reads_at is replica:
                client.leave()
        await replica.kill()

    def _check(self) -> None:
        assert self.refusals <= MAY_SAY
        for client in self.clients:
            assert WHOLE.startswith(client.text)
            assert client.text == WHOLE or not client.has_finished
            assert set(client.failures) <= MAY_SAY

    def _replica(self, place: int) -> Replica:
        return self.replicas[place % len(self.replicas)]

    def _client(self, place: int) -> Client:
        return self.clients[place % len(self.clients)]


@settings(max_examples=60, deadline=None)
@given(script=st.lists(steps, max_size=25), linger_s=st.sampled_from([0.0, 3.0]))
def test_whatever_happens_a_client_has_read_the_beginning_of_one_text(
    script: list[tuple[str, object]], linger_s: float
) -> None:
    async def played() -> None:
        await Story(linger_s=linger_s).play(script)

    in_virtual_time(played())
