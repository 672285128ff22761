"""Imports matplotlib where nothing can be written, with the list of fonts that was made with the root.

It is copied into a root, beside matplotlib, and imported once, by the interpreter that jails are copies of.
Matplotlib wants a folder that it can write to as soon as it is imported. A jail has one (MPLCONFIGDIR), but
that interpreter has not. And it looks at every font file, unless somebody did before.
"""

import io
import os
from importlib.util import find_spec
from pathlib import Path

_FONT_LIST_FOLDER = str(Path(__file__).parent)


def _import() -> None:
    spec = find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    # Named, it is not looked for in the folder that cannot be written to.
    os.environ["MATPLOTLIBRC"] = str(Path(spec.origin).parent / "mpl-data" / "matplotlibrc")
    import matplotlib as mpl

    del os.environ["MATPLOTLIBRC"]
    folders = mpl.get_configdir, mpl.get_cachedir
    mpl.get_configdir = mpl.get_cachedir = lambda: _FONT_LIST_FOLDER
    import matplotlib.pyplot as plt

    mpl.get_configdir, mpl.get_cachedir = folders

    # What the first plot takes long for, a jail's first one finds done.
    figure, axes = plt.subplots()
    axes.plot([0, 1], label="x")
    axes.set_title("$x$")
    axes.legend()
    figure.savefig(io.BytesIO(), format="png")
    plt.close(figure)


_import()
