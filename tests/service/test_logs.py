"""What a log line never holds, whatever goes wrong: in ours, in a library's, in what nobody caught."""

import json
import subprocess
import sys
from typing import Any

import pytest

SECRET = "S3cretPassw0rd"
START = """
import asyncio, json, logging, sys, threading, warnings
import structlog
from services.common.logs.setup import configure_logging, learn_secrets, loop_failures_logged
configure_logging("auth")
log = structlog.get_logger("x")
secret = "S3cret" + "Passw0rd"
"""

IN_A_TASK = """
async def f():
    raise RuntimeError(secret)
async def main():
    loop_failures_logged(asyncio.get_running_loop())
    task = asyncio.create_task(f())
    await asyncio.wait([task])
    del task
    import gc; gc.collect()
    await asyncio.sleep(0)
asyncio.run(main())
"""


def logged(program: str, *, fails: bool = False) -> list[dict[str, Any]]:
    """The lines of a program's log, each of which must be JSON."""
    done = subprocess.run(
        [sys.executable, "-c", START + program], capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0) == fails, done.stderr
    assert SECRET not in done.stderr
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_bug_is_logged_without_the_values_it_met() -> None:
    (line,) = logged("""
def login(username, password):
    raise RuntimeError(f"it broke with {password}")
try:
    login("admin", secret)
except RuntimeError:
    log.exception("bug", method="Login")
""")
    assert line["event"] == "bug"
    assert line["method"] == "Login"
    assert line["service"] == "auth"
    assert line["level"] == "error"
    (failure,) = line["exception"]
    assert failure["type"] == "builtins.RuntimeError"
    assert failure["frames"][-1].endswith(" login")
    assert "text" not in failure


def test_text_of_our_own_errors_is_told_and_a_librarys_is_not() -> None:
    (line,) = logged("""
from services.common.errors import StoreUnavailable
from services.common.config import Environment
def made():
    try:
        json.loads("{" + secret)
    except ValueError as error:
        raise StoreUnavailable from error
try:
    made()
except StoreUnavailable as error:
    log.warning("refused", exc_info=error)
""")
    ours, library = line["exception"]
    assert ours["type"].endswith("StoreUnavailable")
    assert library["type"] == "json.decoder.JSONDecodeError"
    assert "text" not in library


def test_what_our_code_says_of_its_own_bugs_is_told() -> None:
    (line,) = logged("""
from services.common.logs.redaction import Redactor
from services.common.config import ConfigError, Environment
env = Environment({})
env.text("DATABASE_URL")
try:
    env.check()
except ConfigError:
    log.exception("misconfigured")
""")
    (failure,) = line["exception"]
    assert failure["text"] == "DATABASE_URL is not set"


def test_what_the_interpreter_raises_in_our_code_quotes_values_and_is_not_told() -> None:
    (line,) = logged(
        """
from services.common.jws import decoded
from services.common.logs.redaction import Redactor
try:
    Redactor().field(secret, None).missing
except AttributeError:
    log.exception("bug")
""".replace("from services.common.jws import decoded\n", "")
    )
    assert "text" not in line["exception"][0]


def test_codes_are_told() -> None:
    (line,) = logged("""
import asyncpg
error = asyncpg.UniqueViolationError(f"Key (name)=({secret}) already exists.")
try:
    raise error
except asyncpg.PostgresError:
    log.exception("bug")
try:
    open("/nonexistent/" + secret)
except OSError as error:
    text = error
""")
    assert line["exception"][0]["text"] == "sqlstate 23505"


def test_a_long_exception_of_a_library_says_nothing() -> None:
    (line,) = logged("""
try:
    json.loads(f"password={secret} " * 100_000)
except ValueError:
    logging.getLogger("lib").exception("cannot read %s", secret)
""")
    assert line["event"] == "library_log"
    assert line["logger"] == "lib"
    assert line["said"] == "cannot read %s"
    assert line["exception"][0]["type"] == "json.decoder.JSONDecodeError"


@pytest.mark.parametrize(
    ("program", "event", "fails"),
    [
        ("raise RuntimeError(secret)", "uncaught", True),
        (
            "def f():\n  raise RuntimeError(secret)\nt = threading.Thread(target=f, name='t')\nt.start(); t.join()",
            "uncaught",
            False,
        ),
        ("class A:\n  def __del__(self):\n    raise RuntimeError(secret)\nA()", "unraisable", False),
        (
            IN_A_TASK,
            "loop_failure",
            False,
        ),
        ("raise ExceptionGroup('two', [ValueError(secret), KeyError(secret)])", "uncaught", True),
    ],
)
def test_what_nobody_caught_is_one_line_like_all_others(program: str, event: str, *, fails: bool) -> None:
    (line,) = logged(program, fails=fails)
    assert line["event"] == event
    assert line["exception"]


def test_warnings_and_libraries_go_the_same_way() -> None:
    lines = logged("""
warnings.warn(f"password={secret}")
logging.getLogger("lib").warning(f"Authorization: Bearer {secret}")
logging.getLogger("lib").warning("sent %r", {"password": secret})
logging.getLogger("asyncio").error(f"Task exception was never retrieved\\nfuture: <Task {secret}>")
""")
    assert [line["event"] for line in lines] == ["library_log"] * 4
    assert [line["logger"] for line in lines] == ["py.warnings", "lib", "lib", "asyncio"]


def test_secrets_that_were_read_are_known() -> None:
    (line,) = logged("""
from services.common.config import Environment
env = Environment({"SECRET_KEY": "aaaa bbbb " * 4 + secret, "DATABASE_URL": f"postgresql://u:{secret}@h/d"})
env.secret("SECRET_KEY"), env.url("DATABASE_URL", "postgresql")
learn_secrets(env.secrets)
log.warning("x", said=f"the word is {secret}")
""")
    assert line["said"] == "the word is [redacted]"


def test_a_flood_is_bounded_and_told_at_the_end() -> None:
    lines = logged("""
for number in range(5000):
    log.warning("store_failed", number=number)
""")
    told = [line for line in lines if line["event"] == "store_failed"]
    assert 100 <= len(told) < 1000
    left_out = sum(line.get("left_out_count", 0) for line in told)
    left_out += sum(line["count"] for line in lines if line["event"] == "log_lines_left_out")
    assert len(told) + left_out == 5000


def test_levels_are_obeyed() -> None:
    lines = logged("""
configure_logging("auth", level=logging.WARNING)
log.debug("a"); log.info("b"); log.warning("c")
configure_logging("auth", level=logging.DEBUG)
structlog.get_logger("y").debug("d")
""")
    assert [line["event"] for line in lines] == ["c", "d"]
