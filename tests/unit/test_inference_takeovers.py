"""What becomes of streams whose makers die, are cut off, or are refused, case by case; nothing is left of any."""

import asyncio

from services.inference.errors import QueueFull, QueueTimeout
from services.inference.streams.keeper import AT_ONCE_BYTES, STREAM_BYTES
from services.inference.streams.limits import Limits
from services.inference.streams.records import Frames
from tests.unit.streams_rig import (
    SAMPLED,
    TOKEN_S,
    USER,
    WHOLE,
    WORDS,
    Client,
    replicas,
    story,
)


@story
async def test_a_stream_is_followed_through_an_outage_of_what_is_shared() -> None:
    """Neither its maker nor its reader is dead for that: nobody takes over, nobody is told so."""
    for disturb in ("cut off", "flush"):
        async with replicas() as (memory, (here, there)):
            first = Client(await here.open(options=SAMPLED))
            await asyncio.sleep(5 * TOKEN_S)
            other = Client(await there.streams.resume(USER, first.stream_id, after=0))
            await asyncio.sleep(5 * TOKEN_S)
            if disturb == "flush":
                memory.flush()
            else:
                memory.cut_off.update(("p0", "p1"))
                await asyncio.sleep(2.5)
                memory.signs.clear()
                memory.cut_off.discard("p1")
                await asyncio.sleep(0.7)
                memory.cut_off.discard("p0")
            for client in (first, other):
                await client.end()
                assert (client.text, client.failures, client.has_finished) == (WHOLE, [], True), disturb
            assert here.desk.asked_count + there.desk.asked_count == 1


@story
async def test_who_had_read_more_than_was_kept_is_told_and_who_had_not_goes_on() -> None:
    async with replicas() as (memory, (here, there)):
        direct = Client(await here.open())
        follower = Client(await there.open())
        await asyncio.sleep(12 * TOKEN_S)
        memory.cut_off.add("p0")
        await asyncio.sleep(3 * TOKEN_S)
        direct.leave()
        await here.kill()
        assert direct.last > follower.last
        await direct.resume(there)
        await direct.end()
        assert direct.failures == ["INSTANCE_LOST"]
        await follower.end()
        assert (follower.text, follower.has_finished, follower.failures) == (WHOLE, True, [])
        late = Client(await there.streams.resume(USER, follower.stream_id, after=0))
        assert (await late.end()).text == WHOLE


@story
async def test_a_maker_that_was_believed_dead_is_fenced() -> None:
    async with replicas() as (memory, (here, there)):
        direct = Client(await here.open())
        follower = Client(await there.open())
        await asyncio.sleep(5 * TOKEN_S)
        memory.cut_off.add("p0")
        while not there.desk.asked_count:
            await asyncio.sleep(TOKEN_S)
        memory.cut_off.discard("p0")
        await direct.end()
        assert direct.failures == ["INSTANCE_LOST"]
        assert WHOLE.startswith(direct.text)
        assert not here.desk.running, "its slot is free"
        assert (await follower.end()).text == WHOLE
        again = Client(await here.streams.resume(USER, direct.stream_id, after=0))
        await again.end()
        assert (again.text, again.failures) == (WHOLE, []), "what it had told otherwise is forgotten"


@story
async def test_a_stream_that_was_taken_over_can_be_cancelled_and_leaves_nothing() -> None:
    async with replicas(3) as (memory, (here, there, elsewhere)):
        first = Client(await here.open())
        follower = Client(await there.streams.resume(USER, first.stream_id, after=0))
        await asyncio.sleep(5 * TOKEN_S)
        first.leave()
        await here.kill()
        while not there.desk.asked_count:
            await asyncio.sleep(TOKEN_S)
        await asyncio.sleep(5 * TOKEN_S)
        await elsewhere.streams.cancel(USER, first.stream_id)
        await follower.end()
        assert follower.failures == ["STREAM_CANCELLED"]
        await asyncio.sleep(5.0)
        assert there.is_empty
        assert not memory.claims, "who asks the same is not sent to what has ended"


@story
async def test_two_makers_may_die_one_after_the_other() -> None:
    async with replicas(3) as (_, (one, two, three)):
        first = Client(await one.open())
        readers = {
            replica.process_id: Client(await replica.streams.resume(USER, first.stream_id, after=0))
            for replica in (two, three)
        }
        await asyncio.sleep(5 * TOKEN_S)
        first.leave()
        await one.kill()
        while not (two.desk.asked_count or three.desk.asked_count):
            await asyncio.sleep(TOKEN_S)
        await asyncio.sleep(3.0)
        heir, other = (two, three) if two.desk.running else (three, two)
        readers[heir.process_id].leave()
        await heir.kill()
        left = await readers[other.process_id].end()
        assert (left.text, left.has_finished, left.failures) == (WHOLE, True, [])


@story
async def test_only_the_last_word_was_lost() -> None:
    async with replicas() as (memory, (here, there)):
        first = Client(await here.open())
        follower = Client(await there.streams.resume(USER, first.stream_id, after=0))
        await asyncio.sleep(len(WORDS) * TOKEN_S - 0.05)
        await first.end()
        await asyncio.sleep(1.0)
        key = ("org-1", first.stream_id)
        assert (await follower.end()).has_finished
        memory.logs[key].pop()  # Its end.
        await here.kill()
        late = Client(await there.streams.resume(USER, first.stream_id, after=0))
        await late.end()
        assert (late.text, late.has_finished, late.failures) == (WHOLE, True, [])
        assert there.desk.asked_count == 0


@story
async def test_a_claim_of_one_that_died_before_it_said_anything_costs_one_wait() -> None:
    async with replicas() as (memory, (here, there)):
        first = await here.open()
        await here.kill()
        first.close()
        assert memory.claims
        memory.heads.clear()
        began_s = asyncio.get_running_loop().time()
        client = Client(await there.open())
        assert (await client.end()).text == WHOLE
        again = Client(await there.open())
        assert (await again.end()).text == WHOLE
        took_s = asyncio.get_running_loop().time() - began_s
        assert took_s < 2 * 1.05 * len(WORDS) * TOKEN_S + 2.5


@story
async def test_the_wait_of_a_maker_ends_no_stream_elsewhere() -> None:
    async with replicas() as (_, (here, there)):
        stream = await here.open()
        stream_live = stream.live
        follower = Client(await there.open())
        await asyncio.sleep(0.5)
        stream_live.completion.fail(QueueTimeout())
        await follower.end()
        assert (follower.text, follower.failures) == (WHOLE, [])


@story
async def test_who_follows_a_refused_one_is_told_so() -> None:
    async with replicas() as (memory, (here, there)):
        slow = asyncio.Event()
        submit = here.desk.submit

        async def wait(*what: object) -> int:
            await slow.wait()
            raise QueueFull(waiting_max=1)

        here.desk.submit = wait  # type: ignore[method-assign,assignment]
        opening = asyncio.ensure_future(here.open())
        await asyncio.sleep(1.0)
        following = asyncio.ensure_future(there.open())
        await asyncio.sleep(1.0)
        slow.set()
        done, _ = await asyncio.wait([opening])
        assert isinstance(done.pop().exception(), QueueFull)
        follower = Client(await following)
        await follower.end()
        assert follower.failures == ["QUEUE_FULL"]
        here.desk.submit = submit  # type: ignore[method-assign]
        await asyncio.sleep(5.0)
        assert here.is_empty
        assert not memory.claims


@story
async def test_what_lingers_alone_is_there_when_it_has_ended() -> None:
    async with replicas(1, is_alone=True) as (_, (alone,)):
        client = Client(await alone.open(linger_s=60.0))
        await asyncio.sleep(5 * TOKEN_S)
        client.leave()
        await asyncio.sleep(10.0)
        await client.resume(alone)
        await client.end()
        assert (client.text, client.has_finished) == (WHOLE, True)


@story
async def test_what_is_kept_here_is_bounded_by_number_too() -> None:
    limits = Limits(memory_bytes_max=20 * STREAM_BYTES)
    async with replicas(1, is_alone=True, limits=limits) as (_, (alone,)):
        alone.desk.words = ()
        for number in range(100):
            await Client(await alone.open(str(number))).end()
        await asyncio.sleep(1.0)
        assert len(alone.streams._records) <= 20
        await asyncio.sleep(limits.kept_s)
        assert alone.is_empty


@story
async def test_names_that_could_not_be_written_are_written_later() -> None:
    async with replicas() as (memory, (here, there)):
        first = Client(await here.open())
        joined = Client(await here.open())
        memory.is_full = True
        late = Client(await here.open())
        await asyncio.sleep(1.0)
        memory.is_full = False
        await asyncio.sleep(1.0)
        for client in (first, joined, late):
            await client.resume(there)
            assert (await client.end()).text == WHOLE


@story
async def test_a_long_backlog_is_written_in_parts() -> None:
    async with replicas() as (memory, (here, there)):
        here.desk.words = there.desk.words = ["x" * 5000] * 150
        memory.cut_off.add("p0")
        client = Client(await here.open(options=SAMPLED, by_token=True))
        await client.end()
        memory.cut_off.discard("p0")
        await asyncio.sleep(10.0)
        records = [record for _, record in memory.logs["org-1", client.stream_id]]
        sizes = [sum(map(len, record.frames)) for record in records if isinstance(record, Frames)]
        assert len(sizes) > 2
        assert max(sizes) <= AT_ONCE_BYTES
        again = Client(await there.streams.resume(USER, client.stream_id, after=0))
        assert (await again.end()).text == client.text


@story
async def test_what_becomes_of_streams_is_counted() -> None:
    async with replicas() as (memory, (here, there)):
        first = Client(await here.open())
        joined = Client(await here.open())
        await asyncio.sleep(5 * TOKEN_S)
        follower = Client(await there.open())
        again = Client(await there.streams.resume(USER, first.stream_id, after=0))
        await asyncio.sleep(TOKEN_S)
        assert (here.count("s_open"), there.count("s_open")) == (1, 2)
        assert here.count("_log_bytes") > 0
        assert here.count("_joins_total", where="here") == 1
        assert there.count("_joins_total", where="replica") == 1
        assert there.count("_resumes_total", kept="shared") == 1
        memory.cut_off.add("p0")
        while not there.desk.asked_count:
            await asyncio.sleep(TOKEN_S)
        memory.cut_off.discard("p0")
        for client in (first, joined, follower, again):
            await client.end()
        await asyncio.sleep(1.0)
        assert there.count("_takeovers_total", outcome="continued") == 1
        assert here.count("_takeovers_total", outcome="fenced") == 1
        assert here.count("_writes_failed_total") == 0
        memory.is_full = True
        await Client(await here.open("other")).end()
        assert here.count("_writes_failed_total") > 0
        assert (here.count("s_open"), there.count("s_open")) == (0, 0)
