"""Three seconds of `make load` before the whole stack, all kinds."""

from collections import Counter
from collections.abc import Mapping

from deploy.local.secret_files import SecretFiles
from deploy.local.settings import Settings
from tests.bench.support.apart import run_apart
from tests.load.record import OK, Models, Plan, Record
from tests.load.schedule import KINDS, Kind, schedule
from tests.mesh.edge import Edge

# Of this seed: one chat, three of which the cache may know two, two embeddings, a run, a batch.
MIX: Mapping[Kind, float] = {"chat": 1, "cached": 1, "embed": 1.5, "run": 0.3, "batch": 0.3}
SEED = 244
EARLY_S = 0.05  # A timer may ring a little before its time.


async def test_every_request_of_a_plan_is_answered_and_told_of(mesh: Settings, edge: Edge) -> None:
    shots = schedule(MIX, seconds=3, rate=1, seed=SEED)
    plan = Plan(
        edge=edge.url,
        username="admin",
        password=SecretFiles(mesh.home).read("admin_password"),
        shots=shots,
        batch_item_count=2,
        models=Models(output_max=8),
        drain_s=100,
    )
    record = await run_apart("tests.load.drive", plan, Record)
    assert Counter(answer.kind for answer in record.answers) == Counter(shot.kind for shot in shots)
    assert {answer.kind for answer in record.answers} == set(KINDS)
    assert {answer.verdict for answer in record.answers} == {OK}
    assert all(answer.at_s - EARLY_S <= answer.began_s <= answer.ended_s for answer in record.answers)
    assert all(
        answer.token_count > 0 for answer in record.answers if answer.kind in {"chat", "cached", "run"}
    )
