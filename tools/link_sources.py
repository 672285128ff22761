"""Make the checkout importable from its virtual environment, and put `ollamesh` on its path.

An editable install would do the same, but needs a build backend outside the hash lock.
"""

import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (ROOT, ROOT / "gen" / "python", ROOT / "clients" / "python")
SCRIPT = """#!{python}
import sys

from clients.cli.main import main

sys.exit(main())
"""


def link() -> None:
    site = Path(sysconfig.get_path("purelib"))
    (site / "ollamesh.pth").write_text("".join(f"{source}\n" for source in SOURCES))
    script = Path(sysconfig.get_path("scripts")) / "ollamesh"
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(0o755)


if __name__ == "__main__":
    link()
