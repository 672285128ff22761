"""The zygote's memory is gathered in huge pages; it must still be what it was."""

import subprocess
import sys

GATHERED = """
from services.sandbox.adapters.ns.inside import kernel
held = [bytes([number]) * (1 << 20) for number in range(8)]
kernel.gather_memory()
print(all(block == bytes([number]) * (1 << 20) for number, block in enumerate(held)))
"""


def test_what_is_gathered_stays_what_it_was() -> None:
    run = subprocess.run(
        [sys.executable, "-c", GATHERED], check=True, capture_output=True, text=True, timeout=60
    )
    assert run.stdout == "True\n"
