"""How every service's process begins."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A service that says how many objects collections need not look at: before it serves, and since.
PROGRAM = """
import gc
from services.common.main import run_service

async def run(config, stop, *, started):
    built = [[] for _ in range(1000)]
    before = gc.get_freeze_count()
    started(1)
    print(before, gc.get_freeze_count() - len(built) > 0)

run_service("auth", lambda env: None, run)
"""


def test_what_a_service_has_built_when_it_serves_is_out_of_collections_way() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "True"]
