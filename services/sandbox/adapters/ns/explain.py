"""Why a machine lets us build no jail, as a sentence with its mend. Only asked after a failure."""

import os
from pathlib import Path

LINUX_MIN = (5, 11)  # Overlays in user namespaces.
_SETTINGS = (
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
)


def root_problem(folder: Path) -> str | None:
    """What is wrong with the root folder; None if nothing is."""
    if (folder / "stamp").is_file():  # Written last.
        return None
    return f"the root is missing; run: python -m services.sandbox.rootfs --into {folder.parent} {folder.name}"


def kernel_problem(proc: Path = Path("/proc")) -> str:
    """The most likely reason why the outer jail did not start or could build no jail."""
    for name, forbidding, mend in _SETTINGS:
        setting = proc / "sys" / name
        if setting.exists() and setting.read_text().strip() == forbidding:
            return f"the kernel forbids user namespaces; run: {mend}"
    version = tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])
    if version < LINUX_MIN:
        return f"Linux {version[0]}.{version[1]} is too old; the sandbox needs {LINUX_MIN[0]}.{LINUX_MIN[1]}"
    if _masked(proc):
        return "this container's /proc is masked, which forbids one inside; run it with /proc unmasked"
    return "this machine refused to build a jail; the service's log says what it refused"


def _masked(proc: Path) -> bool:
    """Container engines mount over parts of /proc; the kernel then allows no second one."""
    points = (line.split()[4] for line in (proc / "self/mountinfo").read_text().splitlines())
    return any(point.startswith("/proc/") and point != "/proc/sys/fs/binfmt_misc" for point in points)
