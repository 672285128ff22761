"""The environment is read whole, every mistake is named, and no value ever is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.config import ConfigError, Environment


def mistakes(env: Environment) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        env.check()
    return caught.value.mistakes


def test_all_mistakes_are_named_at_once_and_no_value() -> None:
    env = Environment(
        {"SECRET_KEY": "hunter2", "PORT": "eighty", "REDIS_URL": "http://hunter2", "WAIT_S": "-1"}
    )
    env.secret("SECRET_KEY")
    env.integer("PORT", 80)
    env.url("REDIS_URL", "redis", "rediss")
    env.seconds("WAIT_S", 1)
    env.text("DATABASE_URL")
    named = mistakes(env)
    assert [mistake.split()[0] for mistake in named] == [
        "SECRET_KEY",
        "PORT",
        "REDIS_URL",
        "WAIT_S",
        "DATABASE_URL",
    ]
    assert not any("hunter2" in mistake for mistake in named)


def test_a_value_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k" * 32 + "\n")
    env = Environment({"SECRET_KEY_FILE": str(tmp_path / "key")})
    assert env.secret("SECRET_KEY") == "k" * 32
    env.check()


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    env = Environment({"SECRET_KEY_FILE": str(tmp_path / "nothing")})
    env.optional("SECRET_KEY")
    assert mistakes(env) == ("SECRET_KEY_FILE cannot be read: No such file or directory",)


def test_blank_is_unset() -> None:
    assert Environment({"NAME": "  "}).text("NAME", "default") == "default"


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_number_is_within_its_bounds_or_a_mistake(value: float) -> None:
    env = Environment({"WAIT_S": repr(value)})
    read = env.seconds("WAIT_S", 5, low=1, high=10)
    if 1 <= value <= 10:
        assert read == value
        env.check()
    else:
        assert read == 5
        assert mistakes(env) == ("WAIT_S is not between 1 and 10",)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("FALSE", False), ("0", False)])
def test_flags(text: str, value: bool) -> None:  # noqa: FBT001
    assert Environment({"FLAG": text}).flag("FLAG", default=not value) is value
