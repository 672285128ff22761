"""What a log line never holds, whatever goes wrong."""

import subprocess
import sys

PROGRAM = """
import structlog
from services.common.telemetry import configure_logging
def login(username, password):
    raise RuntimeError("it broke")
configure_logging("auth")
try:
    login("admin", "S3cret" + "Passw0rd")
except RuntimeError:
    structlog.get_logger("x").exception("bug", method="Login")
"""


def test_a_bug_is_logged_without_the_values_it_met() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert "it broke" in done.stderr
    assert '"method": "Login"' in done.stderr
    assert "S3cretPassw0rd" not in done.stderr
