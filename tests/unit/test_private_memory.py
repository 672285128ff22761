"""A process that holds private keys leaves no image of itself, and lets nobody of its own user look."""

import subprocess
import sys

PROGRAM = """
import ctypes, resource
from services.common.private_memory import keep_memory_private
keep_memory_private()
PR_GET_DUMPABLE = 3
print(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_no_core_and_no_looking_in() -> None:

    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True)
    assert said.stdout.strip() == "0 (0, 0)"
