"""What goes into the roots of the profiles that come with the service."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.sandbox.rootfs.errors import CannotBuildError

BASE = "python"  # What every other root is made from: the zygote of each engine needs its interpreter.

# One thread for each library: a program has one processor, and a fork copies only one thread.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# What a person expects of a shell and has no use for a network, a terminal, a device or root's rights.
COREUTILS = (
    *("base64", "basename", "cat", "chmod", "cksum", "comm", "cp", "csplit", "cut", "date", "dd", "df"),
    *("dirname", "du", "echo", "env", "expand", "expr", "factor", "false", "fmt", "fold", "head", "id"),
    *("join", "link", "ln", "ls", "md5sum", "mkdir", "mkfifo", "mktemp", "mv", "nl", "nproc", "numfmt", "od"),
    *("paste", "printenv", "printf", "pwd", "readlink", "realpath", "rm", "rmdir", "seq", "sha1sum"),
    *("sha256sum", "sha512sum", "shuf", "sleep", "sort", "split", "stat", "sum", "tac", "tail", "tee"),
    *("test", "timeout", "touch", "tr", "true", "truncate", "tsort", "uname", "unexpand", "uniq", "unlink"),
    *("wc", "whoami", "yes"),
)
TOOLS = ("awk", "bzip2", "cmp", "diff", "find", "grep", "gzip", "jq", "sed", "sh", "tar", "xargs", "xz", "[")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    name: str
    requirements: Path | None = None  # A lock with hashes; its packages are the profile's.
    program: str | None = None  # What runs the code, where that is not the interpreter.
    file_name: str = "main.py"
    tools: tuple[str, ...] = ()  # Programs that are taken along where this machine has them.
    preimported: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


OURS = {
    recipe.name: recipe
    for recipe in (
        Recipe(name=BASE),
        Recipe(
            name="python-data",
            requirements=Path(__file__).with_name("python-data.lock"),
            # With what these load only when it is used: pandas for text and HTML, matplotlib for a PNG.
            preimported=(
                *("numpy", "numpy.random", "pandas", "pandas.io.formats.html", "pandas.io.formats.string"),
                *("pandas.io.formats.csvs", "pandas.plotting._matplotlib", "matplotlib.pyplot"),
            ),
            environment=ONE_THREAD,
        ),
        Recipe(name="bash", program="bash", file_name="main.sh", tools=COREUTILS + TOOLS),
        Recipe(name="node", program="node", file_name="main.js"),
    )
}


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def custom(names: Sequence[str], requirements: Path, preimported: Sequence[str]) -> Recipe:
    """One with packages that an operator chose. Raises CannotBuildError."""
    if len(names) != 1 or names[0] in OURS or not _NAME.fullmatch(names[0]):
        raise CannotBuildError(
            "a lock needs one name, of lower-case letters and digits, which is none of ours"
        )
    if not requirements.is_file():
        raise CannotBuildError(f"there is no file {requirements}")
    return Recipe(
        name=names[0],
        requirements=requirements,
        preimported=tuple(preimported),
        environment=ONE_THREAD,
    )


def named(name: str) -> Recipe:
    """Raises CannotBuildError."""
    if (recipe := OURS.get(name)) is None:
        raise CannotBuildError(f"no profile {name} comes with the service; there are {', '.join(OURS)}")
    return recipe
