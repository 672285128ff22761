"""Every file of attacks uses the same services, and attacks the same things. It has its attacks in `CASES`, and says with
`ENGINES` if they are for some engines only.
"""

from collections.abc import Iterator

import pytest
from _pytest.mark.structures import ParameterSet

from tests.sandbox_attacks import outside as outside_module
from tests.sandbox_attacks import place as place_module
from tests.sandbox_attacks.case import Case
from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.place import ENGINES, EVERYWHERE, Place, Places, Where


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case` is each attack in each place that it is for, and `weak_case` each that has to succeed in a weakened jail."""
    cases = getattr(metafunc.module, "CASES", ())
    if "case" in metafunc.fixturenames:
        pairs = [_pair(case, where) for case in cases for where in EVERYWHERE if where.is_for(case)]
        metafunc.parametrize(("case", "where"), pairs)
    elif "weak_case" in metafunc.fixturenames:
        metafunc.parametrize("weak_case", [case for case in cases if case.weak is not None], ids=str)
    elif "where" in metafunc.fixturenames:
        engines = getattr(metafunc.module, "ENGINES", ENGINES)
        metafunc.parametrize("where", [where for where in EVERYWHERE if where.engine in engines], ids=str)


def _pair(case: Case, where: Where) -> ParameterSet:
    reason = case.broken.get(where.user)
    marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
    return pytest.param(case, where, id=f"{case}-{where}", marks=marks)


@pytest.fixture(scope="session")
def places() -> Iterator[Places]:
    with place_module.places() as made:
        yield made


@pytest.fixture(scope="session")
def outside() -> Iterator[Outside]:
    with outside_module.outside() as made:
        yield made


@pytest.fixture
def place(where: Where, places: Places) -> Place:
    return places.at(where)
