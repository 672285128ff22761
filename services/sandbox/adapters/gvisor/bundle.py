"""The OCI bundle that runsc makes jails of: one for each profile, the same for all of its jails."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from services.sandbox import guest
from services.sandbox.adapters.gvisor import inside
from services.sandbox.adapters.gvisor.inside.program import LOCKED_BYTES_MAX, OPEN_FILES_MAX
from services.sandbox.adapters.gvisor.inside.wire import Make
from services.sandbox.adapters.ns import inside as ns_inside
from services.sandbox.adapters.ns.inside.zygote import ENVIRONMENT, PREIMPORTED
from services.sandbox.packed import packed
from services.sandbox.profiles import Profile

# Of the jail's first process, in gVisor's kernel: to make the file systems and accounts, and to become the user
# that programs are. Programs have none, and on the host nobody of the jail has any.
_CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_ADMIN",
]  # fmt: skip
_GUEST = "/mnt"
_ARCHIVE = packed(f"from {inside.__name__}.init import main\nmain()\n", inside, ns_inside, guest)


def write(folder: Path, profile: Profile, root: Path, *, files_bytes: int) -> None:
    """Make `folder` a bundle of `profile`, whose jails see `root` and may usually fill `files_bytes`."""
    place = folder / "guest"
    place.mkdir(parents=True)
    (place / "jail.zip").write_bytes(_ARCHIVE)
    (folder / "config.json").write_text(json.dumps(_config(profile, root, place, files_bytes)))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def environment(profile: Profile) -> Mapping[str, str]:
    """What programs of `profile` find in theirs."""
    return {**ENVIRONMENT, **profile.environment}


def _config(profile: Profile, root: Path, place: Path, files_bytes: int) -> dict[str, object]:
    make = Make([*PREIMPORTED, *profile.preimported], list(profile.command), profile.file_name, files_bytes)
    python = ["/usr/bin/python3", "-I", "-B", "-X", "utf8", f"{_GUEST}/jail.zip"]
    return {
        "ociVersion": "1.0.2",
        "hostname": "sandbox",
        "root": {"path": str(root), "readonly": True},
        "process": {
            "args": [*python, json.dumps(asdict(make))],
            "env": [f"{name}={value}" for name, value in environment(profile).items()],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": OPEN_FILES_MAX, "soft": OPEN_FILES_MAX},
                {"type": "RLIMIT_MEMLOCK", "hard": LOCKED_BYTES_MAX, "soft": LOCKED_BYTES_MAX},
                {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
            ],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": _GUEST, "type": "bind", "source": str(place), "options": ["ro", "rbind"]},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }
