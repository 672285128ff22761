"""What is in a jail: a folder with the root that programs see, and a description of it.

    ROOT/NAME/root          what they see as /
    ROOT/NAME/kit           what builds the jail
    ROOT/NAME/profile.json  the fields of Profile, but for its folder
    ROOT/NAME/stamp         what it was made from; written last

`services.sandbox.rootfs` makes those that come with the service. Any other folder of this form is a profile, too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

FILE, STAMP = "profile.json", "stamp"
ALL = "all"
USUAL = "python"  # For who names none.


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    runtime: str = ""  # Such as "python 3.11"; empty as long as nothing is known about it.
    packages: tuple[str, ...] = ()  # "name version".
    preimported: tuple[str, ...] = ()  # Modules that each jail begins with.
    command: tuple[
        str, ...
    ] = ()  # What runs the code, which follows as a file; empty: the interpreter itself.
    file_name: str = "main.py"  # Of the code, in the working folder or, without a command, in tracebacks.
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)  # Besides what every jail has.

    @property
    def keeps_variables(self) -> bool:
        """Whether a session of it does."""
        return not self.command


def read(folder: Path) -> Profile:
    """The profile in `folder`. Raises OSError, or ValueError if it is no profile."""
    profile = msgspec.json.decode((folder / FILE).read_bytes(), type=Profile)
    if profile.name != folder.name:
        raise ValueError(f"it is of {profile.name!r}")
    words = [*profile.preimported, *profile.command, profile.file_name]
    words += [*profile.environment, *profile.environment.values()]
    if any("\0" in word for word in words) or any("=" in name for name in profile.environment):
        raise ValueError("it holds what no program can be given")
    if not profile.file_name or "/" in profile.file_name:
        raise ValueError("file_name is no name of a file")
    return profile


def if_complete(folder: Path) -> Profile | None:
    """The profile in `folder`, if jails can probably be made of it."""
    try:
        return read(folder) if (folder / STAMP).is_file() else None
    except (OSError, ValueError):
        return None


def problem(error: OSError | ValueError) -> str:
    """What `read` raised, as a sentence."""
    return f"{FILE} describes no profile: {error.strerror if isinstance(error, OSError) else error}"


def names(root: Path, wanted: Sequence[str]) -> tuple[str, ...]:
    """What is to be served of ROOT: what is wanted, where ALL stands for whatever is there, `python` first.

    A folder is there if it has a description, be that good or bad: who expects it is told what is wrong.
    """
    if tuple(wanted) != (ALL,):
        return tuple(dict.fromkeys(wanted))
    there = (path.parent.name for path in root.glob(f"*/{FILE}"))
    found = sorted(name for name in there if not name.startswith("."))  # Others are being built.
    return tuple(sorted(found, key=lambda name: name != USUAL)) or (USUAL,)


def write(folder: Path, profile: Profile) -> None:
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(profile)) + b"\n")
