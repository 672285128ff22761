"""A command, run as an ordinary user where the tests are root's."""

import os
import sys
from collections.abc import Sequence

from tests.service.sandbox_app import ORDINARY_UID

# A program of its own, and not Popen's `user`: that forks, which gRPC's threads do not survive.
_LOWER = """
import os, sys
uid = int(sys.argv[1])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
os.execv(sys.argv[2], sys.argv[2:])
"""


def lowered(command: Sequence[str]) -> list[str]:
    if os.geteuid() != 0:
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _LOWER, str(ORDINARY_UID), *command]
