"""Three seconds of `make load` before the whole stack, all kinds."""

from collections import Counter

from deploy.local.secret_files import SecretFiles
from deploy.local.settings import Settings
from tests.bench.support.apart import run_apart
from tests.load.record import OK, Plan, Record
from tests.load.schedule import KINDS, schedule
from tests.mesh.edge import Edge


async def test_every_request_of_a_plan_is_answered_and_told_of(mesh: Settings, edge: Edge) -> None:
    shots = schedule(dict.fromkeys(KINDS, 1.0), seconds=3, rate=1, seed=2)
    plan = Plan(
        edge=edge.url,
        username="admin",
        password=SecretFiles(mesh.home).read("admin_password"),
        shots=shots,
        batch_item_count=2,
    )
    record = await run_apart("tests.load.drive", plan, Record)
    assert Counter(answer.kind for answer in record.answers) == Counter(shot.kind for shot in shots)
    assert {answer.kind for answer in record.answers} == set(KINDS)
    assert {answer.verdict for answer in record.answers} == {OK}
    assert all(answer.at_s <= answer.began_s <= answer.ended_s for answer in record.answers)
    assert all(
        answer.token_count > 0 for answer in record.answers if answer.kind in {"chat", "cached", "run"}
    )
