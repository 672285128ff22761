"""What a statement of SQL is called where it is counted or traced: what it does to which table, and no more.

This is OpenTelemetry's `db.query.summary`. It is made of the statement's text, which is a constant of ours and never
has a value in it, so there are as many names as statements, or fewer.
"""

import re

KNOWN_MAX = 1024  # Texts. There are some two hundred; whatever builds its text has to keep to few as well.
OTHER = "other"

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_WRITES = re.compile(
    r"\b(INSERT)\s+INTO\s+(\w+)|\b(DELETE)\s+FROM\s+(\w+)|\b(UPDATE)\s+(?!SKIP\b|OF\b|SET\b)(\w+)"
)
_FROM = re.compile(r"\bFROM\s+(?!generate_series\b|unnest\b|jsonb?_)(\w+)")
_CTE = re.compile(r"\b(\w+)\s+AS\s+(?:MATERIALIZED\s+)?\(")
_WORD = re.compile(r"[A-Za-z]+")

_known: dict[str, str] = {}


def summary(statement: str) -> str:
    """Return the name of a statement, such as `SELECT runs`."""
    if statement.startswith("BEGIN"):
        return "BEGIN"  # Its text names an organisation: services/common/postgres.py.
    found = _known.get(statement)
    if found is None:
        found = _summary(statement)
        if len(_known) < KNOWN_MAX:
            _known[statement] = found
    return found


def _summary(statement: str) -> str:
    text = _COMMENT.sub(" ", statement)
    word = _WORD.search(text)
    if word is None:
        return OTHER
    verb = word[0].upper()
    if verb not in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}:
        return verb
    own = set(_CTE.findall(text)) if verb == "WITH" else set()
    # What changes something is what a statement is for, whatever it reads on its way.
    writes = [[part for part in match if part] for match in _WRITES.findall(text)]
    for what, table in writes:
        if verb in {what, "WITH"}:
            return f"{what} {table}"
    tables = [table for table in _FROM.findall(text) if table not in own]
    return f"SELECT {tables[0]}" if tables else "SELECT"
