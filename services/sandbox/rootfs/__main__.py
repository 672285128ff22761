"""`python -m services.sandbox.rootfs`; see the package's docstring."""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from services.sandbox import profiles
from services.sandbox.rootfs import recipes
from services.sandbox.rootfs.builds import build
from services.sandbox.rootfs.errors import CannotBuildError, RuntimeAbsentError
from services.sandbox.rootfs.recipes import BASE, Recipe


def main(arguments: list[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    try:
        wanted = list(_wanted(asked))
    except CannotBuildError as error:
        print(f"sandbox root: {error}", file=sys.stderr)  # noqa: T201 -- a program.
        return 2
    failed = [recipe.name for recipe in wanted if not _build(asked.into / recipe.name, recipe)]
    # What nobody asked for by name may be missing, but for the one that the service cannot do without.
    return int(bool(failed) if asked.profiles else BASE in failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Build the roots that jails see, unless they are there.")
    parser.add_argument(
        "profiles", nargs="*", metavar="PROFILE", help="default: those of OLLAMESH_SANDBOX_PROFILES, or all"
    )
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="OLLAMESH_SANDBOX_ROOT")
    parser.add_argument("--requirements", type=Path, metavar="FILE", help="lock of a profile of your own")
    parser.add_argument("--preimport", action="append", default=[], metavar="MODULE")
    return parser


def _wanted(asked: argparse.Namespace) -> Iterable[Recipe]:
    if asked.requirements is None:
        yield from [recipes.named(name) for name in asked.profiles or _served()]
        return
    yield recipes.custom(asked.profiles, asked.requirements, asked.preimport)


def _served() -> list[str]:
    """Those of ours that the service is set to serve."""
    served = os.environ.get("OLLAMESH_SANDBOX_PROFILES") or profiles.ALL
    return [name for name in recipes.OURS if served == profiles.ALL or name in served.split(",")]


def _build(folder: Path, recipe: Recipe) -> bool:
    started_s = time.monotonic()
    try:
        done = build(folder, recipe)
    except RuntimeAbsentError as error:
        said = f"left out: {error}"
    except (CannotBuildError, OSError, shutil.Error, subprocess.SubprocessError) as error:
        said = f"cannot be built: {error}"
    else:
        said = f"built in {time.monotonic() - started_s:.1f} s" if done else "up to date"
        print(f"sandbox root {recipe.name}: {said}")  # noqa: T201 -- a program.
        return True
    print(f"sandbox root {recipe.name}: {said}", file=sys.stderr)  # noqa: T201 -- a program.
    return False


if __name__ == "__main__":
    sys.exit(main())
