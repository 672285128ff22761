"""The forms of a value: its repr, and whatever its type offers to notebooks.

The methods are those that IPython defined and that pandas, matplotlib, sympy and many others have. Like other special
methods they are looked up on the type, so that an object which answers to any name offers nothing.
"""

import base64
import json
from binascii import Error as NotBase64
from collections.abc import Mapping

PLAIN_BYTES_MAX = 64 << 10
CUT = "\n… (cut)".encode()

_METHODS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_latex_": "text/latex",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_json_": "application/json",
}
_BINARY = ("image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf")


def of(value: object) -> dict[str, bytes]:
    """Raises what its repr raises, as print would; a richer form that fails is left out."""
    forms = {"text/plain": _plain(repr(value))}
    for mime, form in [*_offered(value).items(), *_bundle(value).items()]:
        if (data := _bytes(mime, form)) is not None:
            forms[mime] = data
    return forms


def _plain(text: str) -> bytes:
    data = text[: PLAIN_BYTES_MAX + 1].encode("utf-8", "backslashreplace")
    return data if len(data) <= PLAIN_BYTES_MAX else _whole(data[:PLAIN_BYTES_MAX]) + CUT


def _whole(data: bytes) -> bytes:
    """Without the part of a character at its end."""
    return data.decode("utf-8", "ignore").encode()


def _offered(value: object) -> dict[str, object]:
    return {mime: _call(value, method) for method, mime in _METHODS.items()}


def _bundle(value: object) -> dict[str, object]:
    bundle = _call(value, "_repr_mimebundle_")
    if not isinstance(bundle, Mapping):
        return {}
    return {mime: form for mime, form in bundle.items() if isinstance(mime, str)}


def _call(value: object, method: str) -> object:
    """What `method` gives, without the metadata that may be beside it; None if that is nothing."""
    offered = getattr(type(value), method, None)
    if offered is None:
        return None
    try:
        form = offered(value)
    except Exception:  # noqa: BLE001 -- the program's own, and it has its repr.
        return None
    return form[0] if isinstance(form, tuple) and form else form


def _bytes(mime: str, form: object) -> bytes | None:
    if form is None or isinstance(form, bytes):
        return form
    if isinstance(form, str):
        return _text_or_binary(mime, form)
    try:
        return json.dumps(form).encode()
    except (TypeError, ValueError, RecursionError):
        return None


def _text_or_binary(mime: str, form: str) -> bytes | None:
    if mime not in _BINARY:
        return form.encode("utf-8", "backslashreplace")
    try:
        return base64.b64decode(form)  # As it stands in notebooks.
    except (NotBase64, ValueError):
        return None
