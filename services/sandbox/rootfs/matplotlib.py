"""What matplotlib needs besides its package, to be imported quickly where nothing can be written."""

import json
import shutil
import tempfile
from pathlib import Path

from services.sandbox.rootfs import interpreter, trial

MODULE = "sandbox_matplotlib"  # To be imported before matplotlib.
ENVIRONMENT = {"MPLBACKEND": "agg", "MPLCONFIGDIR": "/tmp/matplotlib"}  # noqa: S108 -- the jail's own.
_SOURCE = Path(__file__).with_name(MODULE) / "__init__.py"
_FIND_FONTS = "import matplotlib.font_manager"  # Writes what it has found to MPLCONFIGDIR.
_KINDS = ("ttflist", "afmlist")


def is_in(root: Path) -> bool:
    return (interpreter.packages_in(root) / "matplotlib").is_dir()


def add(root: Path) -> None:
    """Raises CannotBuildError."""
    folder = interpreter.packages_in(root) / MODULE
    folder.mkdir()
    shutil.copy2(_SOURCE, folder)
    with tempfile.TemporaryDirectory() as made:
        trial.run(root, _FIND_FONTS, environment={"MPLCONFIGDIR": made}, folder=Path(made))
        (found,) = Path(made).glob("fontlist-*.json")
        fonts = json.loads(found.read_text())
    for kind in _KINDS:  # This machine's own fonts have whole paths, and are not in the root.
        fonts[kind] = sorted(
            (font for font in fonts[kind] if not font["fname"].startswith("/")),
            key=lambda font: font["fname"],
        )
    (folder / found.name).write_text(json.dumps(fonts))
    interpreter.compile_all(folder, root)
