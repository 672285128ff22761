"""What one look of the doctor's found."""

from msgspec import Struct


class Check(Struct, frozen=True, kw_only=True):
    name: str
    ok: bool = True
    finding: str  # What was seen, or the sentence that says what is wrong.
    mend: str = ""  # A command for a shell; empty if the finding itself says what to do.


def well(name: str, finding: str) -> Check:
    return Check(name=name, finding=finding)


def ill(name: str, finding: str, mend: str = "") -> Check:
    return Check(name=name, ok=False, finding=finding, mend=mend)
