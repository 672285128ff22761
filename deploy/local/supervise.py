"""`python -m deploy.local.supervise`: becomes the supervisor of the stack that the environment describes."""

from typing import TYPE_CHECKING

from deploy.local import warden

if TYPE_CHECKING:
    from deploy.local.daemon import Prepared


def _prepare() -> "Prepared":
    from deploy.local.daemon import Prepared
    from deploy.local.parts import all_parts
    from deploy.local.plan import make_plan
    from deploy.local.settings import Settings

    plan = make_plan(Settings.from_env())
    return Prepared(parts=all_parts(plan), edge=plan.edge, model_source=plan.source.kind)


if __name__ == "__main__":
    warden.detach()  # Before the imports, which the warden has no use for.

    from deploy.local.daemon import main
    from deploy.local.settings import Settings

    main(Settings.from_env().home, _prepare)
