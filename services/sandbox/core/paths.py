"""Names of files as callers give them.

A path is relative to the working folder, in UTF-8, with "/" between its parts. None of it is looked up here: links,
and what else a name may turn out to be, are for who opens it.
"""

PATH_BYTES_MAX = 1024
PART_BYTES_MAX = 255
DEPTH_MAX = 32


def fault(path: str) -> str | None:
    """What is wrong with `path`, as a sentence without a subject; None if nothing is."""
    parts = path.split("/")
    faults = {
        f"has more than {PATH_BYTES_MAX} bytes": _size_bytes(path) > PATH_BYTES_MAX,
        f"has more than {DEPTH_MAX} parts": len(parts) > DEPTH_MAX,
        "is absolute, and must be relative to the session's folder": path.startswith("/"),
        "holds a NUL character": "\0" in path,
        "has a part that is empty, . or ..": any(part in {"", ".", ".."} for part in parts),
        f"has a part of more than {PART_BYTES_MAX} bytes": any(
            _size_bytes(part) > PART_BYTES_MAX for part in parts
        ),
    }
    return next((what for what, is_so in faults.items() if is_so), None)


def _size_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
