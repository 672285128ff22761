"""OLLAMA_GPUS in the environment: what is run, and what is wrong with it."""

import os
from pathlib import Path

import pytest

from services.common.config import ConfigError, Environment
from services.inference.config import Config


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "ollama").touch(mode=0o755)
    return tmp_path / "ollama"


def read(program: Path, *, gpu_count: int = 0, **variables: str) -> Config:
    env = Environment({"PATH": str(program.parent), "OLLAMESH_INSECURE_INSIDE": "true", **variables})
    config = Config.read(env, gpu_count=lambda: gpu_count)
    env.check()
    return config


def test_each_gpu_is_an_instance_of_its_own(program: Path) -> None:
    config = read(program, OLLAMA_GPUS="2", OLLAMESH_INSTANCE_SLOTS="8", OLLAMA_KEEP_ALIVE="9m")
    assert [endpoint.name for endpoint in config.endpoints] == ["127.0.0.1:11434", "127.0.0.1:11435"]
    assert [serving.gpu for serving in config.servings] == ["0", "1"]
    assert config.servings[1].variables["OLLAMA_NUM_PARALLEL"] == "8"
    assert config.servings[1].variables["OLLAMA_KEEP_ALIVE"] == "9m"
    assert config.ollama_binary == str(program)


def test_all_means_those_that_are_there(program: Path) -> None:
    assert len(read(program, gpu_count=3, OLLAMA_GPUS="all", OLLAMESH_RUNTIME_PORT="20000").servings) == 3


def test_they_come_on_top_of_given_hosts_but_not_of_ollamas_own_variable(program: Path) -> None:
    config = read(program, OLLAMA_GPUS="1", OLLAMA_HOSTS="gpu-9")
    assert [endpoint.name for endpoint in config.endpoints] == ["127.0.0.1:11434", "gpu-9:11434"]
    config = read(program, OLLAMA_GPUS="1", OLLAMA_HOST="0.0.0.0")
    assert [endpoint.name for endpoint in config.endpoints] == ["127.0.0.1:11434"]


def test_without_gpus_nothing_is_looked_for(program: Path) -> None:
    def asked() -> int:
        raise AssertionError("the driver is asked for nothing")

    env = Environment({"OLLAMA_HOSTS": "gpu-1", "OLLAMESH_INSECURE_INSIDE": "true"})
    config = Config.read(env, gpu_count=asked)
    env.check()
    assert (config.servings, config.ollama_binary) == ((), "")


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"OLLAMA_GPUS": "all"}, "OLLAMA_GPUS is `all`, but no NVIDIA GPU is to be seen here"),
        ({"OLLAMA_GPUS": "a,b"}, "OLLAMA_GPUS has an entry that is neither"),
        ({"OLLAMA_GPUS": "1", "PATH": os.devnull}, "OLLAMA_GPUS needs `ollama` on PATH"),
        (
            {"OLLAMA_GPUS": "1", "OLLAMESH_OLLAMA_BINARY": "/nowhere"},
            "OLLAMESH_OLLAMA_BINARY is not a program",
        ),
        ({"OLLAMA_GPUS": "1", "OLLAMA_HOSTS": "127.0.0.1"}, "OLLAMA_HOSTS names an instance twice"),
        ({"OLLAMA_GPUS": "1", "OLLAMESH_RUNTIME_PORT": "0"}, "OLLAMESH_RUNTIME_PORT is not between"),
    ],
)
def test_what_is_wrong_is_one_sentence(program: Path, variables: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(program, gpu_count=0, **variables)
    (mistake,) = refused.value.mistakes
    assert mistake.startswith(why)


def test_the_memory_of_an_instance_can_be_told(program: Path) -> None:
    config = read(program, OLLAMA_HOSTS="gpu-1", OLLAMESH_INSTANCE_VRAM_BYTES="24000000000")
    assert config.vram_bytes_per_instance == 24_000_000_000
    assert read(program, OLLAMA_HOSTS="gpu-1").vram_bytes_per_instance == 0
