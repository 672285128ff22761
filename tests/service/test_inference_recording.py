"""What a running service records, replayed: the engine tells the scheduler all that it decides by."""

import json
from collections import Counter
from pathlib import Path

from services.inference.simulation.replay import verify
from services.inference.simulation.simulate import arrivals_from
from tests.fakes.fake_ollama import Hang
from tests.service.inference_app import asked, events_of, left, one_instance


async def test_a_service_records_what_it_decides_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "decisions.ndjson"
    path.write_text("of the run before")
    async with one_instance(record_file=path) as (service, fake):
        for number in range(5):
            await events_of(service.chat(f"a secret question, number {number}"))
        fake.script(Hang())
        call = service.chat("another secret")
        last = await asked(fake, 6)
        call.cancel()
        assert await left(last)
        await service.until_idle()
        assert (tmp_path / "decisions.ndjson.previous").read_text() == "of the run before"

    text = path.read_text()
    assert "secret" not in text
    assert "org-1" not in text
    lines = text.splitlines(keepends=True)
    verdict = verify(lines)
    assert (verdict.difference, verdict.note, verdict.line_count) == ("", "", len(lines))
    kinds = Counter(json.loads(line)["kind"] for line in lines)
    assert kinds["submit"] == kinds["dispatch"] == kinds["end"] == 6
    arrivals = arrivals_from(str(path), seed=0)
    assert len(arrivals) == 6
    assert [arrival.leaves_after_s is None for arrival in arrivals] == [True] * 5 + [False]


async def test_a_file_that_cannot_be_written_costs_no_request(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "decisions.ndjson"
    async with one_instance(record_file=path) as (service, _):
        assert await events_of(service.chat())
