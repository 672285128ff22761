"""How much of a budget one gets, and how limits are written in configuration."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.auth.core.quotas import NOTHING, SHARE, Amount, Book, Kind, Limits, Subject, given
from services.auth.founding import HOME
from services.auth.quota_config import QuotaConfig
from services.auth.quota_metrics import QuotaMetrics
from services.auth.quotas import Quotas
from services.common.config import ConfigError, Environment
from services.common.errors import RoleRequired
from services.common.tokens import Caller, Role
from tests.fakes.quota_ledger import FakeLedger
from tests.fakes.trail import KeptTrail

AMOUNTS = st.integers(0, 1000)


@examples(
    st.dictionaries(st.sampled_from(Kind), st.tuples(st.none() | AMOUNTS, AMOUNTS, AMOUNTS)), AMOUNTS, AMOUNTS
)
def test_nobody_gets_more_than_anybody_has_left(
    books: Mapping[Kind, tuple[int | None, int, int]], needed: int, wanted: int
) -> None:
    found = given(
        {
            kind: Book(Limits(tokens_per_day=limit), Amount(used), Amount(reserved))
            for kind, (limit, used, reserved) in books.items()
        },
        Amount(needed),
        Amount(wanted),
    )
    lefts = [limit - used - reserved for limit, used, reserved in books.values() if limit is not None]
    assert found.limited == (bool(lefts), False, False)
    if not lefts:
        assert found.amount == NOTHING
        assert found.spent is None
        return
    left = min(lefts)
    assert 0 <= found.amount.token_count <= max(0, left)
    assert (found.spent is not None) == (left < needed and needed > 0)
    if found.spent is None and left >= needed:
        assert needed <= found.amount.token_count <= needed + min(wanted, (left - needed) // SHARE)


def test_limits_are_read_from_the_environment() -> None:
    env = Environment(
        {
            "OLLAMESH_QUOTAS": '{"organization": {"tokens_per_day": 5}, "api_key": {"requests_per_second": 1.5}}'
        }
    )
    found = QuotaConfig.read(env)
    env.check()
    assert found.defaults == {
        Kind.ORGANIZATION: Limits(tokens_per_day=5),
        Kind.API_KEY: Limits(requests_per_second=1.5),
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "is not a JSON object"),
        ("{", "is not a JSON object"),
        ('{"team": {}}', "none of organization"),
        ('{"project": 3}', "no object for it"),
        ('{"project": {"tokens": 3}}', "no limit called 'tokens'"),
        ('{"project": {"tokens_per_day": 1.5}}', "for tokens_per_day"),
        ('{"project": {"tokens_per_day": true}}', "for tokens_per_day"),
        ('{"project": {"requests_per_second": -1}}', "for requests_per_second"),
        ('{"project": {"gpu_seconds_per_day": NaN}}', "for gpu_seconds_per_day"),
    ],
)
def test_mistakes_in_limits_are_named(text: str, says: str) -> None:
    env = Environment({"OLLAMESH_QUOTAS": text})
    QuotaConfig.read(env)
    with pytest.raises(ConfigError) as wrong:
        env.check()
    assert says in str(wrong.value)


async def test_no_tenant_lifts_its_own_limits() -> None:
    ledger = FakeLedger()
    quotas = Quotas(ledger, {}, KeptTrail(), QuotaMetrics(CollectorRegistry()))
    tenant = Caller("user:eve", Role.ADMIN, "acme", "p", "login", frozenset(), "t", 0, "")
    own = Subject(Kind.ORGANIZATION, "acme", "acme")
    with pytest.raises(RoleRequired):
        await quotas.set(tenant, own, Limits())
    await quotas.set(tenant, Subject(Kind.PROJECT, "acme", "p"), Limits(tokens_per_day=1))
    await quotas.set(replace(tenant, organization_id=HOME), own, Limits(tokens_per_day=5))
    assert (await quotas.get(tenant, own)).book.limits == Limits(tokens_per_day=5)
