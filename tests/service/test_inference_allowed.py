"""A tenant and a role use the models that they are allowed, and do not see the others."""

import grpc
import pytest
from ollamesh.inference.v1 import completion_pb2, model_pb2
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from tests.fakes.fake_ollama import fake_model
from tests.service.inference_app import TINY, Service, events_of, one_instance, refused

Code = grpc.StatusCode
OTHER = fake_model("other:latest", "completion", "embedding")
TENANTS = '{"acme": ["tiny", "nope"]}'


async def names(service: Service, *, org: str = "org-1", role: str = "user") -> list[str]:
    found = await service.call("ListModels", model_pb2.ListModelsRequest(page_size=1), org=org, role=role)
    listed = [model.name for model in found.models]
    while found.next_page_token:
        request = model_pb2.ListModelsRequest(page_size=1, page_token=found.next_page_token)
        found = await service.call("ListModels", request, org=org, role=role)
        listed += [model.name for model in found.models]
    return listed


async def test_a_tenant_uses_and_sees_what_it_may() -> None:
    async with one_instance(TINY, OTHER, tenant_models=TENANTS) as (service, fake):
        assert (await events_of(service.chat(org="acme")))[-1].HasField("finished")
        assert (await events_of(service.chat(model="other")))[-1].HasField("finished")
        generate = completion_pb2.GenerateRequest(model="OTHER:latest", prompt="x")
        for call in (
            service.chat(model="other", org="acme"),
            service.chat(model="unheard-of", org="acme"),
            service.call("Generate", generate, org="acme"),
            service.call("Embed", EmbedRequest(model="other", input=["x"]), org="acme"),
        ):
            denied = await refused(call)
            assert (denied.code, denied.reason) == (Code.PERMISSION_DENIED, "MODEL_NOT_ALLOWED")
        assert denied.facts == {"model": "other"}
        assert (await refused(service.chat(model="nope", org="acme"))).reason == "MODEL_NOT_FOUND"
        assert len(fake.asked("/api/chat")) == 2
        assert await names(service, org="acme") == ["tiny:latest"]
        assert await names(service) == ["other:latest", "tiny:latest"]
        get = model_pb2.GetModelRequest(model="other")
        hidden = await refused(service.call("GetModel", get, org="acme"))
        assert (hidden.reason, hidden.facts) == ("MODEL_NOT_FOUND", {"model": "other"})


async def test_a_role_has_its_models_too() -> None:
    policy = '{"user": {"models": ["t*"]}}'
    async with one_instance(TINY, OTHER, policy=policy, tenant_models='{"acme": ["other"]}') as (service, _):
        assert (await refused(service.chat(model="other"))).reason == "MODEL_NOT_ALLOWED"
        assert await names(service) == ["tiny:latest"]
        assert await names(service, role="admin") == ["other:latest", "tiny:latest"]
        assert await names(service, org="acme") == [], "both must allow it"
        assert await names(service, org="acme", role="admin") == ["other:latest"]


OPERATORS = '{"default": ["tiny", "nope"]}'


@pytest.mark.parametrize("method", ["PullModel", "DeleteModel", "CopyModel", "LoadModel", "UnloadModel"])
async def test_the_fleet_is_the_founding_organisations_to_run(method: str) -> None:
    """What a tenant's admin deleted, all others would miss."""
    async with one_instance(TINY, OTHER) as (service, _):
        request = getattr(model_pb2, f"{method}Request")()
        refusal = await refused(service.call(method, request, org="acme", role="admin"))
        assert (refusal.code, refusal.reason) == (Code.PERMISSION_DENIED, "ROLE_REQUIRED")
        assert refusal.facts == {"role": "admin", "organization": "default"}


async def test_an_admin_loads_what_its_tenant_may_use() -> None:
    async with one_instance(TINY, OTHER, tenant_models=OPERATORS) as (service, _):
        load = model_pb2.LoadModelRequest(model="other")
        denied = await refused(service.call("LoadModel", load, role="admin"))
        assert (denied.code, denied.reason) == (Code.PERMISSION_DENIED, "MODEL_NOT_ALLOWED")


async def test_no_admin_gives_a_model_another_name_to_get_at_it() -> None:
    async with one_instance(TINY, OTHER, tenant_models=OPERATORS) as (service, fake):
        for source, destination in (("other", "nope"), ("tiny", "mine")):
            copy = model_pb2.CopyModelRequest(source=source, destination=destination)
            denied = await refused(service.call("CopyModel", copy, role="admin"))
            assert (denied.code, denied.reason) == (Code.PERMISSION_DENIED, "MODEL_NOT_ALLOWED")
        assert not fake.asked("/api/copy")
        copy = model_pb2.CopyModelRequest(source="tiny", destination="nope")
        await service.call("CopyModel", copy, role="admin")
