"""From the last lines of a log to one sentence that says what is wrong and what mends it."""

import json
import re
import signal

from deploy.local.errors import disk_full

# What minimal images lack, with the Debian package that has it.
PACKAGES = {"libz.so.1": "zlib1g", "libgomp.so.1": "libgomp1", "libstdc++.so.6": "libstdc++6"}

# How our own programs end: with the sentence that people are to read.
OWN_SENTENCE = "ollamesh: "

PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE|could not bind", re.IGNORECASE)
LIBRARY_MISSING = re.compile(r"([^:\s]+): cannot open shared object file")
LIBC_OLD = re.compile(r"version `(GLIBC(?:XX)?_[\d.]+)' not found")
DISK_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)


def diagnose(log_tail: str, *, code: int, home: str, port: int | None, port_variable: str) -> str:
    """`log_tail` is what the process wrote; `code` its exit status, negative for a signal."""
    if (said := _last_line(log_tail)).startswith(OWN_SENTENCE):
        return said.removeprefix(OWN_SENTENCE)
    if found := LIBRARY_MISSING.search(log_tail):
        return _library(found[1])
    if found := LIBC_OLD.search(log_tail):
        return f"it needs a C library with {found[1]}, newer than this machine's; use a newer release of the system"
    if DISK_FULL.search(log_tail):
        return disk_full(home)
    if port is not None and PORT_TAKEN.search(log_tail):
        return (
            f"its port {port} was taken while it started; set {port_variable} to another one, or to 0 for any"
        )
    return f"it {_ending(code)}" + (f": {_words(said)}" if said else "")


def _library(name: str) -> str:
    package = PACKAGES.get(name)
    mend = f"install it (Debian: `apt-get install {package}`)" if package else "install it"
    return f"it needs the library {name}, which this machine lacks; {mend}"


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    if -code == signal.SIGKILL:
        return "was killed (by somebody, or by the kernel for want of memory)"
    return f"was ended by {signal.Signals(-code).name}"


def _last_line(text: str) -> str:
    # Exception groups are framed in dashes and bars.
    return next((words for line in reversed(text.splitlines()) if (words := line.strip(" |+-"))), "")


def _words(line: str) -> str:
    """The services log JSON; people want the words of it."""
    try:
        fields = json.loads(line)
    except ValueError:
        return line
    if not isinstance(fields, dict):
        return line
    words = [str(fields[key]) for key in ("event", "error") if key in fields]
    return ": ".join(words) or line
