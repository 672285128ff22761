"""The configuration is what it was when somebody last looked at it: `make golden` writes it anew."""

import subprocess
import sys

import pytest

LINES_MAX = 60


def test_nothing_changed_unseen() -> None:
    argv = [sys.executable, "-m", "tests.unit.envoy_golden", "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    changed = done.stdout.splitlines()
    if changed:
        shown = "\n".join(changed[:LINES_MAX])
        more = f"\n... and {len(changed) - LINES_MAX} more lines" if len(changed) > LINES_MAX else ""
        pytest.fail(f"{shown}{more}\n\nIf it is meant so: `make golden`, and commit the diff.", pytrace=False)
    assert done.returncode == 0, done.stderr
