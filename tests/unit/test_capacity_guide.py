"""The capacity guide's simulations are what the simulator says, and its formula is what the simulator does."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from clients.cli.main import ollamesh

GUIDE = Path(__file__).parents[2] / "docs" / "capacity.md"
FLEET = re.compile(r"```toml\n(.*?)```", re.DOTALL)
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)


def examples() -> list[tuple[str, str]]:
    """Commands with the output that stands below each."""
    found: list[tuple[str, str]] = []
    for block in CONSOLE.findall(GUIDE.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


@pytest.mark.parametrize(("command", "output"), examples())
def test_a_simulation_says_what_the_guide_says(
    command: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fleet,) = FLEET.findall(GUIDE.read_text())
    (tmp_path / "fleet.toml").write_text(fleet)
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(command)
    assert program == "ollamesh"
    done = CliRunner().invoke(ollamesh, arguments, catch_exceptions=False)
    assert done.output == output


def test_the_guide_has_simulations() -> None:
    assert len(examples()) >= 4
