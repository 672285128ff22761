"""What is in a jail: a folder with the root that programs see, and a description of it.

    ROOT/NAME/root          what they see as /
    ROOT/NAME/kit           what builds the jail
    ROOT/NAME/profile.json  the fields of Profile, but for its folder
    ROOT/NAME/stamp         what it was made from; written last

`services.sandbox.rootfs` makes those that come with the service. Any other folder of this form is a profile, too.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

FILE = "profile.json"


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
        raise ValueError(f"{folder / FILE} is of {profile.name!r}")
    return profile


def write(folder: Path, profile: Profile) -> None:
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(profile)) + b"\n")
