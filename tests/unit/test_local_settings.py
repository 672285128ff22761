"""What is read from the environment, and what is handed on to the parts."""

from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local.environments import for_programs
from deploy.local.errors import SettingsError
from deploy.local.settings import DEFAULT_PORTS, ROOT, Settings


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = Settings.from_env({})
    assert settings.home == ROOT / ".ollamesh"
    assert settings.cache == ROOT / ".ollamesh" / "cache"
    assert settings.bind == "127.0.0.1"
    assert settings.ports == DEFAULT_PORTS
    assert (settings.ollama_hosts, settings.ollama_gpus) == ("", "")
    assert settings.look_for_ollama is True


def test_every_port_has_its_variable() -> None:
    env = {f"OLLAMESH_{name.upper()}_PORT": str(1000 + port % 1000) for name, port in DEFAULT_PORTS.items()}
    assert Settings.from_env(env).ports == {name: 1000 + port % 1000 for name, port in DEFAULT_PORTS.items()}


@pytest.mark.parametrize(
    ("env", "hosts"),
    [
        ({"OLLAMA_HOST": "http://a:1"}, "http://a:1"),
        ({"OLLAMA_HOSTS": "http://a:1,http://b:1", "OLLAMA_HOST": "http://c:1"}, "http://a:1,http://b:1"),
    ],
)
def test_a_given_ollama_is_taken_as_it_is(env: dict[str, str], hosts: str) -> None:
    assert Settings.from_env(env).ollama_hosts == hosts


def test_mistakes_are_named_together_and_without_values() -> None:
    env = {
        "OLLAMESH_EDGE_PORT": "eighty",
        "OLLAMESH_AUTH_PORT": "70000",
        "OLLAMESH_EMBEDDED_MODELS": "perhaps",
    }
    with pytest.raises(SettingsError) as failure:
        Settings.from_env(env)
    assert all(name in str(failure.value) for name in env)
    assert not any(value in str(failure.value) for value in env.values())


def test_settings_travel_through_an_environment() -> None:
    settings = Settings.from_env(
        {
            "OLLAMESH_HOME": "/h",
            "OLLAMESH_CACHE": "/c",
            "OLLAMESH_BIND": "::1",
            "OLLAMESH_EDGE_PORT": "1",
            "OLLAMA_HOST": "http://a",
            "OLLAMA_GPUS": "0,1",
        }
    )
    again = Settings.from_env(settings.variables())
    assert {name: getattr(again, name) for name in Settings.__slots__ if name != "inherited"} == {
        name: getattr(settings, name) for name in Settings.__slots__ if name != "inherited"
    }


def test_parts_inherit_what_they_may_need_and_no_secret_of_anybody() -> None:
    shell = {
        "PATH": "/bin",
        "LC_ALL": "C.UTF-8",
        "https_proxy": "http://proxy:1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:1",
        "OLLAMESH_LOG_LEVEL": "debug",
        "OLLAMA_KEEP_ALIVE": "1h",
        "AWS_SECRET_ACCESS_KEY": "a",
        "DATABASE_URL": "postgresql://another.project/",
        "OLLAMA_API_KEY": "b",
        "OLLAMESH_ADMIN_PASSWORD": "c",
        "PGPORT": "1",
    }
    env = for_programs(shell, {"OLLAMESH_LOG_LEVEL": "info"}, {"DATABASE_URL": Path("/s/url")})
    assert env.pop("no_proxy") == env.pop("NO_PROXY") == "127.0.0.1,localhost"
    assert env == {
        "PATH": "/bin",
        "LC_ALL": "C.UTF-8",
        "https_proxy": "http://proxy:1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:1",
        "OLLAMA_KEEP_ALIVE": "1h",
        "PYTHONUNBUFFERED": "1",
        "OLLAMESH_LOG_LEVEL": "info",
        "DATABASE_URL_FILE": "/s/url",
    }


def test_what_the_stack_sets_beats_what_was_inherited_in_either_spelling() -> None:
    shell = {
        "OLLAMESH_ADMIN_PASSWORD_FILE": "/theirs",
        "OLLAMESH_AUTH_PORT": "1",
        "OLLAMESH_AUTH_PORT_FILE": "/x",
    }
    env = for_programs(shell, {"OLLAMESH_AUTH_PORT": 2}, {"OLLAMESH_ADMIN_PASSWORD": Path("/ours")})
    assert env["OLLAMESH_ADMIN_PASSWORD_FILE"] == "/ours"
    assert env["OLLAMESH_AUTH_PORT"] == "2"
    assert "OLLAMESH_AUTH_PORT_FILE" not in env


def test_processes_of_the_inference_service_have_ports_of_their_own() -> None:
    settings = Settings.from_env({"OLLAMESH_INFERENCE_PROCESSES": "3", "OLLAMESH_INFERENCE_PORT": "6000"})
    assert {name: settings.ports[name] for name in ("inference", "inference_2", "inference_3")} == {
        "inference": 6000,
        "inference_2": 6010,
        "inference_3": 6020,
    }
    assert Settings.from_env(settings.variables()).ports == settings.ports
    resolved = replace(settings, ports={**settings.ports, "inference_2": 7000})
    assert Settings.from_env(resolved.variables()).ports == resolved.ports, "what was found travels too"
    with pytest.raises(SettingsError, match="OLLAMESH_INFERENCE_PORTS"):
        Settings.from_env({"OLLAMESH_INFERENCE_PROCESSES": "3", "OLLAMESH_INFERENCE_PORTS": "1,2"})
