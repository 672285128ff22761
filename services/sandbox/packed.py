"""Packs what runs in a jail into a program of one file, under the names that it has here."""

import io
import zipfile
from pathlib import Path
from types import ModuleType


def packed(main: str, *packages: ModuleType) -> bytes:
    """A zip archive that Python runs: `main`, and the modules of `packages`, none of them from a folder below."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("__main__.py", main)
        for name in sorted({parent for package in packages for parent in _parents(package.__name__)}):
            opened.writestr(f"{name.replace('.', '/')}/__init__.py", "")
        for package in packages:
            assert package.__file__ is not None
            for source in sorted(Path(package.__file__).parent.glob("*.py")):
                opened.writestr(f"{package.__name__.replace('.', '/')}/{source.name}", source.read_bytes())
    return archive.getvalue()


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]
