"""`python -m tools.gvisor FILE`: put gVisor's runsc at FILE, from the packages of this machine's own Debian.

Debian 12's own runsc is too old, that of its backports is not. Where there is none, gVisor is installed as its authors
say.
"""

import sys
from pathlib import Path

from tools.debian import Program, Unobtainable, obtain

# systrap, the platform that is used, came in 2023; Debian's versions are dates.
RUNSC = Program(package="runsc", path="usr/bin/runsc", version_min="0.0~20231001")


def main() -> None:
    target = Path(sys.argv[1])
    if target.exists():
        print(f"gvisor: {target} is there")
        return
    try:
        obtain({target: RUNSC})
    except Unobtainable as error:
        sys.exit(
            f"gvisor: {error}; install gVisor as its authors say, and name runsc in OLLAMESH_SANDBOX_RUNSC"
        )
    print(f"gvisor: {target} is there; name it in OLLAMESH_SANDBOX_RUNSC")


if __name__ == "__main__":
    main()
