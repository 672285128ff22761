"""The checker finds what it is there to find: each error is planted in a history that is right."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from uuid import UUID, uuid4, uuid5

import grpc
import pytest
from ollamesh.client import CallError, chats

from tests.chaos.history import Batch, Chat, History, Row, Written, failed, faults

BATCH = UUID(int=7)
LOST_S = 1.0


def finished(sequence: int, token_count: int) -> chats.Finished:
    return chats.Finished(
        sequence=sequence,
        reason="stop",
        prompt_token_count=1,
        output_token_count=token_count,
        queue_s=0,
        load_s=0,
        prompt_s=0,
        output_s=0,
        total_s=0,
    )


def chat(caller: str, number: int) -> Chat:
    words = [f" w{each}" for each in range(3)]
    events: list[chats.Event] = [
        chats.Opened(sequence=1, stream_id=f"{caller}-{number}"),
        chats.Queued(sequence=2, ahead_count=0, estimated_start_time=None),
        chats.Started(sequence=3, model="tiny", model_digest="d", instance="one", source="model"),
        *(
            chats.Delta(sequence=4 + at, text=word, thinking="", token_count=1)
            for at, word in enumerate(words)
        ),
        finished(7, 3),
    ]
    return Chat(
        caller=caller, answer="".join(words), began_at_s=number, events=events, ended_at_s=number + 0.5
    )


@dataclass
class Case:
    history: History
    written: Written

    def drop_row(self, place: int) -> None:
        rows = list(self.written.ledger)
        del rows[place]
        self.written = replace(self.written, ledger=rows)

    def add_row(self, row: Row) -> None:
        self.written = replace(self.written, ledger=[*self.written.ledger, row])


def right() -> Case:
    told = [chat(caller, number) for caller in ("ann", "bob") for number in range(3)]
    results = [(1, 1, 5), (2, 0, 6), (3, 2, -1)]
    ledger = [
        Row(entry_id=uuid4(), caller=each.caller, stream_id=each.stream_id, output_token_count=3)
        for each in told
    ]
    for _, index, token_count in results[:2]:
        entry_id = uuid5(BATCH, str(index))
        ledger.append(Row(entry_id=entry_id, caller="ann", stream_id="", output_token_count=token_count))
    return Case(
        History(
            chats=told,
            batches=[Batch(batch_id=BATCH, item_count=3, results=results)],
            killed_at_s=[100.0],
        ),
        Written(
            ledger=ledger,
            resumed={each.stream_id: deepcopy(each.events) for each in told},
            batch_results={BATCH: [(sequence, index) for sequence, index, _ in results]},
        ),
    )


def found(case: Case) -> list[str]:
    return faults(case.history, case.written, lost_s=LOST_S)


def test_what_is_right_has_no_faults() -> None:
    assert found(right()) == []


def _lost_delta(case: Case) -> None:
    del case.history.chats[0].events[4]


def _lost_text(case: Case) -> None:
    event = case.history.chats[0].events[4]
    assert isinstance(event, chats.Delta)
    case.history.chats[0].events[4] = replace(event, text="")


def _told_twice(case: Case) -> None:
    events = case.history.chats[0].events
    events.insert(5, events[4])


def _other_text(case: Case) -> None:
    event = case.history.chats[0].events[5]
    assert isinstance(event, chats.Delta)
    case.history.chats[0].events[5] = replace(event, text=" x")


def _goes_on_after_its_end(case: Case) -> None:
    case.history.chats[0].events.append(chats.Delta(sequence=8, text="", thinking="", token_count=0))


def _silent_end(case: Case) -> None:
    del case.history.chats[0].events[6]


def _charged_twice(case: Case) -> None:
    case.add_row(replace(case.written.ledger[0], entry_id=uuid4()))


def _written_twice(case: Case) -> None:
    case.add_row(replace(case.written.ledger[0], stream_id="other"))


def _charged_for_nothing(case: Case) -> None:
    case.add_row(Row(entry_id=uuid4(), caller="eve", stream_id="eve-1", output_token_count=1))


def _sent_again_and_charged_twice(case: Case) -> None:
    case.add_row(Row(entry_id=uuid4(), caller="ann", stream_id="ann-9", output_token_count=3))


def _charged_too_much(case: Case) -> None:
    row = case.written.ledger[0]
    case.drop_row(0)
    case.add_row(replace(row, output_token_count=4))


def _charged_as_cancelled(case: Case) -> None:
    row = case.written.ledger[0]
    case.drop_row(0)
    case.add_row(replace(row, is_cancelled=True))


def _not_charged(case: Case) -> None:
    case.drop_row(0)


def _told_otherwise(case: Case) -> None:
    told = list(case.written.resumed["ann-0"] or ())
    del told[3]
    case.written = replace(case.written, resumed={**case.written.resumed, "ann-0": told})


def _not_kept(case: Case) -> None:
    case.written = replace(case.written, resumed={**case.written.resumed, "ann-0": None})


def _lost_item(case: Case) -> None:
    case.history.batches[0].results.pop()


def _item_done_twice(case: Case) -> None:
    case.history.batches[0].results.append((4, 1, 5))


def _result_of_nobody(case: Case) -> None:
    case.written = replace(case.written, batch_results={BATCH: [(1, 1), (2, 0)]})


def _item_paid_twice(case: Case) -> None:
    case.add_row(case.written.ledger[-1])


def _item_not_paid(case: Case) -> None:
    case.drop_row(-1)


def _failed_item_paid(case: Case) -> None:
    entry_id = uuid5(BATCH, "2")
    case.add_row(Row(entry_id=entry_id, caller="ann", stream_id="", output_token_count=1))


def _item_overpaid(case: Case) -> None:
    row = case.written.ledger[-1]
    case.drop_row(-1)
    case.add_row(replace(row, output_token_count=99))


PLANTED: list[Callable[[Case], None]] = [
    _lost_delta,
    _lost_text,
    _told_twice,
    _other_text,
    _goes_on_after_its_end,
    _silent_end,
    _charged_twice,
    _written_twice,
    _charged_for_nothing,
    _sent_again_and_charged_twice,
    _charged_too_much,
    _charged_as_cancelled,
    _not_charged,
    _told_otherwise,
    _not_kept,
    _lost_item,
    _item_done_twice,
    _result_of_nobody,
    _item_paid_twice,
    _item_not_paid,
    _failed_item_paid,
    _item_overpaid,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.strip("_"))
def test_a_planted_error_is_found(plant: Callable[[Case], None]) -> None:
    case = right()
    plant(case)
    assert found(case) != []


def test_what_the_service_may_lose_when_it_is_killed_is_no_fault() -> None:
    case = right()
    case.drop_row(0)
    _not_kept(case)
    case.history.killed_at_s.append(1.0)  # Half a second after that one had ended.
    assert found(case) == []


def test_a_request_that_was_sent_again_is_charged_under_its_other_name() -> None:
    case = right()
    row = case.written.ledger[0]
    case.drop_row(0)
    case.add_row(replace(row, stream_id="ann-9"))
    assert found(case) == []


def test_what_may_be_tried_again_is_no_failure() -> None:
    codes = [grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
    told = [chat("ann", number) for number in range(3)]
    for each, code in zip(told, codes, strict=True):
        each.error = CallError(code=code, message="")
    assert [error.code for error in failed(told)] == [grpc.StatusCode.INTERNAL]
