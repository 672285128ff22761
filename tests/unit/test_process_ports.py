"""Where several processes of a service listen."""

import pytest

from services.common.config import ConfigError, Environment
from services.common.process_ports import process_ports


def ports(**variables: str) -> tuple[int, ...]:
    env = Environment({f"OLLAMESH_X_{name}": value for name, value in variables.items()})
    found = process_ports(env, "x", default=100)
    env.check()
    return found


def test_one_process_is_where_the_service_is() -> None:
    assert ports() == (100,)
    assert ports(PORT="7") == (7,)
    assert ports(PORT="7", PORTS="8") == (8,)


def test_others_are_ten_apart_or_where_the_list_says() -> None:
    assert ports(PROCESSES="3") == (100, 110, 120)
    assert ports(PROCESSES="2", PORTS="5, 4") == (5, 4)
    assert ports(PROCESSES="3", PORT="0") == (0, 0, 0)
    assert ports(PROCESSES="2", PORTS="0,0") == (0, 0)


@pytest.mark.parametrize(
    "variables",
    [
        {"PROCESSES": "0"},
        {"PROCESSES": "65"},
        {"PROCESSES": "2", "PORTS": "5"},
        {"PORTS": "5,6"},
        {"PROCESSES": "2", "PORTS": "5,5"},
        {"PROCESSES": "2", "PORTS": "5,"},
        {"PROCESSES": "2", "PORTS": "5,70000"},
        {"PROCESSES": "2", "PORTS": "5,-6"},
        {"PROCESSES": "2", "PORTS": "5,²"},
        {"PROCESSES": "2", "PORT": "65530"},
    ],
)
def test_what_cannot_be_is_refused(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as refused:
        ports(**variables)
    assert len(refused.value.mistakes) == 1


def test_where_it_must_be_known_none_is_free_to_choose() -> None:
    env = Environment({"OLLAMESH_X_PROCESSES": "2", "OLLAMESH_X_PORTS": "0,0"})
    process_ports(env, "x", default=100, low=1)
    with pytest.raises(ConfigError):
        env.check()
