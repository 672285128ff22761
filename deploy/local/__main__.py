"""`python -m deploy.local up|down|status|doctor [--json]`: what `make up` and its siblings run."""

import argparse
import sys

import msgspec

from deploy.local import doctor, report, stack
from deploy.local.control import Outcome
from deploy.local.errors import StackError
from deploy.local.settings import Settings

EXIT_FAILED, EXIT_NOT_RUNNING = 1, 3


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _up(settings: Settings) -> int:
    outcome = stack.up(settings, _say)
    status = stack.status(settings)
    was_up = outcome is Outcome.WAS_UP
    print("\n".join(report.up_lines(status, was_up=was_up, observes=settings.observes)))
    return 0


def _down(settings: Settings) -> int:
    print("down" if stack.down(settings, _say) else "was not running")
    return 0


def _status(settings: Settings, *, as_json: bool) -> int:
    status = stack.status(settings)
    if as_json:
        print(msgspec.json.encode(status).decode())
    else:
        print("\n".join(report.status_table(status)))
    if not status.running:
        return EXIT_NOT_RUNNING
    return 0 if status.ready else EXIT_FAILED


def _doctor(settings: Settings, *, as_json: bool) -> int:
    checks = []
    for check in doctor.examine(settings):
        checks.append(check)
        if not as_json:
            print("\n".join(report.check_lines(check)), flush=True)
    if as_json:
        print(msgspec.json.encode(checks).decode())
    return 0 if all(check.ok for check in checks) else EXIT_FAILED


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status", "doctor"))
    parser.add_argument("--json", action="store_true", help="for programs (status, doctor)")
    parsed = parser.parse_args(arguments)
    try:
        settings = Settings.from_env()
        match parsed.command:
            case "up":
                return _up(settings)
            case "down":
                return _down(settings)
            case "status":
                return _status(settings, as_json=parsed.json)
            case _:
                return _doctor(settings, as_json=parsed.json)
    except StackError as error:
        _say(f"ollamesh: {error}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
