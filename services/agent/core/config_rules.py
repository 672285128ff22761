"""What a run's configuration must keep, beside the rules of its fields that its proto states."""

from collections import Counter
from collections.abc import Callable, Collection

from services.agent.core.run_config import RunConfig
from services.agent.errors import ToolNotFound
from services.common.errors import Violation

SchemaFlaw = Callable[[str], str | None]  # What is wrong with a JSON Schema, given as text.


def broken_rules(config: RunConfig, *, tools: Collection[str], schema_flaw: SchemaFlaw) -> list[Violation]:
    """Every rule that it breaks, by field. `tools` are those that its user may have. Raises ToolNotFound."""
    for name in config.tools:
        if name not in tools:
            raise ToolNotFound(tool=name)
    broken = []
    if config.first_tool and config.first_tool not in config.tools:
        broken.append(Violation("config.first_tool", "must be one of config.tools"))
    broken += [
        Violation(f"config.approval_tools[{at}]", "must be one of config.tools")
        for at, name in enumerate(config.approval_tools)
        if name not in config.tools
    ]
    kinds = Counter(rule.kind for rule in config.pii_rules)
    broken += [
        Violation(f"config.pii_rules[{at}].kind", "has a rule before this one")
        for at, rule in enumerate(config.pii_rules)
        if kinds[rule.kind] > 1 and rule.kind in {other.kind for other in config.pii_rules[:at]}
    ]
    if config.response_json_schema and (flaw := schema_flaw(config.response_json_schema)) is not None:
        broken.append(Violation("config.response_json_schema", flaw))
    return broken
