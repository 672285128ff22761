"""What is wrong with the environment is named all at once, and no value with it."""

import pytest

from services.common.config import ConfigError, Environment
from services.inference.config import Config


def read(**variables: str) -> Config:
    env = Environment(variables)
    config = Config.read(env)
    env.check()
    return config


def mistakes(**variables: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        read(**variables)
    return refused.value.mistakes


def test_defaults_need_nothing_but_an_instance() -> None:
    config = read(OLLAMA_HOSTS="http://gpu-1:11434, gpu-2 ,https://ollama.example")
    assert [endpoint.name for endpoint in config.endpoints] == [
        "gpu-1:11434",
        "gpu-2:11434",
        "ollama.example:443",
    ]
    assert (config.server.port, config.server.metrics_port) == (50053, 9463)
    assert (config.slots_per_instance, config.waiting_max, config.api_key) == (4, 100, None)
    assert (config.bounds.prompt_code_points_max, config.bounds.temperature_max) == (10_000, 1)


def test_ollamas_own_variable_names_one_instance() -> None:
    assert read(OLLAMA_HOST="gpu-1").endpoints[0].name == "gpu-1:11434"
    assert read(OLLAMA_HOST="gpu-1", OLLAMA_HOSTS="gpu-2").endpoints[0].name == "gpu-2:11434"


def test_every_mistake_is_named_and_no_value() -> None:
    found = mistakes(
        OLLAMA_HOSTS="http://gpu-1,ftp://secret-host,gpu-1:80",
        OLLAMESH_INSTANCE_SLOTS="0",
        OLLAMESH_TEMPERATURE_MAX="hot-secret",
        OLLAMESH_POLL_EVERY_S="NaN",
    )
    assert len(found) == 5
    for name in ("number 2", "number 3", "INSTANCE_SLOTS", "TEMPERATURE_MAX", "POLL_EVERY_S"):
        assert any(name in mistake for mistake in found), name
    assert "secret" not in str(found)


@pytest.mark.parametrize("hosts", ["", ","])
def test_without_an_instance_there_is_nothing_to_serve(hosts: str) -> None:
    (mistake,) = mistakes(OLLAMA_HOSTS=hosts)
    assert mistake.startswith("OLLAMA_HOSTS")


def test_the_key_of_the_instances_is_not_shown() -> None:
    assert "sesame" not in repr(read(OLLAMA_HOSTS="gpu-1", OLLAMA_API_KEY="sesame"))
