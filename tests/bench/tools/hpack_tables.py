"""HPACK's tables as a C header, from the library that has them checked against RFC 7541."""

import json

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable


def header() -> str:
    """Return `hpack_tables.h`."""
    codes = ", ".join(f"{code:#x}" for code in REQUEST_CODES)
    bits = ", ".join(map(str, REQUEST_CODES_LENGTH))
    rows = ", ".join(
        f"{{{json.dumps(name.decode())}, {json.dumps(value.decode())}}}"
        for name, value in HeaderTable.STATIC_TABLE
    )
    return (
        f"static const uint32_t HUFFMAN_CODES[] = {{{codes}}};\n"
        f"static const uint8_t HUFFMAN_BITS[] = {{{bits}}};\n"
        f"static const char *const STATIC_TABLE[][2] = {{{rows}}};\n"
        f"#define STATIC_COUNT {len(HeaderTable.STATIC_TABLE)}\n"
    )
