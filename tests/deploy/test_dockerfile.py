"""Faults that are planted in the Dockerfile and in the images' locks, and are seen."""

from pathlib import Path

import pytest

from deploy.check import dockerfile
from deploy.docker import digests
from deploy.docker.images import DOCKERFILE, IMAGES, Image
from deploy.docker.imports import needed


def test_the_dockerfile_and_the_locks_are_fine() -> None:
    assert [*dockerfile.instructions(DOCKERFILE.read_text())] == []
    assert [*dockerfile.packages()] == []


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("USER 10001:10001", "USER root", "service has no USER 10001:10001"),
        ('ENTRYPOINT ["sh", "/app/edge.sh"]', "ENTRYPOINT sh /app/edge.sh", "edge starts a shell"),
        ("STOPSIGNAL SIGTERM", "", "service has no STOPSIGNAL"),
        ("FROM service AS sandbox", "FROM service AS box", "there is no target sandbox"),
        ("FROM ${PYTHON_IMAGE} AS base", "FROM python:3.11 AS base", "a base is not that of digests.env"),
        ("COPY bootstrap.lock", "ADD bootstrap.lock", "ADD fetches and unpacks"),
    ],
)
def test_what_it_must_have(line: str, instead: str, said: str) -> None:
    text = DOCKERFILE.read_text()
    assert line in text
    told = [*dockerfile.instructions(text.replace(line, instead))]
    assert any(said in one for one in told), told


def test_a_package_that_is_imported_and_not_installed_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for image in IMAGES:
        for file in (image.lock, image.lock.with_suffix(".in")):
            (tmp_path / file.name).write_text(file.read_text())
    lock, asked = tmp_path / "auth.lock", tmp_path / "auth.in"
    lock.write_text(
        "\n".join(line for line in lock.read_text().splitlines() if not line.startswith("argon2-cffi=="))
    )
    asked.write_text(asked.read_text() + "httptools\n")
    monkeypatch.setattr(Image, "lock", property(lambda image: tmp_path / f"{image.service}.lock"))
    told = [*dockerfile.packages()]
    assert any("auth.lock: argon2-cffi is missing, whose argon2" in one for one in told), told
    assert any("auth.in: httptools is imported by nothing" in one for one in told), told


def test_imports_are_followed_into_functions_and_through_our_sources() -> None:
    found = needed(["services.auth.__main__"])
    assert {"argon2-cffi", "grpcio", "protobuf", "redis"} <= set(found)
    assert not {"langchain", "pytest", "mypy", "numpy"} & set(found)


DIGEST = "@sha256:" + 64 * "0"


@pytest.mark.parametrize(
    ("text", "all_pinned", "said"),
    [
        ("A_IMAGE=a:1\n", False, None),
        (f"A_IMAGE=a:1{DIGEST}\n", True, None),
        ("A_IMAGE=a:1\n", True, "A_IMAGE has no digest"),
        ("A_IMAGE=a:latest\n", False, "a tag that moves"),
        ("A_IMAGE=a\n", False, "is not NAME_IMAGE=image:tag"),
        ("A_IMAGE=a:1@sha256:123\n", False, "is not NAME_IMAGE=image:tag"),
    ],
)
def test_digests(text: str, all_pinned: bool, said: str | None) -> None:  # noqa: FBT001 - of a table.
    told = [*digests.problems(text, all_pinned=all_pinned)]
    assert (said is None and not told) or (said is not None and len(told) == 1 and said in told[0])


def test_the_images_of_others_are_all_named_well() -> None:
    assert [*digests.problems(digests.DIGESTS.read_text())] == []
