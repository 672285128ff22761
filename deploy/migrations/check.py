"""`python -m deploy.migrations.check`: whether code of the release before still works on what a version file makes.

While a release is rolled out, and after it is rolled back, old code runs on the new schema. So one release expands the
schema, and a later one contracts it, when no code that is left uses what goes. And a statement must not lock a table
that is in use for as long as it takes to read it. What breaks either rule is refused, unless the file says why it does
not: `allowed = {"drop column": "v1.4.0 was the last release that read it"}`.

Tables that the file itself makes may be treated as it likes: nobody knows them yet.
"""

import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.migrations import runner
from deploy.migrations.config import SERVICES

# Made before the first release: no older code ever ran beside them.
BASELINE = {"auth": "0009", "agent": "0003", "inference": "0004"}
TABLE = r"(?:ONLY )?(?:\w+\.)?(\w+)"
MADE = re.compile(rf"^CREATE TABLE (?:IF NOT EXISTS )?{TABLE}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a statement on a table that exists must not be. The first group of `target` is the table."""

    name: str
    target: re.Pattern[str]
    breaks: re.Pattern[str]
    why: str


def _rule(name: str, target: str, breaks: str, why: str) -> Rule:
    return Rule(name, re.compile(target, re.IGNORECASE), re.compile(breaks, re.IGNORECASE), why)


ALTER = rf"^ALTER TABLE (?:IF EXISTS )?{TABLE}"
PART = r"(?:\([^()]*\)|[^,(])"  # Of one of several actions: commas part them, but for those in parentheses.
INDEX = rf"^CREATE (?:UNIQUE )?INDEX .*? ON {TABLE}"
RULES = (
    _rule("drop table", rf"^DROP (?:TABLE|VIEW) (?:IF EXISTS )?{TABLE}", "", "old code still uses it"),
    _rule("drop column", ALTER, r"\bDROP COLUMN\b", "old code still reads and writes it"),
    _rule("rename", ALTER, r"\bRENAME\b", "old code knows the old name only: add, copy, and drop a release later"),
    _rule("change type", ALTER, r"\bALTER (?:COLUMN )?\w+ (?:SET DATA )?TYPE\b", "it rewrites the table under a lock, "
          "and old code writes the old type"),
    _rule("set not null", ALTER, r"\bSET NOT NULL\b", "old code does not fill it, and all rows are read under a lock"),
    _rule("drop default", ALTER, r"\bDROP DEFAULT\b", "old code does not fill it"),
    _rule("not null without default", ALTER,
          rf"\bADD (?:COLUMN )?(?!CONSTRAINT\b)\w+ (?!{PART}*?\bDEFAULT\b){PART}*?\bNOT NULL\b", "old code does not fill it"),
    _rule("volatile default", ALTER, r"\bADD COLUMN\b.*\bDEFAULT \(?(?:random|gen_random_uuid|clock_timestamp|nextval)\b",
          "it rewrites the table under a lock"),
    _rule("validated constraint", ALTER, r"\bADD (?:CONSTRAINT \w+ )?(?:CHECK|FOREIGN KEY)\b(?!.*\bNOT VALID\b)",
          "all rows are read under a lock: add it NOT VALID, and VALIDATE it in the next file"),
    _rule("unique constraint", ALTER, r"\bADD (?:CONSTRAINT \w+ )?(?:UNIQUE|PRIMARY KEY)\b(?!.*\bUSING INDEX\b)",
          "the index is built under a lock: build it CONCURRENTLY, then add it USING INDEX"),
    _rule("row level security", ALTER, r"\b(?:ENABLE|FORCE) ROW LEVEL SECURITY\b", "old code sees no rows any more"),
    _rule("index under a lock", INDEX, r"^CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY)",
          "writers wait until it is built: CREATE INDEX CONCURRENTLY, in an autocommit block"),
    _rule("unique index", INDEX, r"^CREATE UNIQUE", "old code does not know what must not be there twice"),
    _rule("rewrite rows", rf"^(?:UPDATE|DELETE FROM|TRUNCATE(?: TABLE)?) {TABLE}", "",
          "rows stay locked until the file is done: do it in batches, by code that runs later"),
    _rule("lock", rf"^LOCK (?:TABLE )?{TABLE}", "", "everybody waits"),
    _rule("revoke", rf"^REVOKE .*? ON (?:TABLE )?{TABLE}", "", "old code may still do it"),
    _rule("trigger", rf"^CREATE (?:OR REPLACE )?(?:CONSTRAINT )?TRIGGER .*? ON {TABLE}", "",
          "old code's writes do something else from now on"),
)  # fmt: skip
# Of these the table is not in the statement.
EVERYWHERE = (
    _rule("drop index", r"^DROP (INDEX)\b", r"^DROP INDEX (?!CONCURRENTLY)", "it waits for, and holds up, everybody"),
    _rule("drop function", r"^DROP (FUNCTION|TRIGGER|TYPE|SCHEMA)\b", "", "old code may still need it"),
)  # fmt: skip


def check() -> list[str]:
    """What is wrong, a sentence each."""
    return [problem for service in SERVICES for problem in _of_service(service)]


def problems(name: str, statements: list[str], allowed: Mapping[str, str]) -> Iterator[str]:
    """Of one version file."""
    flat = [" ".join(re.sub(r"--[^\n]*", "", one).split()).rstrip(";") for one in statements]
    made = {found[1].lower() for one in flat if (found := MADE.match(one))}
    broken: set[str] = set()
    for statement in flat:
        for rule in (*RULES, *EVERYWHERE):
            target = rule.target.match(statement)
            if target is None or target[1].lower() in made or _is_ours(target[1]):
                continue
            if rule.breaks.search(statement):
                broken.add(rule.name)
                if rule.name not in allowed:
                    yield f"{name}: {rule.name} ({statement[:80]}): {rule.why}"
    for unused in sorted(allowed.keys() - broken):
        yield f"{name}: allows {unused!r}, which nothing in it is"


def _is_ours(table: str) -> bool:
    return table.lower() == "alembic_version"


def _of_service(service: str) -> Iterator[str]:
    for path in sorted((runner.HERE / service / "versions").glob("0*.py")):
        revision = path.name[:4]
        if revision > BASELINE[service]:
            before = f"{int(revision) - 1:04d}"
            statements = runner.statements(service, before, revision)
            yield from problems(f"{service}/{path.name}", statements, _allowed(path))


def _allowed(path: Path) -> Mapping[str, str]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    allowed: Mapping[str, str] = getattr(module, "allowed", {})
    return allowed


def main() -> int:
    found = check()
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
