"""Row-level security is set aside in these places only, each for work that belongs to no tenant."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATABASE = ROOT / "services" / "common" / "postgres.py"
# Who says `system=True`, and why that is right.
PLACES = {
    # Whoever logs in has no tenant yet; founders are made before there is one.
    "services/auth/adapters/postgres.py": "found find_user find_service_account replace_password_hash",
    # Clients belong to all; a grant says whose it is only once it is found.
    "services/auth/adapters/postgres_oauth.py": "add_client find_client find_identity",
    # Tenants are made and listed by those who belong to another one; a new account's name must be no client's of any.
    "services/auth/adapters/postgres_tenants.py": "create_account create_organization organizations",
    # A key says whose it is only once it is found.
    "services/auth/adapters/postgres_api_keys.py": "find used",
    # A mandate says whom it is for only once it is found.
    "services/auth/adapters/postgres_mandates.py": "find end",
    # Every organisation's are sealed anew when the encryption key changes.
    "services/auth/adapters/postgres_secrets.py": "reseal",
    # A reservation's id says whose it is only once it is found.
    "services/auth/adapters/postgres_quotas.py": "reserve settle sweep",
    # Workers hold runs by lease, whoever's they are; watchers were let in by whoever found the run for them.
    "services/agent/adapters/postgres_runs.py": "request_cancel roll_back watched tidy",
    "services/agent/adapters/postgres_leases.py": (
        "begin history keep adopt take wake suspend give_back claim keep_mandate"
    ),
    "services/agent/adapters/postgres_events.py": "append read told",
    # Workers know runs, not owners: a thread's summary is found by a run of it.
    "services/agent/adapters/postgres_summaries.py": "find keep",
    # Whoever decides has found the run; time decides without an owner.
    "services/agent/adapters/postgres_approvals.py": "settle settled",
    # Workers take items of all batches; the ledger is written for many callers at once.
    "services/inference/adapters/postgres_batch_items.py": "open keep finish put_back sweep _taken",
    "services/inference/adapters/postgres_usage.py": "write",
    # Read part by part, after its owner has found it.
    "services/inference/adapters/postgres_files.py": "part",
}


def test_only_these_see_every_tenant() -> None:
    found = defaultdict(set)
    for path in sorted((ROOT / "services").glob("**/*.py")):
        if path == DATABASE:
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.AsyncFunctionDef) and any(map(_sees_all, ast.walk(function))):
                found[path.relative_to(ROOT).as_posix()].add(function.name)
    assert found == {path: set(names.split()) for path, names in PLACES.items()}


def _sees_all(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.keyword)
        and node.arg == "system"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    )


def test_only_the_database_says_whose_rows_are_seen() -> None:
    for path in (ROOT / "services").glob("**/*.py"):
        if path != DATABASE:
            assert "ollamesh.system" not in path.read_text(), path
            assert "ollamesh.organization" not in path.read_text(), path
