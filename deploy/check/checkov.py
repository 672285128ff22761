"""What checkov says of every document that is rendered; what it is told to pass over stands here, with its reason."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from deploy.check.charts import Document, rendered
from deploy.check.tools import ran, tool

# Of every document.
SKIPPED = {
    "CKV_K8S_43": "digests are the operator's to give (image.digests): releases have them, a checkout does not",
    "CKV_K8S_15": "images are pulled anew when their tag or digest changes, and at no other time",
    "CKV_K8S_21": "the namespace is the release's: Helm gives it when it installs",
}
# Of one part: user namespaces, of which jails are made, are refused by RuntimeDefault where the pod has no kernel of its own.
SKIPPED_OF = {("CKV_K8S_31", "sandbox"): "docs/kubernetes.md says where"}


# What it has to find, each time, or it has not looked.
CANARY = "canary"
_PRIVILEGED: Document = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": CANARY, "namespace": "ollamesh"},
    "spec": {"containers": [{"name": CANARY, "image": CANARY, "securityContext": {"privileged": True}}]},
}


def check() -> list[str]:
    found = list(problems({**rendered(), CANARY: [_PRIVILEGED]}))
    others = [problem for problem in found if not problem.startswith(f"{CANARY}: ")]
    return (
        others
        if any("privileged" in problem for problem in found)
        else [*others, "checkov overlooks a privileged container."]
    )


def problems(sets: Mapping[str, Sequence[Document]]) -> Iterator[str]:
    """All in one run, for it takes long to start. Raises Skipped without checkov."""
    program = tool("checkov", "checkov")
    with TemporaryDirectory() as made:
        for name, documents in sets.items():
            (Path(made) / f"{name}.yaml").write_text(yaml.dump_all(documents, Dumper=yaml.CSafeDumper))
        done = ran(
            *(program, "--directory", made, "--framework", "kubernetes", "--output", "json"),
            *("--compact", "--quiet", "--skip-download", "--skip-check", ",".join(SKIPPED)),
        )
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        yield f"checkov said nothing that can be read: {done.stderr.strip()[-200:]}"
        return
    for failed in report.get("results", {}).get("failed_checks", ()):
        if not _is_skipped(failed):
            place = Path(failed["file_path"]).stem
            yield f"{place}: {failed['resource']}: {failed['check_name']} ({failed['check_id']})."


def _is_skipped(failed: Mapping[str, Any]) -> bool:
    # KIND.NAMESPACE.NAME, and of pods KIND.NAMESPACE.NAME.LABELS….
    part = str(failed["resource"]).split(".")[2].partition("-")[0]
    return (failed["check_id"], part) in SKIPPED_OF
