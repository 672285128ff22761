"""Text that PostgreSQL cannot hold: whoever sends it is told so, and nothing is called a bug."""

import base64
from typing import Any

import pytest
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.quota_pb2 import QuotaSubject

from tests.service.auth_app import config, serving
from tests.service.auth_people import INVALID, logged_in
from tests.stack import Database

PAGE_TOKEN = base64.urlsafe_b64encode(b"0 \0").decode()


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("ListApiKeys", pb.ListApiKeysRequest(page_token=PAGE_TOKEN)),
        ("RevokeApiKey", pb.RevokeApiKeyRequest(api_key_id="a\0")),
        ("CreateApiKey", pb.CreateApiKeyRequest(display_name="a\0b")),
        ("CreateApiKey", pb.CreateApiKeyRequest(display_name="a", project_id="a\0")),
        ("GetQuota", pb.GetQuotaRequest(subject=QuotaSubject(project_id="a\0"))),
        ("GetQuota", pb.GetQuotaRequest(subject=QuotaSubject(api_key_id="a\0"))),
    ],
)
async def test_it_is_refused(database: Database, method: str, request_: Any) -> None:
    async with serving(config(database("auth"))) as auth:
        admin = await logged_in(auth)
        assert (await admin.refused(method, request_)) == (INVALID, "INVALID_REQUEST")
