"""The most common passwords, from the file beside the service."""

from pathlib import Path

FILE = Path(__file__).parents[1] / "common_passwords.txt"


def common_passwords() -> frozenset[str]:
    return frozenset(FILE.read_text().split())
