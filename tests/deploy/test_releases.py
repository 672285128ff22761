"""One version; workflows, licences and secrets: faults that are planted are seen."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.utils import parse_wheel_filename

from deploy import release
from deploy.check import licences, releases, secrets
from deploy.docker.images import version

WORKFLOW = (releases.WORKFLOWS / "ci.yml").read_text()


def test_all_say_the_same_version() -> None:
    assert [*release.problems()] == []
    said = subprocess.run(
        [sys.executable, "-c", "from clients.cli.main import main; main()", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"ollamesh {version()}\n"


def test_a_chart_of_another_version_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chart = tmp_path / "Chart.yaml"
    chart.write_text('version: 9.9.9\nappVersion: "0.0.1"\n')
    monkeypatch.setattr(release, "CHART", chart)
    told = " ".join(release.problems())
    assert "version is 9.9.9" in told
    assert "appVersion is 0.0.1" in told


def test_a_tag_has_to_fit_and_to_have_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changelog = tmp_path / "CHANGELOG.md"
    monkeypatch.setattr(release, "CHANGELOG", changelog)
    changelog.write_text("# Changelog\n\n## Unreleased\n\n- x\n")
    assert [one.partition(":")[0] for one in release.problems(f"v{version()}")] == ["CHANGELOG.md"]
    changelog.write_text(f"## {version()} - 2026-11-30\n\n### Added\n- This.\n\n## 0.0.1\n\n- That.\n")
    assert [*release.problems(f"v{version()}")] == []
    assert release.notes(changelog.read_text(), version()) == "### Added\n- This."
    assert any("The tag is v9.9.9" in one for one in release.problems("v9.9.9"))


def test_the_clients_wheel_is_whole_and_always_the_same(tmp_path: Path) -> None:
    path = release.wheel(tmp_path / "a")
    assert path.read_bytes() == release.wheel(tmp_path / "b").read_bytes()
    assert str(parse_wheel_filename(path.name)[1]) == version()
    with zipfile.ZipFile(path) as file:
        names = set(file.namelist())
        metadata = file.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert {
        "ollamesh/client/__init__.py",
        "ollamesh/agent/v1/run_pb2.py",
        "buf/validate/validate_pb2.py",
    } <= names
    assert not {name for name in names if name.startswith(("services/", "google/"))}
    assert "Requires-Dist: grpcio\n" in metadata


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        (
            "actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2",
            "actions/checkout@v4",
            "not pinned",
        ),
        (
            "permissions: {}\n\nconcurrency",
            "permissions: write-all\n\nconcurrency",
            "rights that they do not name",
        ),
        ("    timeout-minutes: 90\n", "", "gate may run for ever"),
        ("          - {image: edge, target: edge}\n", "", "does not build exactly the images"),
        ("make deploy-check", "make deploy-chek", "there is no make deploy-chek"),
    ],
)
def test_what_a_workflow_must_not(line: str, instead: str, said: str) -> None:
    assert line in WORKFLOW
    assert any(said in one for one in releases.problems("ci.yml", WORKFLOW.replace(line, instead)))


@pytest.mark.parametrize("file", sorted(releases.WORKFLOWS.glob("*.yml")), ids=lambda file: file.name)
def test_the_workflows_are_fine(file: Path) -> None:
    assert [*releases.problems(file.name, file.read_text())] == []


@pytest.mark.parametrize(
    ("found", "is_fine"),
    [
        ("Apache-2.0", True),
        ("MIT OR GPL-3.0", False),
        ("LGPL-3.0-or-later", True),
        ("GNU Library or Lesser General Public License (LGPL)", True),
        ("GPL-3.0-only", False),
        ("GNU Affero General Public License v3", False),
        ("SSPL-1.0", False),
        ("", False),
        ("Ask us", False),
        (None, True),
    ],
)
def test_licences(found: str | None, is_fine: bool) -> None:  # noqa: FBT001 - of a table.
    assert ([*licences.problems("x", found)] == []) is is_fine


def test_the_images_hold_nothing_that_binds() -> None:
    assert licences.check() == []


PLANTED = {
    "a private key": "-----BEGIN EC PRIVATE KEY-----\n" + 44 * "A",
    "an AWS key": "AKIA" + 16 * "Q",
    "a GitHub token": "ghp_" + 36 * "a",
    "a GitLab token": "glpat-" + 20 * "a",
    "a Slack token": "xoxb-" + 24 * "1",
    "an OpenAI or Anthropic key": "sk-proj-" + 40 * "a",
    "a Google key": "AIza" + 35 * "b",
    "a Stripe key": "sk_live_" + 24 * "c",
    "an npm or PyPI token": "npm_" + 36 * "d",
    "a Hugging Face token": "hf_" + 34 * "e",
    "a signed token": ".".join(("eyJ" + 24 * "a", "eyJ" + 24 * "b", 24 * "c")),
    "an API key of ours": "om_live_" + 40 * "f",
    "a password in a URL": "postgresql://ollamesh:" + 24 * "g" + "@db:5432/x",
}


@pytest.mark.parametrize("kind", secrets.KINDS)
def test_each_kind_of_secret_is_seen_and_not_repeated(kind: str) -> None:
    (told,) = secrets.problems([("some/file.py", f"x = '{PLANTED[kind]}'")])
    assert kind in told
    assert PLANTED[kind][-16:] not in told


def test_what_is_no_secret_is_left_alone() -> None:
    fine = (
        "postgresql://ollamesh:${PASSWORD}@db/x",
        "sk-short",
        "-----BEGIN CERTIFICATE-----",
        "redis://:secret@redis:6379",
    )
    assert [*secrets.problems([("file", text) for text in fine])] == []
