"""Runs the interpreter of a root, on that root's libraries, outside of any jail: only code that is ours."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from services.sandbox.rootfs.errors import CannotBuildError
from services.sandbox.rootfs.interpreter import VERSION
from services.sandbox.rootfs.libraries import loader_of

_TIMEOUT_S = 120.0


def run(root: Path, code: str, *, environment: Mapping[str, str], folder: Path) -> str:
    """What `code` prints. `folder` is the only one it should write to. Raises CannotBuildError."""
    loader, program = loader_of(root), root / "usr/bin" / VERSION
    command = [str(loader), "--library-path", str(root / "usr/lib"), str(program), "-s", "-B", "-c", code]
    env = {"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8", **environment}
    env |= {"PYTHONHOME": str(root / "usr"), "PYTHONPLATLIBDIR": sys.platlibdir}
    done = subprocess.run(  # noqa: S603 -- as above.
        command, cwd=folder, env=env, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it gave no reason"]
        raise CannotBuildError(f"its interpreter fails: {lines[-1]}")
    return done.stdout
