"""Secrets that were committed: the tree, and all that was ever in it, looked through for what keys and tokens look like."""

import hashlib
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping

from deploy.check.outcome import Skipped
from deploy.check.tools import ROOT, TIMEOUT_S

KINDS: Mapping[str, re.Pattern[str]] = {
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s*[A-Za-z0-9+/]{40}"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{82})\b"),
    "a GitLab token": re.compile(r"\bglpat-[\w-]{20}\b"),
    "a Slack token": re.compile(r"\bxox[abeprs]-[A-Za-z0-9-]{20,}\b"),
    "an OpenAI or Anthropic key": re.compile(r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}\b"),
    "a Google key": re.compile(r"\bAIza[\w-]{35}\b"),
    "a Stripe key": re.compile(r"\b[rs]k_live_[A-Za-z0-9]{24,}\b"),
    "an npm or PyPI token": re.compile(r"\b(?:npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{60,})\b"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z]{34}\b"),
    "a signed token": re.compile(r"\beyJ[\w-]{20,}\.eyJ[\w-]{20,}\.[\w-]{20,}\b"),
    "an API key of ours": re.compile(r"\bom_live_[A-Za-z0-9_-]{32,}\b"),
    "a password in a URL": re.compile(
        r"\b(?:postgres(?:ql)?|rediss?|https?)://[^\s:/@{$<\"']*:[A-Za-z0-9_-]{20,}@"
    ),
}
# What only looks like one: digests of what stands in tests and vectors, each made up for them. A new one has its file beside it.
ALLOWED: Mapping[str, str] = {
    "1a5d44a2dca19669": "tests/unit/test_logs_redaction.py plants it",
}
# Test vectors of others, which hold keys by their nature.
PASSED_BY = re.compile(r"(^|/)(wycheproof|vectors?)(/|[._-])|\.lock$")


def check() -> list[str]:
    return sorted({*problems(_tree()), *problems(_history())})


def problems(lines: Iterable[tuple[str, str]]) -> Iterator[str]:
    """`lines` are pairs of a file and text of it. What is found is never repeated, for this is printed."""
    for file, text in lines:
        if PASSED_BY.search(file):
            continue
        for kind, pattern in KINDS.items():
            for found in pattern.finditer(text):
                digest = hashlib.sha256(found[0].encode()).hexdigest()[:16]
                if digest not in ALLOWED:
                    yield f"{file}: {kind}, of the digest {digest}. If it was made up for a test, say so in deploy/check/secrets.py; else revoke it."


def _tree() -> Iterator[tuple[str, str]]:
    for name in _git("ls-files", "-z").split("\0"):
        path = ROOT / name
        if name and path.is_file() and not path.is_symlink():
            yield name, path.read_text(errors="replace")


def _history() -> Iterator[tuple[str, str]]:
    """Each file's added lines together, for a key has several."""
    file, added = "", list[str]()
    for line in _git("log", "--all", "--no-color", "--unified=0", "--format=", "--patch").split("\n"):
        if line.startswith("+++ "):
            yield f"{file} (in the history)", "\n".join(added)
            file, added = line.removeprefix("+++ b/"), []
        elif line.startswith("+"):
            added.append(line[1:])
    yield f"{file} (in the history)", "\n".join(added)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ("git", *arguments), cwd=ROOT, check=True, capture_output=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.CalledProcessError):
        raise Skipped("this is not a git checkout") from None
    return done.stdout.decode(errors="replace")
