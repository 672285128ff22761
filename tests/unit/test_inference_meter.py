"""Books that always add up, held against an integration of their own over every interval."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.meter import OTHER, Books, Charge, Meter

INSTANCES = ("gpu-0", "gpu-1")
TENANTS = ("a", "b", "c")

steps = st.lists(
    st.tuples(
        st.sampled_from(("start", "start", "stop", "load_began", "load_ended", "books")),
        st.floats(min_value=0.0, max_value=100.0),  # Seconds until then.
        st.sampled_from(INSTANCES),
        st.sampled_from(TENANTS),
        st.integers(min_value=0, max_value=9),  # Which of the running jobs stops.
        st.none() | st.floats(min_value=0.0, max_value=2.0),  # How much of its wall time was work.
    ),
    max_size=60,
)


@dataclass(slots=True)
class Running:
    instance: str
    tenant: str
    share_s: float = 0.0
    wall_s: float = 0.0


@dataclass(slots=True)
class Integration:
    """Walks over all that runs in every interval, as the meter must not."""

    running: dict[int, Running] = field(default_factory=dict)
    loads: Counter[str] = field(default_factory=Counter)
    tenants: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    idle_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    load_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    wall_s: float = 0.0

    def pass_by(self, passed_s: float) -> None:
        self.wall_s += passed_s
        for instance in INSTANCES:
            busy = [run for run in self.running.values() if run.instance == instance]
            for run in busy:
                run.share_s += passed_s / len(busy)
                run.wall_s += passed_s
            if not busy:
                (self.load_s if self.loads[instance] else self.idle_s)[instance] += passed_s

    def stop(self, ticket: int, work_s: float | None) -> Charge:
        run = self.running.pop(ticket)
        worked = 1.0 if work_s is None or not run.wall_s else min(1.0, work_s / run.wall_s)
        self.tenants[run.instance, run.tenant] += run.share_s * worked
        self.idle_s[run.instance] += run.share_s * (1.0 - worked)
        batch = run.wall_s / run.share_s if run.share_s else 1.0
        return Charge(gpu_s=run.share_s * worked, wall_s=run.wall_s, batch=batch)

    def books(self, instance: str) -> Books:
        tenants: defaultdict[str, float] = defaultdict(float)
        for (where, tenant), gpu_s in self.tenants.items():
            tenants[tenant] += gpu_s if where == instance else 0.0
        for run in self.running.values():
            tenants[run.tenant] += run.share_s if run.instance == instance else 0.0
        return Books(
            tenants=tenants,
            idle_s=self.idle_s[instance],
            load_s=self.load_s[instance],
            wall_s=self.wall_s,
        )


def assert_same(found: Books, wanted: Books) -> None:
    assert found.idle_s == pytest.approx(wanted.idle_s, abs=1e-6)
    assert found.load_s == pytest.approx(wanted.load_s, abs=1e-6)
    assert found.wall_s == pytest.approx(wanted.wall_s, abs=1e-6)
    for tenant in TENANTS:
        assert found.tenants.get(tenant, 0.0) == pytest.approx(wanted.tenants[tenant], abs=1e-6)
    total_s = sum(found.tenants.values()) + found.idle_s + found.load_s
    assert total_s == pytest.approx(found.wall_s, abs=1e-6)


@given(steps, st.floats(min_value=0.0, max_value=1e8))
def test_books_are_those_of_an_integration(
    happenings: list[tuple[str, float, str, str, int, float | None]], now_s: float
) -> None:
    meter, wanted = Meter(), Integration()
    for instance in INSTANCES:
        meter.watch(instance, now_s)
    for ticket, (happening, passed_s, instance, tenant, which, worked) in enumerate(happenings):
        now_s += passed_s
        wanted.pass_by(passed_s)
        match happening:
            case "start":
                meter.start(instance, ticket, tenant, now_s)
                wanted.running[ticket] = Running(instance, tenant)
            case "stop" if wanted.running:
                stopped = list(wanted.running)[which % len(wanted.running)]
                work_s = None if worked is None else worked * wanted.running[stopped].wall_s
                charge = meter.stop(stopped, now_s, work_s=work_s)
                expected = wanted.stop(stopped, work_s)
                assert charge.gpu_s == pytest.approx(expected.gpu_s, rel=1e-4, abs=1e-6)
                assert charge.wall_s == pytest.approx(expected.wall_s, abs=1e-6)
                if charge.wall_s > 1e-2:  # Of shorter ones, float has too little at 1e8 seconds.
                    assert charge.batch == pytest.approx(expected.batch, rel=1e-4)
            case "load_began":
                meter.load_began(instance, now_s)
                wanted.loads[instance] += 1
            case "load_ended" if wanted.loads[instance]:
                meter.load_ended(instance, now_s)
                wanted.loads[instance] -= 1
        books = meter.books(now_s)
        for each in INSTANCES:
            assert_same(books[each], wanted.books(each))


def test_jobs_share_what_they_have_together() -> None:
    meter = Meter()
    meter.watch("gpu", 0.0)
    meter.start("gpu", 1, "a", 10.0)
    meter.start("gpu", 2, "b", 12.0)
    first = meter.stop(1, 16.0, work_s=None)
    second = meter.stop(2, 17.0, work_s=None)
    assert first == Charge(gpu_s=4.0, wall_s=6.0, batch=1.5)
    assert second == Charge(gpu_s=3.0, wall_s=5.0, batch=5 / 3)
    assert meter.books(20.0)["gpu"] == Books(
        tenants={"a": 4.0, "b": 3.0}, idle_s=13.0, load_s=0.0, wall_s=20.0
    )


def test_a_tenant_pays_for_work_and_not_for_its_slot() -> None:
    meter = Meter()
    meter.start("gpu", 1, "a", 0.0)
    assert meter.stop(1, 8.0, work_s=2.0) == Charge(gpu_s=2.0, wall_s=8.0, batch=1.0)
    assert meter.books(8.0)["gpu"] == Books(tenants={"a": 2.0}, idle_s=6.0, load_s=0.0, wall_s=8.0)


def test_loading_beside_work_is_the_works_time() -> None:
    meter = Meter()
    meter.load_began("gpu", 0.0)
    meter.start("gpu", 1, "a", 3.0)
    meter.stop(1, 5.0, work_s=None)
    meter.load_ended("gpu", 9.0)
    meter.load_ended("gpu", 10.0)  # Once too often, as after a restart: of no effect.
    meter.load_began("gpu", 11.0)
    assert meter.books(14.0)["gpu"] == Books(tenants={"a": 2.0}, idle_s=2.0, load_s=10.0, wall_s=14.0)


def test_a_clock_that_goes_back_stands_still() -> None:
    meter = Meter()
    meter.start("gpu", 1, "a", 10.0)
    assert meter.stop(1, 4.0, work_s=1.0) == Charge(gpu_s=0.0, wall_s=0.0, batch=1.0)
    assert meter.books(11.0)["gpu"] == Books(tenants={"a": 0.0}, idle_s=1.0, load_s=0.0, wall_s=1.0)


def test_tenants_beyond_the_maximum_are_one() -> None:
    meter = Meter(tenants_max=2)
    for ticket, tenant in enumerate(("a", "b", "c", "d", "a")):
        meter.start(f"gpu-{ticket % 2}", ticket, tenant, float(ticket))
        meter.stop(ticket, ticket + 1.0, work_s=None)
    books = meter.books(5.0)
    assert dict(books["gpu-0"].tenants) == {"a": 2.0, OTHER: 1.0}
    assert dict(books["gpu-1"].tenants) == {"b": 1.0, OTHER: 1.0}
    for each in books.values():
        assert sum(each.tenants.values()) + each.idle_s + each.load_s == each.wall_s


def test_watching_again_does_not_begin_again() -> None:
    meter = Meter()
    meter.watch("gpu", 0.0)
    meter.watch("gpu", 5.0)
    assert meter.books(6.0)["gpu"].wall_s == 6.0


def test_who_asks_for_the_books_changes_no_charge() -> None:
    asked, alone = Meter(), Meter()
    for meter in (asked, alone):
        for ticket in range(3):
            meter.start("gpu", ticket, "a", 0.1)
    for step in range(1, 1000):
        asked.books(0.1 + step / 700)
    assert asked.stop(0, 1.9, work_s=None) == alone.stop(0, 1.9, work_s=None)
    assert asked.books(2.3) == alone.books(2.3)
