"""What requests are charged, and what becomes of entries that cannot be written yet."""

import datetime as dt
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.charging import Account, entry
from services.inference.core.accounting import COUNT_MAX, SECONDS_MAX, Course, Entry, seconds, wrong_period
from services.inference.core.backlog import FIRST_DELAY_S, LONGEST_DELAY_S, Backlog
from services.inference.core.usage import Usage
from tests.fakes.usage_book import PRINCIPAL
from tests.fakes.usage_book import entry as some_entry

ACCOUNT = Account(principal=PRINCIPAL, stream_id="s", model="tiny:latest", operation="chat")
COURSE = Course(opened_at_s=10.0, placed_at_s=12.0, ended_at_s=15.0)
START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def test_who_finished_is_charged_what_the_instance_measured() -> None:
    usage = Usage(prompt_token_count=7, prompt_s=0.5, output_token_count=9, output_s=1.5, load_s=30.0)
    made = entry(ACCOUNT, COURSE, usage)
    assert (made.prompt_token_count, made.output_token_count) == (7, 9)
    assert (made.gpu_s, made.queue_s) == (2.0, 2.0), "loading a model is nobody's own"
    assert (made.stream_id, made.principal, made.model) == ("s", PRINCIPAL, "tiny:latest")


def test_who_did_not_finish_is_charged_the_time_with_a_slot() -> None:
    made = entry(ACCOUNT, COURSE, Usage(output_token_count=4), cancelled=True)
    assert (made.gpu_s, made.queue_s, made.output_token_count, made.cancelled) == (3.0, 2.0, 4, True)


def test_who_left_the_queue_is_charged_the_wait_alone() -> None:
    waited = Course(opened_at_s=10.0, placed_at_s=None, ended_at_s=15.0)
    made = entry(ACCOUNT, waited, Usage(), cancelled=True)
    assert (made.gpu_s, made.queue_s) == (0.0, 5.0)


@pytest.mark.parametrize("how", ["cached", "joined"])
def test_who_got_anothers_answer_used_no_gpu(how: str) -> None:
    made = entry(ACCOUNT, COURSE, Usage(output_s=1.5, output_token_count=9), **{how: True})
    assert (made.gpu_s, made.output_token_count) == (0.0, 9)
    assert (made.cached, made.joined) == (how == "cached", how == "joined")


@pytest.mark.parametrize("says", [-1.0, math.nan, math.inf, 1e300, 5.0])
def test_what_an_instance_says_can_be_added_up(says: float) -> None:
    made = entry(ACCOUNT, COURSE, Usage(output_s=says, output_token_count=2**70, prompt_token_count=-1))
    assert 0 <= made.gpu_s <= SECONDS_MAX
    assert (made.output_token_count, made.prompt_token_count) == (COUNT_MAX, 0)
    assert seconds(5.0) == 5.0


@pytest.mark.parametrize(
    ("length", "fine"),
    [
        (dt.timedelta(0), False),
        (-DAY, False),
        (dt.timedelta(microseconds=1), True),
        (400 * DAY, True),
        (400 * DAY + dt.timedelta(microseconds=1), False),
    ],
)
def test_a_period_has_a_length(length: dt.timedelta, *, fine: bool) -> None:
    assert (not wrong_period(START, START + length)) is fine
    assert {each.field for each in wrong_period(START, START + length)} <= {"end_time"}


def test_the_oldest_go_when_there_is_no_room() -> None:
    backlog, entries = Backlog(entries_max=3), [some_entry() for _ in range(5)]
    assert [backlog.add(each) for each in entries] == [0, 0, 0, 1, 1]
    assert list(backlog.take(9)) == entries[2:]
    assert backlog.add(some_entry()) == 1, "what is under way takes room, and cannot be dropped"
    assert len(backlog) == 3


def test_the_delay_grows_and_has_an_end() -> None:
    backlog = Backlog(entries_max=3)
    backlog.add(some_entry())
    delays = []
    for _ in range(40):
        backlog.take(1)
        backlog.put_back()
        delays.append(backlog.delay_s)
    assert delays[:3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert set(delays[10:]) == {LONGEST_DELAY_S}
    backlog.take(1)
    backlog.written()
    assert backlog.delay_s == 0


@given(st.lists(st.sampled_from(["add", "add", "add", "take", "written", "put_back"]), max_size=200))
def test_every_entry_is_written_lost_or_still_there(steps: Sequence[str]) -> None:
    """And in order: what is written later is newer, and what is lost is older than all that waits."""
    backlog = Backlog(entries_max=5)
    added: list[Entry] = []
    written: list[Entry] = []
    under_way: Sequence[Entry] = ()
    lost_count = 0
    for step in steps:
        if step == "add":
            added.append(some_entry())
            lost_count += backlog.add(added[-1])
        elif step == "take" and not under_way:
            under_way = backlog.take(3)
        elif step == "written" and under_way:
            backlog.written()
            written += under_way
            under_way = ()
        elif step == "put_back" and under_way:
            backlog.put_back()
            under_way = ()
        assert len(backlog) <= 5
        assert len(written) + lost_count + len(backlog) == len(added)
    places = [added.index(each) for each in written]
    assert places == sorted(set(places))
