"""A client of roster with grpc-python. It makes the calls of the walk in the documents, and checks every answer and
every error. interop/run.sh starts a server with an empty database and sets the variables."""

import os
import pathlib
import re
import sys
import time

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from roster.v1 import check_service_pb2, check_service_pb2_grpc
from roster.v1 import event_service_pb2, event_service_pb2_grpc
from roster.v1 import invitation_service_pb2, invitation_service_pb2_grpc
from roster.v1 import organization_service_pb2, organization_service_pb2_grpc
from roster.v1 import resources_pb2
from roster.v1 import user_service_pb2, user_service_pb2_grpc

ACME = "acme-inc"
# The deadline of every call, in seconds.
CALL_LIMIT = 10
# The longest wait for a mail, in seconds.
MAIL_LIMIT = 10

check_pb = check_service_pb2
event_pb = event_service_pb2
invitation_pb = invitation_service_pb2
organization_pb = organization_service_pb2
user_pb = user_service_pb2


def bearer(variable):
    """The metadata with the bearer token in a variable of the environment; none for None."""
    return [] if variable is None else [("authorization", f"Bearer {os.environ[variable]}")]


def call(variable, method, request):
    return method(request, timeout=CALL_LIMIT, metadata=bearer(variable))


def equal(what, got, want):
    assert got == want, f"{what}: got {got!r}, want {want!r}"


def details(status, kind):
    """The details of this type in a google.rpc.Status."""
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            yield message


def check_refusal(status, code, reason, metadata):
    """Fails unless the status has this code, and an ErrorInfo of roster with this reason and this metadata."""
    equal("code", status.code, code.value[0])
    infos = list(details(status, error_details_pb2.ErrorInfo))
    equal("number of ErrorInfo details", len(infos), 1)
    equal("domain", infos[0].domain, "roster")
    equal("reason", infos[0].reason, reason)
    equal("metadata", dict(infos[0].metadata), metadata)


def refused(variable, method, request, code, reason, **metadata):
    """Makes a call that fails with this code and this reason, and returns its google.rpc.Status."""
    try:
        call(variable, method, request)
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        assert status is not None, f"the error has no details: {error}"
        check_refusal(status, code, reason, metadata)
        return status
    raise AssertionError(f"the call succeeded, want {reason}")


class Walk:
    def __init__(self, channel):
        self.checks = check_service_pb2_grpc.CheckServiceStub(channel)
        self.events = event_service_pb2_grpc.EventServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.invitations = invitation_service_pb2_grpc.InvitationServiceStub(channel)
        self.organizations = organization_service_pb2_grpc.OrganizationServiceStub(channel)
        self.users = user_service_pb2_grpc.UserServiceStub(channel)
        # The id of the organization ACME.
        self.id = None
        # The consistency token of the latest write.
        self.token = None

    def healthy(self):
        """The server is healthy."""
        answer = call(None, self.health.Check, health_pb2.HealthCheckRequest())
        equal("status", answer.status, health_pb2.HealthCheckResponse.SERVING)

    def callers(self):
        """Each token identifies its caller."""
        for variable, name in [("ADA", "Ada Lovelace"), ("GRACE", "Grace Hopper")]:
            answer = call(variable, self.users.GetCaller, user_pb.GetCallerRequest())
            equal("kind", answer.kind, "user")
            equal("id", answer.user.user_id, answer.id)
            equal("name", answer.user.display_name, name)
            equal("email", answer.user.email, f"{answer.id}@example.com")
            equal("verified", answer.user.email_verified, True)
        answer = call("SERVICE", self.users.GetCaller, user_pb.GetCallerRequest())
        equal("kind", answer.kind, "service")
        equal("scopes", sorted(answer.scopes), ["act-as", "check", "manage"])

    def credentials(self):
        """A call without a valid credential fails."""
        os.environ["INVALID"] = "not-a-token"
        for variable, reason in [(None, "CREDENTIAL_MISSING"), ("INVALID", "CREDENTIAL_INVALID")]:
            request = user_pb.GetCallerRequest()
            refused(variable, self.users.GetCaller, request, grpc.StatusCode.UNAUTHENTICATED, reason)

    def create(self):
        """Ada creates an organization."""
        request = organization_pb.CreateOrganizationRequest(
            name="Acme, Inc.", request_id="0d1f4a52-7c39-4b1c-9a0e-54a86d5f0e27"
        )
        self.id = call("ADA", self.organizations.CreateOrganization, request).organization.id
        repeated = call("ADA", self.organizations.CreateOrganization, request)
        equal("id of the repetition", repeated.organization.id, self.id)
        request = organization_pb.GetOrganizationRequest(organization=ACME)
        organization = call("ADA", self.organizations.GetOrganization, request).organization
        equal("id", organization.id, self.id)
        equal("slug", organization.slug, ACME)
        equal("name", organization.name, "Acme, Inc.")
        equal("owner", organization.owner_user_id, "ada")
        equal("state", organization.state, resources_pb2.ORGANIZATION_STATE_ACTIVE)

    def invalid(self):
        """An invalid request names its fields."""
        request = organization_pb.CreateOrganizationRequest(slug="-")
        code = grpc.StatusCode.INVALID_ARGUMENT
        status = refused("ADA", self.organizations.CreateOrganization, request, code, "INVALID_REQUEST")
        violations = [v for d in details(status, error_details_pb2.BadRequest) for v in d.field_violations]
        equal("invalid fields", [violation.field for violation in violations], ["name", "slug"])

    def add_members(self):
        """Ada adds Grace and Alan."""
        grace = organization_pb.AddMemberRequest(organization=ACME, email="grace@example.com")
        alan = organization_pb.AddMemberRequest(organization=ACME, user_id="alan")
        for request in (grace, alan):
            equal("role", call("ADA", self.organizations.AddMember, request).member.role, "member")
        refused("ADA", self.organizations.AddMember, grace, grpc.StatusCode.ALREADY_EXISTS, "ALREADY_MEMBER")
        request = organization_pb.UpdateMemberRequest(organization=ACME, user_id="grace", role="admin")
        equal("role", call("ADA", self.organizations.UpdateMember, request).member.role, "admin")

    def members(self):
        """The roles of the members of ACME, by user id."""
        roles, page_token = {}, ""
        while True:
            request = organization_pb.ListMembersRequest(organization=ACME, page_size=2, page_token=page_token)
            answer = call("GRACE", self.organizations.ListMembers, request)
            roles.update({member.user_id: member.role for member in answer.members})
            page_token = answer.next_page_token
            if not page_token:
                return roles

    def list_members(self):
        """Grace lists the members."""
        equal("members", self.members(), {"ada": "owner", "alan": "member", "grace": "admin"})

    def owner_stays(self):
        """The owner cannot leave."""
        request = organization_pb.LeaveOrganizationRequest(organization=ACME)
        refused(
            "ADA",
            self.organizations.LeaveOrganization,
            request,
            grpc.StatusCode.FAILED_PRECONDITION,
            "OWNERSHIP_REQUIRED",
            count="1",
            organizations=self.id,
        )

    def transfer(self):
        """Ada transfers the ownership and leaves."""
        request = organization_pb.TransferOwnershipRequest(organization=ACME, user_id="grace")
        organization = call("ADA", self.organizations.TransferOwnership, request).organization
        equal("owner", organization.owner_user_id, "grace")
        request = organization_pb.LeaveOrganizationRequest(organization=ACME)
        self.token = call("ADA", self.organizations.LeaveOrganization, request).consistency_token

    def check(self):
        """A backend checks memberships."""
        fresh = check_pb.Consistency(at_least_as_fresh=self.token)
        for question, reason in [
            ({"user_id": "grace", "permission": "members.add"}, check_pb.CHECK_REASON_ALLOWED),
            ({"user_id": "alan", "role": "admin"}, check_pb.CHECK_REASON_ROLE_TOO_LOW),
            ({"user_id": "ada"}, check_pb.CHECK_REASON_NOT_A_MEMBER),
        ]:
            request = check_pb.CheckMembershipRequest(organization=ACME, consistency=fresh, **question)
            result = call("SERVICE", self.checks.CheckMembership, request).result
            equal(f"reason for {question}", result.reason, reason)
            equal("allowed", result.allowed, reason == check_pb.CHECK_REASON_ALLOWED)
        request = check_pb.CheckMembershipRequest(organization=ACME, user_id="ada")
        code = grpc.StatusCode.PERMISSION_DENIED
        refused("ADA", self.checks.CheckMembership, request, code, "CALLER_NOT_ALLOWED", caller="user")

    def check_batch(self):
        """A backend checks a batch."""
        questions = [(ACME, "grace"), (self.id, "ada"), ("no-such-thing", "grace")]
        request = check_pb.BatchCheckMembershipRequest(
            items=[check_pb.CheckItem(organization=organization, user_id=user) for organization, user in questions],
            consistency=check_pb.Consistency(fully_consistent=True),
        )
        answer = call("SERVICE", self.checks.BatchCheckMembership, request)
        reasons = [
            check_pb.CHECK_REASON_ALLOWED,
            check_pb.CHECK_REASON_NOT_A_MEMBER,
            check_pb.CHECK_REASON_ORGANIZATION_NOT_FOUND,
        ]
        equal("reasons", [result.reason for result in answer.results], reasons)

    def check_stream(self):
        """A backend streams checks."""
        fresh = check_pb.Consistency(at_least_as_fresh=self.token)
        requests = [
            check_pb.StreamChecksRequest(organization=ACME, user_id=user, consistency=fresh)
            for user in ("grace", "ada", "")
        ]
        answers = list(call("SERVICE", self.checks.StreamChecks, iter(requests)))
        equal("answers", len(answers), 3)
        equal("Grace", answers[0].result.allowed, True)
        equal("Ada", answers[1].result.reason, check_pb.CHECK_REASON_NOT_A_MEMBER)
        check_refusal(answers[2].error, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", {})

    def stranger(self):
        """A stranger cannot probe for organizations."""
        for organization in (ACME, "no-such-thing"):
            request = organization_pb.ListMembersRequest(organization=organization)
            code = grpc.StatusCode.PERMISSION_DENIED
            refused(
                "ADA", self.organizations.ListMembers, request, code, "PERMISSION_DENIED", permission="members.list"
            )

    def invite(self):
        """Ada accepts the invitation from the mail."""
        request = invitation_pb.CreateInvitationRequest(organization=ACME, email="ada@example.com", role="admin")
        call("GRACE", self.invitations.CreateInvitation, request)
        request = invitation_pb.ListReceivedInvitationsRequest()
        equal("invitations", len(call("ADA", self.invitations.ListReceivedInvitations, request).invitations), 1)
        token = mailed_token()
        request = invitation_pb.PreviewInvitationRequest(token=token)
        preview = call(None, self.invitations.PreviewInvitation, request)
        equal("name", preview.invitation.organization_name, "Acme, Inc.")
        accept = invitation_pb.AcceptInvitationRequest(token=token)
        code = grpc.StatusCode.PERMISSION_DENIED
        refused("GRACE", self.invitations.AcceptInvitation, accept, code, "NOT_YOUR_INVITATION")
        call("ADA", self.invitations.AcceptInvitation, accept)
        equal("members", self.members(), {"ada": "admin", "alan": "member", "grace": "owner"})

    def pending(self):
        """A pending organization waits for its owner."""
        request = organization_pb.CreateOrganizationRequest(name="Bletchley Park", owner_email="joan@example.com")
        created = call("SERVICE", self.organizations.CreateOrganization, request)
        equal("state before", created.organization.state, resources_pb2.ORGANIZATION_STATE_PENDING)
        request = invitation_pb.ListReceivedInvitationsRequest()
        received = call("JOAN", self.invitations.ListReceivedInvitations, request).invitations
        equal("invitations", len(received), 1)
        request = invitation_pb.AcceptInvitationRequest(invitation_id=received[0].invitation_id)
        call("JOAN", self.invitations.AcceptInvitation, request)
        request = organization_pb.GetOrganizationRequest(organization="bletchley-park")
        organization = call("JOAN", self.organizations.GetOrganization, request).organization
        equal("state", organization.state, resources_pb2.ORGANIZATION_STATE_ACTIVE)
        equal("owner", organization.owner_user_id, "joan")

    def list_events(self):
        """Every change is an event."""
        request = event_pb.ListEventsRequest(organization=ACME, types=["member.added", "owner.changed"])
        answer = call("GRACE", self.events.ListEvents, request)
        events = [f"{event.type}({event.user_id}) by {event.actor.id}" for event in answer.events]
        wanted = [
            "member.added(ada) by ada",
            "owner.changed() by ada",
            "member.added(alan) by ada",
            "member.added(grace) by ada",
            "member.added(ada) by ada",
        ]
        equal("events", events, wanted)

    def deadline(self):
        """A stream ends at its deadline."""
        cursors = 0
        try:
            stream = self.events.WatchEvents(event_pb.WatchEventsRequest(), timeout=2, metadata=bearer("SERVICE"))
            for answer in stream:
                cursors += answer.cursor != ""
        except grpc.RpcError as error:
            equal("code", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
            assert cursors > 0, "no cursor came before the deadline"
            return
        raise AssertionError("the stream ended without an error")

    def compressed(self):
        """A compressed request is refused with the name of its encoding."""
        for compression, name in [(grpc.Compression.Gzip, "gzip"), (grpc.Compression.Deflate, "deflate")]:
            try:
                self.users.GetCaller(
                    user_pb.GetCallerRequest(), timeout=CALL_LIMIT, metadata=bearer("ADA"), compression=compression
                )
                raise AssertionError("the call succeeded")
            except grpc.RpcError as error:
                equal("code", error.code(), grpc.StatusCode.UNIMPLEMENTED)
                assert name in error.details(), error.details()

    def several_addresses(self):
        """A target with several addresses is reset, and works with an authority of its own."""
        target = f"ipv4:{os.environ['ROSTER_ADDRESS']},{os.environ['ROSTER_ADDRESS']}"
        request = health_pb2.HealthCheckRequest()
        with grpc.insecure_channel(target) as channel:
            try:
                health_pb2_grpc.HealthStub(channel).Check(request, timeout=CALL_LIMIT)
                raise AssertionError("the call succeeded: docs/languages.md describes a reset")
            except grpc.RpcError as error:
                equal("code", error.code(), grpc.StatusCode.INTERNAL)
        with grpc.insecure_channel(target, [("grpc.default_authority", "roster")]) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=CALL_LIMIT)
            equal("status", answer.status, health_pb2.HealthCheckResponse.SERVING)

    def purge(self):
        """An operator purges the organization."""
        states = [resources_pb2.ORGANIZATION_STATE_ACTIVE, resources_pb2.ORGANIZATION_STATE_DELETED]
        request = organization_pb.ListOrganizationsRequest(states=states)
        listed = call("OPERATOR", self.organizations.ListOrganizations, request).organizations
        equal("organizations", [organization.name for organization in listed], ["Acme, Inc.", "Bletchley Park"])
        request = organization_pb.DeleteOrganizationRequest(organization=ACME, purge=True, reason="end of the walk")
        code = grpc.StatusCode.PERMISSION_DENIED
        refused("GRACE", self.organizations.DeleteOrganization, request, code, "OPERATOR_REQUIRED")
        call("OPERATOR", self.organizations.DeleteOrganization, request)
        request = organization_pb.GetOrganizationRequest(organization=self.id)
        code = grpc.StatusCode.NOT_FOUND
        refused("SERVICE", self.organizations.GetOrganization, request, code, "ORGANIZATION_NOT_FOUND")


def mailed_token():
    """Waits for the first mail, and returns the invitation token in its link."""
    started = time.monotonic()
    while time.monotonic() - started < MAIL_LIMIT:
        for path in pathlib.Path(os.environ["ROSTER_MAIL"]).glob("*.eml"):
            if match := re.search(r"token=([A-Za-z0-9_-]+)", path.read_text()):
                return match[1]
        time.sleep(0.05)
    raise AssertionError(f"no mail with a link within {MAIL_LIMIT} s")


def main():
    with grpc.insecure_channel(os.environ["ROSTER_ADDRESS"]) as channel:
        walk = Walk(channel)
        steps = [
            walk.healthy,
            walk.callers,
            walk.credentials,
            walk.create,
            walk.invalid,
            walk.add_members,
            walk.list_members,
            walk.owner_stays,
            walk.transfer,
            walk.check,
            walk.check_batch,
            walk.check_stream,
            walk.stranger,
            walk.invite,
            walk.pending,
            walk.list_events,
            walk.deadline,
            walk.compressed,
            walk.several_addresses,
            walk.purge,
        ]
        for step in steps:
            try:
                step()
            except (AssertionError, grpc.RpcError) as error:
                sys.exit(f"interop: grpc-python: {step.__doc__} {error}")
    print(f"interop: grpc-python: {len(steps)} steps passed")


if __name__ == "__main__":
    main()
