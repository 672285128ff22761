"""A trail that keeps what it is told, for tests to read."""

from services.common.audit import Happened


class KeptTrail:
    def __init__(self) -> None:
        self.events: list[Happened] = []

    def note(self, happened: Happened) -> None:
        self.events.append(happened)

    async def assure(self, happened: Happened) -> None:
        self.note(happened)
