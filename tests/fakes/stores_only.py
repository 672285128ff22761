"""The real plan's stores, with who observes them if that is wanted, and nothing else: `python -m tests.fakes.stores_only up|down|status`.

Settings are the environment's, as always.
"""

import sys

from deploy.local import warden

if __name__ == "__main__" and sys.argv[1] == "supervise":
    warden.detach()

import msgspec

from deploy.local import control, stack
from deploy.local.control import Outcome
from deploy.local.daemon import Prepared, main
from deploy.local.parts import all_parts
from deploy.local.plan import make_plan
from deploy.local.settings import OBSERVERS, Settings

STORES = {"postgres", "redis", "migrate"}


def up(settings: Settings) -> Outcome:
    argv = (sys.executable, "-m", "tests.fakes.stores_only", "supervise")
    return control.up(settings.home, argv, settings.variables(), lambda _: None)


def _prepare() -> Prepared:
    plan = make_plan(Settings.from_env())
    wanted = STORES.union(OBSERVERS if plan.settings.observes else ())
    return Prepared(parts=tuple(part for part in all_parts(plan) if part.node.name in wanted))


if __name__ == "__main__":
    settings = Settings.from_env()
    match sys.argv[1]:
        case "supervise":
            main(settings.home, _prepare)
        case "up":
            up(settings)
        case "down":
            stack.down(settings, lambda _: None)
        case "status":
            sys.stdout.write(msgspec.json.encode(stack.status(settings)).decode())
