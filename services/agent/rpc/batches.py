"""Batches of runs over gRPC; decides nothing but what a request means."""

from collections.abc import Iterator

from ollamesh.agent.v1 import agent_service_pb2 as pb

from services.agent.batches import Batches
from services.agent.core import prompt
from services.agent.rpc.asking import asked_as, owner
from services.agent.rpc.configs import Configs
from services.agent.wire import resources
from services.common.errors import Violation
from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.common.grpc.validation import further
from services.common.screening import FLAG_HEADER, Screen


class BatchMethods:
    def __init__(self, batches: Batches, configs: Configs, screen: Screen) -> None:
        self._batches, self._configs, self._screen = batches, configs, screen

    async def StartRuns(self, request: pb.StartRunsRequest, context: Context) -> pb.StartRunsResponse:
        questions = [prompt.normalised(text) for text in request.inputs]
        if self._screen.flags([(f"inputs[{at}]", text) for at, text in enumerate(questions)]):
            await context.send_initial_metadata((FLAG_HEADER,))
        whose, retry = owner(), asked_as(request, request.request_id)
        runs = await self._batches.repeated(whose, retry)
        if runs is None:
            chosen = await self._configs.chosen(whose, request.assistant_id, request.config)
            stored = [self._configs.storable(question, chosen.config) for question in questions]
            runs = await self._batches.start(whose, stored, chosen, token=caller().token, retry=retry)
        response = pb.StartRunsResponse(runs=map(resources.run_to_proto, runs))
        for run in response.runs:  # A thousand times the same could be too much for one message.
            run.ClearField("config")
        return response


def _broken_rules(request: pb.StartRunsRequest) -> Iterator[Violation]:
    for at, text in enumerate(request.inputs):
        for broken in prompt.broken_rules(text):
            yield Violation(f"inputs[{at}]", broken.description, broken.rule)


further(pb.StartRunsRequest, lambda request: list(_broken_rules(request)))
