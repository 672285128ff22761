"""matplotlib's figures as results: those that show() is asked for, and those that are open at the end.

matplotlib may be imported before a program begins, by it, or never. There is no screen, so its backend is Agg; the one
thing that Agg lacks is a show(), which is put into pyplot as soon as that is there.
"""

import io
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any
from weakref import WeakSet

PYPLOT = "matplotlib.pyplot"
MIME = "image/png"

Tell = Callable[[dict[str, bytes]], None]


class Figures:
    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._shown: WeakSet[Any] = WeakSet()  # By themselves; the end need not show them once more.

    def watch(self) -> None:
        """From now on, pyplot shows figures here."""
        if (pyplot := sys.modules.get(PYPLOT)) is not None:
            self._attach(pyplot)
        else:
            sys.meta_path.insert(0, _AfterImport(self._attach))

    def png(self, value: object) -> bytes | None:
        """`value` drawn, if it is a figure."""
        module = sys.modules.get("matplotlib.figure")
        if module is None or not isinstance(value, module.Figure):
            return None
        self._shown.add(value)
        return _png(value)

    def show(self) -> None:
        """Tell all open figures, and close them."""
        pyplot = sys.modules.get(PYPLOT)
        if pyplot is None or not hasattr(pyplot, "get_fignums"):
            return
        try:
            for number in pyplot.get_fignums():
                figure = pyplot.figure(number)
                if figure not in self._shown:
                    self._tell({"text/plain": repr(figure).encode(), MIME: _png(figure)})
        finally:
            pyplot.close("all")

    def _attach(self, pyplot: ModuleType) -> None:
        def show(*_args: object, **_kwargs: object) -> None:
            """Show all open figures."""
            self.show()

        pyplot.show = show  # type: ignore[attr-defined]


def _png(figure: Any) -> bytes:  # noqa: ANN401 -- of a library that is not here.
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight")
    return drawn.getvalue()


class _AfterImport:
    """A finder that finds pyplot where it is, and has it attached when it has been executed."""

    def __init__(self, attach: Callable[[ModuleType], None]) -> None:
        self._attach = attach

    def find_spec(
        self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != PYPLOT or (spec := PathFinder.find_spec(name, path)) is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_attach(module: ModuleType) -> None:
            execute(module)
            self._attach(module)

        spec.loader.exec_module = execute_and_attach  # type: ignore[method-assign]
        return spec
