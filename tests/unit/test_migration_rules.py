"""What a version file must not do to a table that old code still uses, and what it may."""

import pytest

from deploy.migrations.check import check, problems

REFUSED = {
    "drop table": "DROP TABLE old",
    "drop column": "ALTER TABLE old DROP COLUMN a",
    "rename": "ALTER TABLE old RENAME COLUMN a TO b",
    "change type": "ALTER TABLE old ALTER COLUMN a TYPE bigint",
    "set not null": "ALTER TABLE old ALTER COLUMN a SET NOT NULL",
    "drop default": "ALTER TABLE old ALTER COLUMN a DROP DEFAULT",
    "not null without default": "ALTER TABLE agent.old ADD COLUMN b text DEFAULT '', ADD COLUMN a text NOT NULL",
    "not null without default ": "ALTER TABLE old ADD COLUMN a numeric(10, 2) NOT NULL",
    "volatile default": "ALTER TABLE old ADD COLUMN a uuid NOT NULL DEFAULT gen_random_uuid()",
    "validated constraint": "ALTER TABLE old ADD CONSTRAINT c CHECK (a > 0)",
    "unique constraint": "ALTER TABLE old ADD CONSTRAINT c UNIQUE (a)",
    "row level security": "ALTER TABLE old ENABLE ROW LEVEL SECURITY",
    "index under a lock": "CREATE INDEX i ON old (a)",
    "unique index": "CREATE UNIQUE INDEX CONCURRENTLY i ON old (a)",
    "rewrite rows": "UPDATE old SET a = 1",
    "lock": "LOCK TABLE old",
    "revoke": "REVOKE UPDATE ON old FROM ollamesh_agent",
    "trigger": "CREATE TRIGGER t BEFORE UPDATE ON old FOR EACH ROW EXECUTE FUNCTION f()",
    "drop index": "DROP INDEX i",
    "drop function": "DROP FUNCTION f",
}
TAKEN = [
    "ALTER TABLE old ADD COLUMN a text",
    "ALTER TABLE old ADD COLUMN a text NOT NULL DEFAULT ''",
    "ALTER TABLE old ADD COLUMN a text DEFAULT '' NOT NULL",
    "ALTER TABLE old ALTER COLUMN a DROP NOT NULL",
    "ALTER TABLE old ADD CONSTRAINT c CHECK (a > 0) NOT VALID",
    "ALTER TABLE old VALIDATE CONSTRAINT c",
    "ALTER TABLE old ADD CONSTRAINT c UNIQUE USING INDEX i",
    "CREATE INDEX CONCURRENTLY i ON old (a)",
    "DROP INDEX CONCURRENTLY i",
    "CREATE TABLE new (a int)",
    "INSERT INTO old VALUES (1)",
    "UPDATE agent.alembic_version SET version_num = '0004'",
    "GRANT SELECT ON old TO ollamesh_agent",
]


@pytest.mark.parametrize("rule", REFUSED)
def test_what_old_code_would_not_survive_is_refused(rule: str) -> None:
    (problem,) = problems("agent/0004_x.py", [f"\n  {REFUSED[rule]};"], {})
    assert problem.startswith(f"agent/0004_x.py: {rule.strip()} (")
    assert list(problems("x", [REFUSED[rule]], {rule.strip(): "because"})) == []


@pytest.mark.parametrize("statement", TAKEN)
def test_what_only_adds_is_taken(statement: str) -> None:
    assert list(problems("x", [statement], {})) == []


def test_a_table_that_the_file_makes_is_its_own() -> None:
    own = [REFUSED[rule] for rule in REFUSED if "old" in REFUSED[rule]]
    assert list(problems("x", ["CREATE TABLE IF NOT EXISTS old (a int)", *own], {})) == []


def test_a_permission_that_nothing_needs_is_refused() -> None:
    (problem,) = problems("x", [TAKEN[0]], {"rename": "no longer true"})
    assert "allows 'rename'" in problem


def test_a_comment_is_no_statement() -> None:
    assert list(problems("x", ["ALTER TABLE old ADD COLUMN a text -- never DROP COLUMN b\n"], {})) == []


def test_our_own_files_keep_the_rules() -> None:
    assert check() == []
