"""`python -m deploy.docker.sbom FOLDER`: what is in each image, as CycloneDX, from an environment that is made from its lock.

It is the environment that the image's build makes, by the same lock and hashes, so that no engine is needed to say what it holds.
What the base image holds is its own makers' to say; a release attests that, too (buildx, `sbom: true`).
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy.docker.images import IMAGES, ROOT, Image

UV = ROOT / ".tools" / "bin" / "uv"
CYCLONEDX = ROOT / ".tools" / "deploy" / "bin" / "cyclonedx-py"
TIMEOUT_S = 300


def write(image: Image, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{image.service}.cdx.json"
    with tempfile.TemporaryDirectory(prefix="ollamesh-sbom-") as made:
        python = Path(made) / "bin" / "python"
        _run(UV, "venv", "--quiet", "--python", sys.executable, made)
        _run(
            *(
                UV,
                "pip",
                "install",
                "--quiet",
                "--python",
                python,
                "--require-hashes",
                "--only-binary",
                ":all:",
            ),
            *("--no-deps", "-c", ROOT / "requirements.lock", "-r", image.lock),
        )
        _run(
            *(CYCLONEDX, "environment", "--output-reproducible", "--pyproject", ROOT / "pyproject.toml"),
            *("--output-format", "JSON", "--output-file", target, python),
        )
    return target


def _run(*command: str | Path) -> None:
    subprocess.run(
        [str(part) for part in command], check=True, timeout=TIMEOUT_S, env={**os.environ, "NO_COLOR": "1"}
    )


def main(arguments: Sequence[str]) -> int:
    (folder,) = arguments
    for image in IMAGES:
        print(write(image, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
