"""`python -m deploy.docker.digests [--check]`: the digests of the images that are not ours (digests.env).

Without an argument it asks docker, which asks the registries, what each tag stands for now, and writes that down; it takes
docker with buildx. `--check` fails if any has no digest: what is released is built on known bits.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

DIGESTS = Path(__file__).with_name("digests.env")
LINE = re.compile(
    r"(?P<name>[A-Z_]+_IMAGE)=(?P<image>[a-z0-9][a-z0-9._/-]*:[A-Za-z0-9._-]+)(?P<digest>@sha256:[0-9a-f]{64})?"
)
TIMEOUT_S = 60


def problems(text: str, *, all_pinned: bool = False) -> Iterator[str]:
    for line in _lines(text):
        found = LINE.fullmatch(line)
        if found is None:
            yield f"digests.env: `{line}` is not NAME_IMAGE=image:tag[@sha256:digest]."
        elif found["image"].endswith(":latest"):
            yield f"digests.env: {found['name']} is of a tag that moves with every release."
        elif all_pinned and not found["digest"]:
            yield f"digests.env: {found['name']} has no digest; run `python -m deploy.docker.digests`."


def renewed(text: str) -> str:
    """Raises OSError or SubprocessError."""
    written = []
    for line in text.splitlines():
        if (found := LINE.fullmatch(line)) is not None:
            written.append(f"{found['name']}={found['image']}@{_digest(found['image'])}")
        else:
            written.append(line)
    return "\n".join([*written, ""])


def _lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line and not line.startswith("#"))


def _digest(image: str) -> str:
    command = ("docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", image)
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    return done.stdout.strip()


def main(arguments: Sequence[str]) -> int:
    text = DIGESTS.read_text()
    if list(arguments) == ["--check"]:
        wrong = [*problems(text, all_pinned=True)]
        print("\n".join(wrong) or "digests: all there")
        return int(bool(wrong))
    try:
        DIGESTS.write_text(renewed(text))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"digests: docker does not tell them ({type(error).__name__})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
