"""Messages between processes: cut anywhere, in order, bounded; and what they say survives the way."""

import asyncio
import socket
from datetime import UTC, datetime
from functools import partial
from math import inf

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from services.common.errors import InvalidRequest, MeshError
from services.inference.adapters.answers import Processes, Tags, card, resident
from services.inference.adapters.wire import LISTING_BYTES_MAX
from services.inference.core.breaker import BreakerState
from services.inference.core.gpus import Gpu
from services.inference.core.ledger import Card, Report, Resident
from services.inference.core.prefixes import Prefix
from services.inference.core.usage import Usage
from services.inference.errors import ContextTooLarge, QueueFull, TimeExceeded
from services.inference.processes import frames as frames_module
from services.inference.processes import link as link_module
from services.inference.processes import messages as told
from services.inference.processes.counts import AllCounts, families, registry_of
from services.inference.processes.frames import FRAME_BYTES_MAX, Frames, FrameTooLong, framed
from services.inference.processes.link import Link

WITHIN_S = 20.0
REPORT = Report(
    version="1",
    cards=(Card(name="a", capabilities=frozenset({"completion"}), modified_at=datetime.now(UTC)),),
    residents=(Resident(name="a", expires_at=datetime.now(UTC)),),
)
SEEN = told.Seen(
    name="gpu:1",
    slots=4,
    unready_reason="",
    silent=False,
    seen_at=datetime.now(UTC),
    report=told.Listing.of(REPORT),
    gpus=(Gpu(index=0, uuid="GPU-1"),),
    vram_bytes=1,
    breaker=BreakerState.HALF_OPEN,
    asked_at_s=1.5,
    pinned=frozenset({"a:latest"}),
)
FROM_WORKER: list[told.FromWorker] = [
    told.Serving(port=1),
    told.Submit(
        number=1,
        operation="chat",
        tenant="t",
        model="m:latest",
        priority=2,
        wait_max_s=inf,
        total_max_s=1.5,
        run_max_s=1.5,
        prompt_token_count=3,
        output_token_max=0,
        prefixes=(Prefix(key="ab", token_count=3),),
    ),
    told.Abandon(number=1),
    told.Ended(number=1, usage=Usage(prompt_token_count=2), over=True, error=""),
    told.Ended(number=1, started=False),
    told.Ask(number=2),
    told.Counts(families=()),
    told.Keep(number=1, unload=True, model="m:latest", instance="", keep_out_s=1.5),
    told.Forgo(number=1),
    told.Doubt(instance="gpu:1"),
]
FROM_HEAD: list[told.FromHead] = [
    told.Accepted(number=1),
    told.Refused(number=1, wrong=told.wrong(QueueFull(waiting_max=3))),
    told.Place(number=1, ahead_count=2, wait_s=inf),
    told.Run(number=1, instance="gpu:1", model="m", digest="d", first_token_s=inf),
    told.Cancel(number=1, wrong=None),
    told.Fail(number=1, wrong=told.wrong(TimeExceeded())),
    SEEN,
    told.Standing(number=1, busy={"gpu:1": {"m": 1}}, queues={"m": ((1, 2.0),)}),
    told.Alive(),
    told.Stop(),
    told.Kept(number=1, instance="gpu:1", wrong=None),
]


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(1, 64), min_size=1, max_size=50))
def test_however_the_bytes_are_cut_the_messages_are_the_same(messages: list[bytes], cuts: list[int]) -> None:
    sent = b"".join(map(framed, messages))
    frames, found = Frames(), list[bytes]()
    place = start = 0
    while start < len(sent):
        size = cuts[place % len(cuts)]
        found += frames.feed(sent[start : start + size])
        start, place = start + size, place + 1
    assert found == messages


def test_a_length_that_cannot_be_is_not_waited_for() -> None:
    with pytest.raises(FrameTooLong):
        list(Frames().feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big")))


@pytest.mark.parametrize("message", FROM_WORKER, ids=lambda message: type(message).__name__)
def test_what_a_worker_says_arrives(message: told.FromWorker) -> None:
    (payload,) = Frames().feed(told.encoded(message))
    assert told.from_worker(payload) == message


@pytest.mark.parametrize("message", FROM_HEAD, ids=lambda message: type(message).__name__)
def test_what_the_head_says_arrives(message: told.FromHead) -> None:
    (payload,) = Frames().feed(told.encoded(message))
    assert told.from_head(payload) == message


def test_what_an_instance_says_of_itself_arrives_whole() -> None:
    (payload,) = Frames().feed(told.encoded(SEEN))
    message = told.from_head(payload)
    assert isinstance(message, told.Seen)
    assert message.report is not None
    assert message.report.report() == REPORT


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
times = st.none() | st.datetimes(timezones=st.just(UTC))
tags = st.lists(
    st.fixed_dictionaries(
        {"name": names},
        optional={
            "digest": names,
            "size": st.integers(0, 2**63 - 1),
            "modified_at": times,
            "details": st.fixed_dictionaries(
                {}, optional={"family": names, "parameter_size": names, "quantization_level": names}
            ),
            "capabilities": st.lists(names, max_size=5),
        },
    ),
    max_size=20,
)
processes = st.lists(
    st.fixed_dictionaries(
        {"name": names},
        optional={
            "digest": names,
            "size": st.integers(0, 2**63 - 1),
            "size_vram": st.integers(0, 2**63 - 1),
            "context_length": st.integers(0, 2**31),
            "expires_at": times,
        },
    ),
    max_size=20,
)


@given(tags, processes)
def test_a_listing_is_no_longer_than_the_json_that_it_was_read_from(
    tags: list[dict[str, object]], processes: list[dict[str, object]]
) -> None:
    """So a frame has room for all that an instance's answers may be."""
    listed = msgspec.json.encode({"models": tags}), msgspec.json.encode({"models": processes})
    report = Report(
        cards=tuple(map(card, msgspec.json.decode(listed[0], type=Tags).models or ())),
        residents=tuple(map(resident, msgspec.json.decode(listed[1], type=Processes).models or ())),
    )
    assert len(msgspec.msgpack.encode(told.Listing.of(report))) <= sum(map(len, listed))
    assert 3 * LISTING_BYTES_MAX < FRAME_BYTES_MAX


@pytest.mark.parametrize(
    "error",
    [QueueFull(retry_after_s=2.5, waiting_max=3), TimeExceeded(), ContextTooLarge(asked_token_count=1)],
)
def test_an_error_is_the_same_on_the_other_side(error: MeshError) -> None:
    again = told.error_of(told.wrong(error))
    assert type(again) is type(error)
    assert isinstance(again, MeshError)
    assert (again.facts, again.retry_after_s) == (error.facts, error.retry_after_s)


def test_a_bug_says_nothing_of_itself_and_violations_stay_with_their_caller() -> None:
    assert "secret" not in str(told.error_of(told.wrong(ValueError("secret"))))
    assert isinstance(told.error_of(told.wrong(InvalidRequest([]))), InvalidRequest)


def _same(end: Link) -> Link:
    return end


async def linked() -> tuple[Link, Link, list[bytes], list[bytes]]:
    """Two ends, and what each has got."""
    loop, sockets = asyncio.get_running_loop(), socket.socketpair()
    ends, received = (Link(), Link()), (list[bytes](), list[bytes]())
    for end, sock, got in zip(ends, sockets, received, strict=True):
        end.gives(got.append)
        await loop.create_unix_connection(partial(_same, end), sock=sock)
    return (*ends, *received)


async def test_messages_arrive_in_order_and_the_last_before_the_end() -> None:
    one, other, _, got = await linked()
    for number in range(1000):
        one.send(told.Abandon(number=number))
    await one.close()
    await asyncio.wait_for(other.until_lost(), WITHIN_S)
    assert [told.from_worker(data) for data in got] == [told.Abandon(number=number) for number in range(1000)]
    one.send(told.Alive())  # Without effect.


async def test_one_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "UNREAD_BYTES_MAX", 100_000)
    ours, theirs = socket.socketpair()
    link = Link()
    link.gives(lambda _: None)
    await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
    with theirs:
        sent_count = 0
        while not link.lost and sent_count < 100_000:
            link.send(SEEN)
            sent_count += 1
            if sent_count % 100 == 0:
                await asyncio.sleep(0)
        assert link.lost


@pytest.mark.parametrize(
    "message",
    [
        told.Run(number=1, instance="g" * 100, model="m", digest="d", first_token_s=1.0),
        msgspec.structs.replace(
            SEEN, report=told.Listing.of(Report(cards=(Card(name="a", size_bytes=2**70),)))
        ),
    ],
    ids=["too long", "no such number"],
)
async def test_what_cannot_be_sent_ends_its_link_and_nothing_else(
    message: told.FromHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "FRAME_BYTES_MAX", 100)
    one, other, _, got = await linked()
    one.send(told.Alive())
    one.send(message)
    await asyncio.wait_for(one.until_lost(), WITHIN_S)
    await asyncio.wait_for(other.until_lost(), WITHIN_S)
    assert [told.from_head(data) for data in got] == [told.Alive()]


async def test_a_frame_that_cannot_be_ends_the_link() -> None:
    ours, theirs = socket.socketpair()
    link = Link()
    link.gives(lambda _: None)
    await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
    with theirs:
        theirs.send(b"\xff" * 8)
        await asyncio.wait_for(link.until_lost(), WITHIN_S)


def shown(counts: AllCounts) -> str:
    return generate_latest(registry_of(counts)).decode()


def test_what_a_process_counted_is_shown_and_stays_when_it_is_gone() -> None:
    own, far = CollectorRegistry(), CollectorRegistry()
    Counter("calls", "Calls", registry=own).inc(1)
    calls = Counter("calls", "Calls", registry=far)
    calls.inc(2, exemplar={"trace_id": "t"})
    Histogram("size", "Sizes", buckets=(1,), registry=far).observe(0.5)
    counts = AllCounts(own)
    share, silent = counts.share(), counts.share()
    (payload,) = Frames().feed(told.encoded(told.Counts(families=families(far))))
    message = told.from_worker(payload)
    assert isinstance(message, told.Counts)
    share.update(message.families)
    assert "calls_total 3.0" in shown(counts)
    assert 'size_bucket{le="1.0"} 1.0' in shown(counts)
    (family,) = (one for one in counts.collect() if one.name == "calls")
    (sample,) = (one for one in family.samples if one.name == "calls_total")
    assert sample.exemplar is not None
    assert sample.exemplar.labels == {"trace_id": "t"}
    share.leave()
    share.leave()
    silent.leave()
    assert "calls_total 3.0" in shown(counts)
