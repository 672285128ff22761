"""`python -m deploy.check [--strict] [SUBJECT...]`: look at all subjects, or at those named; exit status 1 on problems."""

import argparse
import sys
from collections.abc import Mapping, Sequence

from deploy.check.subjects import Check, looked_at, subjects


def main(arguments: Sequence[str], checks: Mapping[str, Check]) -> int:
    parser = argparse.ArgumentParser(prog="deploy-check")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"one of: {', '.join(checks)}")
    parser.add_argument("--strict", action="store_true", help="what had to be skipped is a failure")
    parser.add_argument("--list", action="store_true", help="name the subjects and look at none")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.subjects) - set(checks):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(checks)}")
    chosen = {name: checks[name] for name in asked.subjects or checks}
    if asked.list:
        print("\n".join(chosen))
        return 0
    return _run(chosen, strict=asked.strict)


def _run(checks: Mapping[str, Check], *, strict: bool) -> int:
    failed = 0
    width = max(map(len, checks), default=0)
    for name, check in checks.items():
        outcome = looked_at(name, check)
        print(f"{name:{width}}  {outcome.took_s:6.1f} s  {outcome.told}", flush=True)
        for problem in outcome.problems:
            print(f"  - {problem}", flush=True)
        failed += outcome.failed(strict=strict)
    print(f"deploy-check: {failed} of {len(checks)} subjects failed" if failed else "deploy-check: fine")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], subjects()))
