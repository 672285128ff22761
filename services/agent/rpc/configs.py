"""What a caller's configuration means, and whether it can hold."""

from collections.abc import Mapping

from ollamesh.agent.v1 import assistant_pb2

from services.agent.core.run_config import RunConfig
from services.agent.errors import ToolNotFound
from services.agent.ports import ToolSpec
from services.agent.wire import resources
from services.common.errors import InvalidRequest, Violation


class Configs:
    def __init__(self, tools: Mapping[str, ToolSpec], *, default_model: str) -> None:
        self._tools, self._default_model = tools, default_model

    def of(self, config: assistant_pb2.RunConfig) -> RunConfig:
        """Defaults filled in. Raises ToolNotFound, InvalidRequest."""
        filled = resources.config_from_proto(config, model=self._default_model)
        for name in filled.tools:
            if name not in self._tools:
                raise ToolNotFound(tool=name)
        if filled.first_tool and filled.first_tool not in filled.tools:
            raise InvalidRequest([Violation("config.first_tool", "must be one of config.tools")])
        return filled
