"""From a log's last lines to the sentence that a person reads."""

import json
import signal

import pytest

from deploy.local.diagnosis import diagnose


def said(tail: str, *, code: int = 1, port: int | None = 80) -> str:
    return diagnose(tail, code=code, home="/h", port=port, port_variable="OLLAMESH_X_PORT")


@pytest.mark.parametrize(
    ("tail", "sentence"),
    [
        (
            "postgres: error while loading shared libraries: libz.so.1: cannot open shared object file: No such file",
            "it needs the library libz.so.1, which this machine lacks; install it (Debian: `apt-get install zlib1g`)",
        ),
        (
            "Traceback\nImportError: libodd.so.9: cannot open shared object file: No such file or directory",
            "it needs the library libodd.so.9, which this machine lacks; install it",
        ),
        (
            "envoy: /lib/libc.so.6: version `GLIBC_2.35' not found (required by envoy)",
            "it needs a C library with GLIBC_2.35, newer than this machine's; use a newer release of the system",
        ),
        (
            "PANIC:  could not write to file: No space left on device",
            "the disk of /h is full; free some space there, or set OLLAMESH_HOME to a folder on another disk",
        ),
        (
            'LOG:  could not bind IPv4 address "127.0.0.1": Address already in use\nFATAL:  no sockets',
            "its port 80 was taken while it started; set OLLAMESH_X_PORT to another one, or to 0 for any",
        ),
        ("noise\nollamesh: the model is gone; run it again\n", "the model is gone; run it again"),
        ("first\nlast words\n\n", "it ended with status 1: last words"),
        (json.dumps({"event": "bind_failed", "error": "denied", "level": "error"}), "it ended with status 1: bind_failed: denied"),
        ("[1, 2]", "it ended with status 1: [1, 2]"),
        ("  | ValueError: no\n  +------------------------------------\n", "it ended with status 1: ValueError: no"),
        ("", "it ended with status 1"),
    ],
)  # fmt: skip
def test_what_a_log_tells(tail: str, sentence: str) -> None:
    assert said(tail) == sentence


def test_a_signal_is_named() -> None:
    assert (
        said("", code=-signal.SIGKILL) == "it was killed (by somebody, or by the kernel for want of memory)"
    )
    assert said("bye", code=-signal.SIGSEGV) == "it was ended by SIGSEGV: bye"


def test_a_part_without_a_port_has_none_taken() -> None:
    assert said("Address already in use", port=None) == "it ended with status 1: Address already in use"
