"""What the chain promises of a real table: it only grows, without gaps, and whatever else is done to it is found."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import asyncpg
import pytest
from cryptography.fernet import Fernet

from services.auth.adapters.audit_signer import AuditSigner
from services.auth.adapters.postgres_audit import PostgresAudit, Wanted, connected
from services.auth.core.audit_chain import (
    GENESIS,
    Head,
    Place,
    digest_of,
    head_of,
    head_payload,
    linked,
)
from services.common.auditing.records import Record
from tests.contract.audit_rig import TABLES, Rig, audit_rig, grown, record
from tests.stack import Database

COUNT = 48
SEEDS = range(6)  # Places that each way is tried at.


@pytest.fixture
async def rig(database: Database) -> AsyncIterator[Rig]:
    async with audit_rig(database) as made:
        yield made


async def test_replicas_that_append_at_once_make_one_chain_without_gaps(database: Database) -> None:
    async with audit_rig(database) as rig, connected(database("auth")) as other:
        replicas = (rig.store, PostgresAudit(other))
        records = [record(number) for number in range(400)]
        batches = [records[at : at + 20] for at in range(0, 400, 20)]

        async def appended(replica: PostgresAudit, mine: list[list[Record]]) -> None:
            for batch in mine:
                await replica.append(batch)

        # Each batch at both, as after an answer that was lost.
        await asyncio.gather(
            *(appended(replica, batches[place:] + batches[:place]) for place, replica in enumerate(replicas))
        )
        check = await rig.checked()
        assert (check.problem, check.entry_count) == (None, 400)
        links = await rig.store.links(0, 1000)
        assert {link.entry.event_id for link in links} == {str(each.event_id) for each in records}
        places = {link.entry.event_id: link.entry.sequence for link in links}
        for batch in batches:
            in_order = [places[str(each.event_id)] for each in batch]
            assert in_order == list(range(in_order[0], in_order[0] + 20)), "a batch stays together, in order"


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("statement", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "TRUNCATE {0}"])
async def test_it_only_grows(database: Database, rig: Rig, table: str, statement: str) -> None:
    await grown(rig, groups=1)
    column = {"audit_events": "object", "audit_heads": "signed", "audit_keys": "sealed_key"}[table]
    change = statement.format(table, column)
    for dsn, role in ((database("auth"), None), (database.admin_dsn, "ollamesh_owner")):
        connection = await asyncpg.connect(dsn)
        try:
            if role:
                await connection.execute(f"SET ROLE {role}; SET search_path = auth")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(change)
        finally:
            await connection.close()


async def test_a_page_is_found_by_organisation_action_and_time(rig: Rig) -> None:
    records = [record(n, organization_id="ab"[n % 2]) for n in range(100)]
    await rig.store.append(records[:50])
    await rig.store.append(records[50:])
    wanted = Wanted(organization_id="a", count_max=20)
    first, more = await rig.store.page(wanted)
    assert more is not None
    rest, end = await rig.store.page(replace(wanted, beyond=more, count_max=100))
    assert end is None
    assert [link.entry.details["number"] for link in first + rest] == [str(n) for n in range(0, 100, 2)]
    newest, _ = await rig.store.page(replace(wanted, newest_first=True, count_max=3))
    assert [link.entry.details["number"] for link in newest] == ["98", "96", "94"]
    nothing, end = await rig.store.page(replace(wanted, action="TOKEN_ISSUED"))
    assert (nothing, end) == ([], None)
    late, _ = await rig.store.page(Wanted(organization_id=None, since_us=records[90].time_us))
    assert [link.entry.details["number"] for link in late] == [str(n) for n in range(90, 100)]


# ---- Ways to change what has happened --------------------------------------------------------------

COLUMNS = {
    "event_id": "gen_random_uuid()",
    "event_time": "event_time + interval '1 microsecond'",
    "record_time": "record_time + interval '1 microsecond'",
    "service": "'other'",
    "action": "'TOKEN_ISSUED'",
    "outcome": "'DENIED'",
    "user_id": "'user:eve'",
    "organization_id": "'elsewhere'",
    "object": "object || ' '",
    "reason": "'NONE'",
    "details": 'details || \'{"number": "7"}\'',
    "hash": "decode(md5(random()::text) || md5(random()::text), 'hex')",
}
Way = Callable[[Rig, random.Random], Awaitable[None]]


def edited(column: str) -> Way:
    async def way(rig: Rig, chance: random.Random) -> None:
        await rig.admin.execute(
            f"UPDATE audit_events SET {column} = {COLUMNS[column]} WHERE sequence = $1",
            chance.randint(1, COUNT),
        )

    return way


async def linked_anew(rig: Rig, frm: int) -> None:
    """What anybody can do who can write to the table: make the hashes fit again."""
    hash_ = (await rig.store.hash_at(frm - 1)) or GENESIS
    for link in await rig.store.links(frm - 1, 10_000):
        hash_ = linked(hash_, link.entry)
        await rig.admin.execute(
            "UPDATE audit_events SET hash = $2 WHERE sequence = $1", link.entry.sequence, hash_
        )


async def edited_and_linked_anew(rig: Rig, chance: random.Random) -> None:
    sequence = chance.randint(1, COUNT)
    await rig.admin.execute("UPDATE audit_events SET user_id = 'user:eve' WHERE sequence = $1", sequence)
    await linked_anew(rig, sequence)


async def deleted(rig: Rig, chance: random.Random) -> None:
    await rig.admin.execute("DELETE FROM audit_events WHERE sequence = $1", chance.randint(1, COUNT))


async def closed_up(rig: Rig, chance: random.Random) -> None:
    sequence = chance.randint(1, COUNT)
    await rig.admin.execute("DELETE FROM audit_events WHERE sequence = $1", sequence)
    await moved(rig, sequence, -1)
    if chance.random() < 0.5:
        await linked_anew(rig, sequence)


async def moved(rig: Rig, beyond: int, by: int) -> None:
    # By way of numbers that nobody has: the key is unique at each row.
    await rig.admin.execute(
        "UPDATE audit_events SET sequence = sequence + 1000 WHERE sequence > $1", beyond - (by > 0)
    )
    await rig.admin.execute(
        "UPDATE audit_events SET sequence = sequence - 1000 + $1 WHERE sequence > 1000", by
    )


async def inserted(rig: Rig, chance: random.Random) -> None:
    sequence = chance.randint(1, COUNT)
    await moved(rig, sequence, 1)
    await rig.admin.execute(
        "INSERT INTO audit_events SELECT $1, gen_random_uuid(), event_time, record_time, service, action, outcome,"
        " user_id, organization_id, object, reason, details, hash FROM audit_events WHERE sequence = $2",
        sequence,
        sequence + 1,
    )
    if chance.random() < 0.5:
        await linked_anew(rig, sequence)


async def put_at_the_end(rig: Rig, chance: random.Random) -> None:
    await rig.admin.execute(
        "INSERT INTO audit_events SELECT $1, gen_random_uuid(), event_time, record_time, service, action, outcome,"
        " user_id, organization_id, object, reason, details, hash FROM audit_events WHERE sequence = $2",
        COUNT + 1,
        chance.randint(1, COUNT),
    )


async def swapped(rig: Rig, chance: random.Random) -> None:
    one, other = chance.sample(range(1, COUNT + 1), 2)
    await rig.admin.execute("UPDATE audit_events SET sequence = 1000 WHERE sequence = $1", one)
    await rig.admin.execute("UPDATE audit_events SET sequence = $1 WHERE sequence = $2", one, other)
    await rig.admin.execute("UPDATE audit_events SET sequence = $1 WHERE sequence = 1000", other)
    if chance.random() < 0.5:
        await linked_anew(rig, min(one, other))


async def cut_off(rig: Rig, chance: random.Random) -> None:
    await rig.admin.execute("DELETE FROM audit_events WHERE sequence >= $1", chance.randint(1, COUNT))


async def everything_gone(rig: Rig, _chance: random.Random) -> None:
    await rig.admin.execute("TRUNCATE audit_events")


async def a_head_gone(rig: Rig, chance: random.Random) -> None:
    await rig.admin.execute("DELETE FROM audit_heads WHERE number = $1", chance.randint(1, 3))


async def a_head_gone_and_renumbered(rig: Rig, chance: random.Random) -> None:
    number = chance.randint(1, 3)
    await rig.admin.execute("DELETE FROM audit_heads WHERE number = $1", number)
    await rig.admin.execute("UPDATE audit_heads SET number = number + 1000 WHERE number > $1", number)
    await rig.admin.execute("UPDATE audit_heads SET number = number - 1001 WHERE number > 1000")


async def a_head_copied(rig: Rig, chance: random.Random) -> None:
    one, other = chance.sample(range(1, 5), 2)
    await rig.admin.execute(
        "UPDATE audit_heads SET signed = (SELECT signed FROM audit_heads WHERE number = $1) WHERE number = $2",
        one,
        other,
    )


async def a_head_bent(rig: Rig, chance: random.Random) -> None:
    number = chance.randint(1, 4)
    signed: str = await rig.admin.fetchval("SELECT signed FROM audit_heads WHERE number = $1", number)
    at = chance.randrange(len(signed) - 1)  # The very last character has bits that say nothing.
    bent = signed[:at] + ("A" if signed[at] != "A" else "B") + signed[at + 1 :]
    await rig.admin.execute("UPDATE audit_heads SET signed = $1 WHERE number = $2", bent, number)


async def signed_by_a_stranger(rig: Rig, chance: random.Random) -> None:
    """All of it: an event changed, hashes that fit, and heads signed with a key of one's own, which is put in its place."""
    await edited_and_linked_anew(rig, chance)
    stranger = AuditSigner(Fernet(Fernet.generate_key()))
    key = stranger.make()
    stranger.load([key])
    await rig.admin.execute("DELETE FROM audit_keys")
    await rig.admin.execute("INSERT INTO audit_keys (key_id, sealed_key) VALUES ($1, $2)", *key)
    previous = GENESIS
    for head in await rig.store.heads(0, 100):
        hash_ = await rig.store.hash_at(head.sequence)
        assert hash_ is not None
        made = Head(number=head.number, place=Place(head.sequence, hash_), time_s=1, previous=previous)
        signed = stranger.sign(head_payload(made))
        previous = digest_of(signed)
        await rig.admin.execute("UPDATE audit_heads SET signed = $1 WHERE number = $2", signed, head.number)


WAYS: dict[str, Way] = {
    **{f"edited {column}": edited(column) for column in COLUMNS},
    **{
        way.__name__: way
        for way in (
            edited_and_linked_anew,
            deleted,
            closed_up,
            inserted,
            put_at_the_end,
            swapped,
            cut_off,
            everything_gone,
            a_head_gone,
            a_head_gone_and_renumbered,
            a_head_copied,
            a_head_bent,
            signed_by_a_stranger,
        )
    },
}


async def test_whatever_is_done_to_it_is_found(rig: Rig) -> None:
    await grown(rig)
    check = await rig.checked()
    assert (check.problem, check.entry_count, check.head_count) == (None, COUNT, 4)
    await rig.remember()
    for name, way in WAYS.items():
        for seed in SEEDS:
            await way(rig, random.Random(seed))
            check = await rig.checked()
            assert check.problem is not None, f"{name}, seed {seed}, was not found"
            await rig.restore()
    assert (await rig.checked()).problem is None, "and nothing is found where nothing was done"


async def test_what_was_changed_is_not_signed_over(rig: Rig) -> None:
    await grown(rig)
    await rig.store.append([record(100), record(101)])
    await rig.admin.execute("UPDATE audit_events SET object = 'x' WHERE sequence = $1", COUNT + 1)
    await rig.heads.sign_now()
    assert rig.heads.problem is not None
    assert rig.heads.problem.sequence == COUNT + 1
    last = await rig.store.head_at()
    assert last is not None
    assert last.sequence == COUNT


async def test_a_check_goes_on_from_what_is_known(rig: Rig) -> None:
    await grown(rig)
    for known in (1, 5, 12, 13, 30, COUNT):
        hash_ = await rig.store.hash_at(known)
        assert hash_ is not None
        check = await rig.checked(Place(known, hash_))
        assert (check.problem, check.entry_count) == (None, COUNT - known)
        assert check.place == (await rig.store.at())


async def test_events_that_nobody_signed_for_are_told_when_they_are_old(rig: Rig) -> None:
    await grown(rig)
    check = await rig.checked()
    check.signed_by(2**60)
    assert check.problem is None
    await rig.admin.execute("DELETE FROM audit_heads WHERE number = 4")
    check = await rig.checked()
    assert check.problem is None, "nothing in the database tells, for a while"
    recorded_us = (await rig.store.links(COUNT - 1, 1))[0].entry.record_time_us
    check.signed_by(recorded_us + 301_000_000)
    assert check.problem is not None


async def test_a_key_is_kept_under_a_new_encryption_key_and_reads_what_it_signed(database: Database) -> None:
    old, new = Fernet.generate_key(), Fernet.generate_key()
    async with audit_rig(database, key=old) as rig:
        await grown(rig)
        ((key_id, sealed),) = rig.signer.sealed().items()
        await rig.store.add_key(key_id, Fernet(new).encrypt(Fernet(old).decrypt(sealed)))
    async with audit_rig(database, key=new) as rig:
        check = await rig.checked()
        assert (check.problem, check.head_count) == (None, 4)
        head = await rig.store.head_at()
        assert head is not None
        payload = rig.signer.read(head.signed)
        assert payload is not None
        assert head_of(payload) is not None
