"""The boards as files: dashboards/*.json."""

from collections.abc import Mapping
from pathlib import Path

from deploy.grafana.board import document
from deploy.grafana.boards import BOARDS

FOLDER = Path(__file__).parent / "dashboards"


def documents() -> Mapping[str, str]:
    """What is to be in the folder, by name of file."""
    return {f"{board.name}.json": document(board) for board in BOARDS}


def drifted(folder: Path = FOLDER) -> list[str]:
    """Name the files that are not as the code has them, and those that the code does not know."""
    wanted = documents()
    there = {path.name: path.read_text() for path in folder.glob("*.json")}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


def write(folder: Path = FOLDER) -> None:
    for path in folder.glob("*.json"):
        path.unlink()
    for name, text in documents().items():
        (folder / name).write_text(text)
