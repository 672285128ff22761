"""Where the parts of the alerting are."""

from pathlib import Path

FOLDER = Path(__file__).parent
RULES = FOLDER / "rules"
TESTS = FOLDER / "tests"
RUNBOOKS = FOLDER.parent / "runbooks"
SLOS = FOLDER / "slos.yml"
SLO_RULES = RULES / "slo.yml"
