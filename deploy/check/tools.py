"""The programs that subjects use. They have environments of their own, so that the project's stays small:
`.tools/deploy`, and `.tools/checkov` for the one that brings ninety packages. `make deploy-tools` makes both.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.check.outcome import Skipped

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools"
TIMEOUT_S = 300


def tool(name: str, environment: str = "deploy") -> Path:
    """Where the program is. Raises Skipped where it is not."""
    path = TOOLS / environment / "bin" / name
    if not path.exists():
        raise Skipped(f"{name} is not in .tools/{environment}; run `make deploy-tools`")
    return path


def ran(
    *command: str | Path,
    stdin: str | None = None,
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever its exit status; colours and telemetry off."""
    plain = {"NO_COLOR": "1", "LC_ALL": "C.UTF-8", "DO_NOT_TRACK": "1", **(environment or {})}
    return subprocess.run(
        [str(part) for part in command],
        input=stdin,
        cwd=folder,
        env={**os.environ, **plain},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def complaints(done: subprocess.CompletedProcess[str], about: str) -> Sequence[str]:
    """What a program that failed said, a problem a line; empty if it ended well."""
    if done.returncode == 0:
        return []
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return [f"{about}: {line}" for line in lines] or [f"{about}: exit status {done.returncode}."]
