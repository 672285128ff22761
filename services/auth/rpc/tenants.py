"""Organisations, projects and service accounts over gRPC; decides nothing."""

from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1 import identity_pb2

from services.auth.core.request_digest import RequestDigest
from services.auth.people_ports import Account, Organization, Project
from services.auth.rpc.asking import ROLE_NUMBERS, ROLES, actor, asked, next_page_token, page
from services.auth.rpc.people import user
from services.auth.tenants import AccountWanted, OrganizationWanted, Tenants
from services.common.grpc.around import Context


class TenantMethods:
    def __init__(self, tenants: Tenants, digest: RequestDigest) -> None:
        self._tenants, self._request_digest = tenants, digest

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, context: Context
    ) -> pb.CreateOrganizationResponse:
        wanted = OrganizationWanted(
            display_name=request.display_name,
            organization_id=request.organization_id,
            admin_username=request.admin_username,
            admin_password=request.admin_password,
        )
        named = asked(self._request_digest, request, request.request_id)
        made, admin = await self._tenants.create_organization(actor(), wanted, named)
        return pb.CreateOrganizationResponse(organization=_organization(made), admin=user(admin))

    async def ListOrganizations(
        self, request: pb.ListOrganizationsRequest, context: Context
    ) -> pb.ListOrganizationsResponse:
        found = await self._tenants.organizations(actor(), page(request.page_size, request.page_token))
        return pb.ListOrganizationsResponse(
            organizations=map(_organization, found.items), next_page_token=next_page_token(found.next_after)
        )

    async def CreateProject(
        self, request: pb.CreateProjectRequest, context: Context
    ) -> pb.CreateProjectResponse:
        named = asked(self._request_digest, request, request.request_id)
        made = await self._tenants.create_project(actor(), request.display_name, request.project_id, named)
        return pb.CreateProjectResponse(project=_project(made))

    async def ListProjects(
        self, request: pb.ListProjectsRequest, context: Context
    ) -> pb.ListProjectsResponse:
        found = await self._tenants.projects(actor(), page(request.page_size, request.page_token))
        return pb.ListProjectsResponse(
            projects=map(_project, found.items), next_page_token=next_page_token(found.next_after)
        )

    async def CreateServiceAccount(
        self, request: pb.CreateServiceAccountRequest, context: Context
    ) -> pb.CreateServiceAccountResponse:
        wanted = AccountWanted(
            client_id=request.client_id,
            role=ROLES[request.role],
            scopes=frozenset(request.scopes),
            project_id=request.project_id,
        )
        named = asked(self._request_digest, request, request.request_id)
        account, secret = await self._tenants.create_account(actor(), wanted, named)
        return pb.CreateServiceAccountResponse(
            client_id=account.client_id, client_secret=secret, service_account=_account(account)
        )

    async def ListServiceAccounts(
        self, request: pb.ListServiceAccountsRequest, context: Context
    ) -> pb.ListServiceAccountsResponse:
        found = await self._tenants.accounts(actor(), page(request.page_size, request.page_token))
        return pb.ListServiceAccountsResponse(
            service_accounts=map(_account, found.items), next_page_token=next_page_token(found.next_after)
        )

    async def DisableServiceAccount(
        self, request: pb.DisableServiceAccountRequest, context: Context
    ) -> pb.DisableServiceAccountResponse:
        changed = await self._tenants.disable_account(actor(), request.client_id)
        return pb.DisableServiceAccountResponse(service_account=_account(changed))


def _organization(found: Organization) -> identity_pb2.Organization:
    return identity_pb2.Organization(
        organization_id=found.organization_id, display_name=found.display_name, create_time=found.create_time
    )


def _project(found: Project) -> identity_pb2.Project:
    return identity_pb2.Project(
        project_id=found.project_id,
        organization_id=found.organization_id,
        display_name=found.display_name,
        create_time=found.create_time,
    )


def _account(found: Account) -> identity_pb2.ServiceAccount:
    return identity_pb2.ServiceAccount(
        client_id=found.client_id,
        role=ROLE_NUMBERS[found.role],
        organization_id=found.organization_id,
        project_id=found.project_id,
        scopes=sorted(found.scopes),
        disabled=found.disabled,
        create_time=found.create_time,
    )
