"""What a caller's configuration means, and whether it can hold."""

from collections.abc import Mapping

from ollamesh.agent.v1 import assistant_pb2

from services.agent.assistants import Assistants
from services.agent.core.config_rules import SchemaFlaw, broken_rules
from services.agent.core.ids import Owner
from services.agent.core.pii import Detectors, Redactor
from services.agent.core.policy import Rules
from services.agent.core.run_config import Chosen, RunConfig
from services.agent.core.text_filter import filtered
from services.agent.ports import ToolSpec
from services.agent.wire import resources, values
from services.agent.wire.merging import merged
from services.common.errors import InvalidRequest
from services.common.grpc.caller import caller


class Configs:
    def __init__(
        self,
        tools: Mapping[str, ToolSpec],
        assistants: Assistants,
        rules: Rules,
        *,
        default_model: str,
        schema_flaw: SchemaFlaw,
        detectors: Detectors,
    ) -> None:
        self._tools, self._assistants, self._rules = tools, assistants, rules
        self._default_model, self._schema_flaw, self._detectors = default_model, schema_flaw, detectors

    def checked(self, config: assistant_pb2.RunConfig) -> RunConfig:
        """Defaults filled in, if the caller may have it so. Raises ToolNotFound, InvalidRequest."""
        filled = resources.config_from_proto(config, model=self._default_model)
        role = caller().role.value
        tools = {name for name in self._tools if not self._rules.refuse(name, role)}
        if broken := broken_rules(filled, tools=tools, schema_flaw=self._schema_flaw):
            raise InvalidRequest(broken)
        return filled

    def storable(self, text: str, config: RunConfig) -> str:
        """What users say, without the personal data that the run's rules keep out. Raises PiiBlocked."""
        return filtered(text, Redactor(config.pii_rules, self._detectors)) if config.pii_rules else text

    async def chosen(self, owner: Owner, assistant_id: str, own: assistant_pb2.RunConfig) -> Chosen:
        """For a run that may name an assistant, which is taken as it is now.

        Raises AssistantNotFound, ToolNotFound, InvalidRequest, StoreFailure.
        """
        if not assistant_id:
            return Chosen(config=self.checked(own))
        found = await self._assistants.find(owner, values.assistant_id(assistant_id))
        config = merged(assistant_pb2.RunConfig.FromString(found.config), own)
        return Chosen(
            config=self.checked(config), assistant_id=found.assistant_id, assistant_version=found.version
        )
