"""What is wrong with the environment is named all at once, and no value with it."""

from pathlib import Path

import pytest

from services.common.config import ConfigError, Environment
from services.inference.config import Config, DatabaseConfig
from services.inference.core.catalog import ModelConfig


def read(**variables: str) -> Config:
    env = Environment({"OLLAMESH_INSECURE_INSIDE": "true", **variables})
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
    assert (config.slots_per_instance, config.scheduling.waiting_max, config.api_key) == (4, 100, None)
    bounds = config.policies.bounds(["user"])
    assert (bounds.prompt_code_points_max, bounds.temperature_max) == (10_000, 1)
    assert (bounds.timeout_s_min, bounds.timeout_s_max) == (5, 300)
    assert config.catalog.runner("llama3.2:3b") == {}
    assert config.catalog.keep_alive_s("llama3.2:3b") == 300
    assert config.timeouts.load_s == 300


def test_a_database_is_optional_and_must_be_one() -> None:
    assert read(OLLAMA_HOSTS="gpu-1").database is None
    dsn = "postgresql://ollamesh_inference:secret@127.0.0.1/ollamesh"
    given = read(OLLAMA_HOSTS="gpu-1", DATABASE_URL=dsn, OLLAMESH_INFERENCE_CONNECTIONS_MAX="3")
    assert given.database == DatabaseConfig(
        url=dsn, connections_max=3, usage_backlog_max=20_000, usage_kept_days=400
    )
    assert "secret" not in repr(given)
    (mistake,) = mistakes(OLLAMA_HOSTS="gpu-1", DATABASE_URL="mysql://secret")
    assert "DATABASE_URL" in mistake
    assert "secret" not in mistake


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


# Models

LLAMA = """{"Llama3.2:3b": {
  "context_tokens": 8192, "slots": 2, "keep_alive_s": 3600, "vram_bytes": 4000000000,
  "runner": {"num_gpu": 99, "num_batch": 512, "use_mmap": false}
}, "mistral": {}}"""


def read_models(text: str, **variables: str) -> Config:
    return read(OLLAMA_HOSTS="gpu-1", OLLAMESH_MODELS=text, **variables)


def test_each_model_can_be_run_in_a_way_of_its_own(tmp_path: Path) -> None:
    (path := tmp_path / "models.json").write_text(LLAMA)
    catalog = read(
        OLLAMA_HOSTS="gpu-1", OLLAMESH_MODELS_FILE=str(path), OLLAMESH_CONTEXT_TOKENS="4096"
    ).catalog
    runner = {"num_gpu": 99, "num_batch": 512, "use_mmap": False}
    assert catalog.of("llama3.2:3b") == ModelConfig(
        context_token_count=8192, slots_max=2, keep_alive_s=3600, vram_bytes=4_000_000_000, runner=runner
    )
    assert catalog.runner("llama3.2:3b") == {"num_ctx": 8192, **runner}
    assert catalog.keep_alive_s("llama3.2:3b") == 3600
    for other in ("mistral:latest", "unknown:latest"):
        assert catalog.runner(other) == {"num_ctx": 4096}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"tiny": 1}', "something else than an object for 'tiny'"),
        ('{"two words": {}}', "no model's name: 'two words'"),
        ('{"a\\nb": {}}', r"no model's name: 'a\nb'"),
        ('{"mistral:latest": {}, "Mistral": {}}', "two spellings: 'Mistral'"),
        ('{"tiny": {}, "tiny": {}}', "a key twice: 'tiny'"),
        ('{"tiny": {"slot": 1}}', "an unknown key in 'tiny': 'slot'"),
        ('{"tiny": {"slots": "four"}}', "a slots in 'tiny' that is not a whole number"),
        ('{"tiny": {"slots": true}}', "a slots in 'tiny' that is not a whole number"),
        ('{"tiny": {"slots": 0}}', "a slots in 'tiny' that is not between 1 and 1024"),
        ('{"tiny": {"keep_alive_s": NaN}}', "a keep_alive_s in 'tiny' that is not between 1 and"),
        ('{"tiny": {"keep_alive_s": null}}', "a keep_alive_s in 'tiny' that is not a number"),
        ('{"tiny": {"runner": []}}', "something else than an object for 'tiny'.runner"),
        (
            '{"tiny": {"runner": {"num_ctx": 1}}}',
            "a num_ctx in 'tiny'.runner: its name here is context_tokens",
        ),
        ('{"tiny": {"runner": {"temperature": 1}}}', "an unknown key in 'tiny'.runner: 'temperature'"),
        ('{"tiny": {"runner": {"use_mmap": 1}}}', "a use_mmap in 'tiny'.runner that is not true or false"),
        ('{"tiny": {"runner": {"num_gpu": -2}}}', "a num_gpu in 'tiny'.runner that is not between -1 and"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(text: str, why: str) -> None:
    (mistake,) = mistakes(OLLAMA_HOSTS="gpu-1", OLLAMESH_MODELS=text)
    assert mistake.startswith("OLLAMESH_MODELS ")
    assert why in mistake


def test_every_mistake_in_a_table_is_named_at_once_and_no_value() -> None:
    found = mistakes(
        OLLAMA_HOSTS="gpu-1",
        OLLAMESH_MODELS='{"tiny": {"slots": "secret", "speed": "secret", "runner": {"num_gpu": "secret"}}, "a b": {}}',
        OLLAMESH_POLICY='{"admin": {"temperature_max": "secret"}}',
    )
    assert len(found) == 5
    assert "secret" not in str(found)


def test_how_long_models_stay_is_bounded_and_the_bounds_make_sense() -> None:
    config = read(OLLAMA_HOSTS="gpu-1", OLLAMESH_KEEP_ALIVE_S="900", OLLAMESH_KEEP_ALIVE_MIN_S="600")
    assert config.catalog.keep_alive_s("tiny:latest") == 900
    assert config.catalog.keep_alive_s("tiny:latest", 0) == 600
    (mistake,) = mistakes(OLLAMA_HOSTS="gpu-1", OLLAMESH_KEEP_ALIVE_S="10")
    assert mistake.startswith("OLLAMESH_KEEP_ALIVE_S")


# Policy


def test_roles_can_have_bounds_of_their_own() -> None:
    policies = read(
        OLLAMA_HOSTS="gpu-1",
        OLLAMESH_TEMPERATURE_MAX="0.5",
        OLLAMESH_POLICY="""{"admin": {"temperature_max": 2, "prompt_code_points_max": 100000,
                            "timeout_s_max": 3600, "timeout_s_min": 1, "output_tokens_max": 100000},
                            "service": {"timeout_s_max": 600}}""",
    ).policies
    assert policies.bounds(["user"]) == policies.bounds([]) == policies.default
    assert policies.default.temperature_max == 0.5
    admin = policies.bounds(["admin"])
    assert (admin.temperature_max, admin.prompt_code_points_max) == (2, 100_000)
    assert (admin.timeout_s_min, admin.timeout_s_max, admin.output_token_count_max) == (1, 3600, 100_000)
    service = policies.bounds(["user", "service"])
    assert (service.temperature_max, service.timeout_s_max) == (0.5, 600)


def test_a_role_can_be_narrowed_too() -> None:
    policies = read(OLLAMA_HOSTS="gpu-1", OLLAMESH_POLICY='{"user": {"temperature_max": 0.2}}').policies
    assert policies.bounds(["user"]).temperature_max == 0.2
    assert policies.bounds(["admin"]).temperature_max == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"root": {}}', "no role: 'root'"),
        ('{"admin": {"temperature": 1}}', "an unknown key in 'admin': 'temperature'"),
        ('{"admin": {"temperature_max": 2.1}}', "a temperature_max in 'admin' that is not between 0 and 2"),
        ('{"admin": {"prompt_code_points_max": 0}}', "a prompt_code_points_max in 'admin'"),
        ('{"admin": {"timeout_s_max": 2}}', "a timeout_s_min in 'admin' above its timeout_s_max"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said(text: str, why: str) -> None:
    (mistake,) = mistakes(OLLAMA_HOSTS="gpu-1", OLLAMESH_POLICY=text)
    assert mistake.startswith("OLLAMESH_POLICY ")
    assert why in mistake
    assert mistakes(OLLAMA_HOSTS="gpu-1", OLLAMESH_TIMEOUT_MAX_S="4")


def test_every_process_has_its_port() -> None:
    one = read(OLLAMA_HOSTS="gpu-1", OLLAMESH_INFERENCE_PORTS="7001")
    assert (one.server.port, one.ports) == (7001, (7001,))
    assert read(OLLAMA_HOSTS="gpu-1", OLLAMESH_INFERENCE_PROCESSES="2").ports == (50053, 50063)
    (mistake,) = mistakes(OLLAMA_HOSTS="gpu-1", OLLAMESH_INFERENCE_PROCESSES="0")
    assert "OLLAMESH_INFERENCE_PROCESSES" in mistake
