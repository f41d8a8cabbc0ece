// Command interop-go is a client of roster with grpc-go. It makes the calls of the walk in the documents, and checks
// every answer and every error. interop/run.sh starts a server with an empty database and sets the variables.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "roster.example/gen/roster/v1"
)

const acme = "acme-inc"

// callLimit is the deadline of every call.
const callLimit = 10 * time.Second

// mailLimit is the longest wait for a mail.
const mailLimit = 10 * time.Second

type walk struct {
	checks        pb.CheckServiceClient
	events        pb.EventServiceClient
	health        grpc_health_v1.HealthClient
	invitations   pb.InvitationServiceClient
	organizations pb.OrganizationServiceClient
	users         pb.UserServiceClient

	// id is the id of the organization acme.
	id string
	// token is the consistency token of the latest write.
	token string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "interop: grpc-go:", err)
		os.Exit(1)
	}
}

func run() error {
	connection, err := grpc.NewClient(os.Getenv("ROSTER_ADDRESS"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	w := &walk{
		checks:        pb.NewCheckServiceClient(connection),
		events:        pb.NewEventServiceClient(connection),
		health:        grpc_health_v1.NewHealthClient(connection),
		invitations:   pb.NewInvitationServiceClient(connection),
		organizations: pb.NewOrganizationServiceClient(connection),
		users:         pb.NewUserServiceClient(connection),
	}
	steps := []struct {
		name string
		run  func() error
	}{
		{"the server is healthy", w.healthy},
		{"each token identifies its caller", w.callers},
		{"a call without a valid credential fails", w.credentials},
		{"Ada creates an organization", w.create},
		{"an invalid request names its fields", w.invalid},
		{"Ada adds Grace and Alan", w.addMembers},
		{"Grace lists the members", w.listMembers},
		{"the owner cannot leave", w.ownerStays},
		{"Ada transfers the ownership and leaves", w.transfer},
		{"a backend checks memberships", w.check},
		{"a backend checks a batch", w.checkBatch},
		{"a backend streams checks", w.checkStream},
		{"a stranger cannot probe for organizations", w.stranger},
		{"Ada accepts the invitation from the mail", w.invite},
		{"a pending organization waits for its owner", w.pending},
		{"every change is an event", w.listEvents},
		{"a stream ends at its deadline", w.deadline},
		{"a compressed request is refused by name", w.compressed},
		{"clients of other protocols learn what roster serves", w.protocols},
		{"an operator purges the organization", w.purge},
	}
	for _, step := range steps {
		if err := step.run(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	fmt.Printf("interop: grpc-go: %d steps passed\n", len(steps))
	return nil
}

// method is a call of a generated stub.
type method[Request, Response any] func(context.Context, *Request, ...grpc.CallOption) (*Response, error)

// call makes a call with a deadline. The variable of the environment contains the bearer token; an empty name sends
// none.
func call[Request, Response any](variable string, m method[Request, Response], request *Request) (*Response, error) {
	ctx, cancel := context.WithTimeout(as(variable), callLimit)
	defer cancel()
	return m(ctx, request)
}

// as is a context with the bearer token in a variable of the environment.
func as(variable string) context.Context {
	if variable == "" {
		return context.Background()
	}
	return bearer(os.Getenv(variable))
}

func bearer(token string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token)
}

// equal fails unless the values are equal.
func equal(what string, got, want any) error {
	if !reflect.DeepEqual(got, want) {
		return fmt.Errorf("%s: got %v, want %v", what, got, want)
	}
	return nil
}

// refusal fails unless the error has this code and an ErrorInfo of roster with this reason and this metadata.
func refusal(err error, code codes.Code, reason string, want map[string]string) error {
	if err == nil {
		return fmt.Errorf("the call succeeded, want %s", reason)
	}
	answer := status.Convert(err)
	for _, detail := range answer.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return errors.Join(
				equal("code", answer.Code(), code),
				equal("domain", info.GetDomain(), "roster"),
				equal("reason", info.GetReason(), reason),
				equal("metadata", fmt.Sprint(info.GetMetadata()), fmt.Sprint(want)),
			)
		}
	}
	return fmt.Errorf("the error has no ErrorInfo: %w", err)
}

func (w *walk) healthy() error {
	answer, err := call("", w.health.Check, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	return equal("status", answer.GetStatus(), grpc_health_v1.HealthCheckResponse_SERVING)
}

func (w *walk) callers() error {
	for variable, name := range map[string]string{"ADA": "Ada Lovelace", "GRACE": "Grace Hopper"} {
		answer, err := call(variable, w.users.GetCaller, &pb.GetCallerRequest{})
		if err != nil {
			return err
		}
		if err := errors.Join(
			equal("kind", answer.GetKind(), "user"),
			equal("id", answer.GetUser().GetUserId(), answer.GetId()),
			equal("name", answer.GetUser().GetDisplayName(), name),
			equal("email", answer.GetUser().GetEmail(), answer.GetId()+"@example.com"),
			equal("verified", answer.GetUser().GetEmailVerified(), true),
		); err != nil {
			return err
		}
	}
	answer, err := call("SERVICE", w.users.GetCaller, &pb.GetCallerRequest{})
	if err != nil {
		return err
	}
	scopes := slices.Sorted(slices.Values(answer.GetScopes()))
	return errors.Join(
		equal("kind", answer.GetKind(), "service"),
		equal("scopes", scopes, []string{"act-as", "check", "manage"}),
	)
}

func (w *walk) credentials() error {
	_, err := call("", w.users.GetCaller, &pb.GetCallerRequest{})
	if err := refusal(err, codes.Unauthenticated, "CREDENTIAL_MISSING", nil); err != nil {
		return err
	}
	_, err = w.users.GetCaller(bearer("not-a-token"), &pb.GetCallerRequest{})
	return refusal(err, codes.Unauthenticated, "CREDENTIAL_INVALID", nil)
}

func (w *walk) create() error {
	request := &pb.CreateOrganizationRequest{
		Name:      "Acme, Inc.",
		RequestId: "4c3a2f6e-8d5b-4a6f-9a53-0c1b7f0e7d11",
	}
	first, err := call("ADA", w.organizations.CreateOrganization, request)
	if err != nil {
		return err
	}
	w.id = first.GetOrganization().GetId()
	repeated, err := call("ADA", w.organizations.CreateOrganization, request)
	if err != nil {
		return err
	}
	answer, err := call("ADA", w.organizations.GetOrganization, &pb.GetOrganizationRequest{Organization: acme})
	if err != nil {
		return err
	}
	organization := answer.GetOrganization()
	return errors.Join(
		equal("id of the repetition", repeated.GetOrganization().GetId(), w.id),
		equal("id", organization.GetId(), w.id),
		equal("slug", organization.GetSlug(), acme),
		equal("name", organization.GetName(), "Acme, Inc."),
		equal("owner", organization.GetOwnerUserId(), "ada"),
		equal("state", organization.GetState(), pb.OrganizationState_ORGANIZATION_STATE_ACTIVE),
	)
}

func (w *walk) invalid() error {
	_, err := call("ADA", w.organizations.CreateOrganization, &pb.CreateOrganizationRequest{Slug: "-"})
	if err := refusal(err, codes.InvalidArgument, "INVALID_REQUEST", nil); err != nil {
		return err
	}
	var fields []string
	for _, detail := range status.Convert(err).Details() {
		if invalid, ok := detail.(*errdetails.BadRequest); ok {
			for _, violation := range invalid.GetFieldViolations() {
				fields = append(fields, violation.GetField())
			}
		}
	}
	return equal("invalid fields", fields, []string{"name", "slug"})
}

func (w *walk) addMembers() error {
	grace := &pb.AddMemberRequest{
		Organization: acme,
		Person:       &pb.AddMemberRequest_Email{Email: "grace@example.com"},
	}
	alan := &pb.AddMemberRequest{Organization: acme, Person: &pb.AddMemberRequest_UserId{UserId: "alan"}}
	for _, request := range []*pb.AddMemberRequest{grace, alan} {
		answer, err := call("ADA", w.organizations.AddMember, request)
		if err != nil {
			return err
		}
		if err := equal("role", answer.GetMember().GetRole(), "member"); err != nil {
			return err
		}
	}
	_, err := call("ADA", w.organizations.AddMember, grace)
	if err := refusal(err, codes.AlreadyExists, "ALREADY_MEMBER", nil); err != nil {
		return err
	}
	answer, err := call("ADA", w.organizations.UpdateMember, &pb.UpdateMemberRequest{
		Organization: acme,
		UserId:       "grace",
		Role:         "admin",
	})
	if err != nil {
		return err
	}
	return equal("role", answer.GetMember().GetRole(), "admin")
}

// members are the roles of the members of acme, by user id.
func (w *walk) members() (map[string]string, error) {
	roles := map[string]string{}
	request := &pb.ListMembersRequest{Organization: acme, PageSize: 2}
	for {
		answer, err := call("GRACE", w.organizations.ListMembers, request)
		if err != nil {
			return nil, err
		}
		for _, member := range answer.GetMembers() {
			roles[member.GetUserId()] = member.GetRole()
		}
		if request.PageToken = answer.GetNextPageToken(); request.PageToken == "" {
			return roles, nil
		}
	}
}

func (w *walk) listMembers() error {
	roles, err := w.members()
	if err != nil {
		return err
	}
	return equal("members", roles, map[string]string{"ada": "owner", "alan": "member", "grace": "admin"})
}

func (w *walk) ownerStays() error {
	_, err := call("ADA", w.organizations.LeaveOrganization, &pb.LeaveOrganizationRequest{Organization: acme})
	return refusal(err, codes.FailedPrecondition, "OWNERSHIP_REQUIRED",
		map[string]string{"count": "1", "organizations": w.id})
}

func (w *walk) transfer() error {
	answer, err := call("ADA", w.organizations.TransferOwnership, &pb.TransferOwnershipRequest{
		Organization: acme,
		Person:       &pb.TransferOwnershipRequest_UserId{UserId: "grace"},
	})
	if err != nil {
		return err
	}
	left, err := call("ADA", w.organizations.LeaveOrganization, &pb.LeaveOrganizationRequest{Organization: acme})
	if err != nil {
		return err
	}
	w.token = left.GetConsistencyToken()
	return equal("owner", answer.GetOrganization().GetOwnerUserId(), "grace")
}

// fresh requires an answer that reflects the latest write of the walk.
func (w *walk) fresh() *pb.Consistency {
	return &pb.Consistency{Requirement: &pb.Consistency_AtLeastAsFresh{AtLeastAsFresh: w.token}}
}

func (w *walk) check() error {
	for _, check := range []struct {
		request *pb.CheckMembershipRequest
		want    pb.CheckReason
	}{
		{
			&pb.CheckMembershipRequest{
				UserId:   "grace",
				Question: &pb.CheckMembershipRequest_Permission{Permission: "members.add"},
			},
			pb.CheckReason_CHECK_REASON_ALLOWED,
		},
		{
			&pb.CheckMembershipRequest{UserId: "alan", Question: &pb.CheckMembershipRequest_Role{Role: "admin"}},
			pb.CheckReason_CHECK_REASON_ROLE_TOO_LOW,
		},
		{&pb.CheckMembershipRequest{UserId: "ada"}, pb.CheckReason_CHECK_REASON_NOT_A_MEMBER},
	} {
		check.request.Organization = acme
		check.request.Consistency = w.fresh()
		answer, err := call("SERVICE", w.checks.CheckMembership, check.request)
		if err != nil {
			return err
		}
		result := answer.GetResult()
		if err := errors.Join(
			equal("reason for "+check.request.GetUserId(), result.GetReason(), check.want),
			equal("allowed", result.GetAllowed(), check.want == pb.CheckReason_CHECK_REASON_ALLOWED),
		); err != nil {
			return err
		}
	}
	_, err := call("ADA", w.checks.CheckMembership, &pb.CheckMembershipRequest{Organization: acme, UserId: "ada"})
	return refusal(err, codes.PermissionDenied, "CALLER_NOT_ALLOWED", map[string]string{"caller": "user"})
}

func (w *walk) checkBatch() error {
	answer, err := call("SERVICE", w.checks.BatchCheckMembership, &pb.BatchCheckMembershipRequest{
		Items: []*pb.CheckItem{
			{Organization: acme, UserId: "grace"},
			{Organization: w.id, UserId: "ada"},
			{Organization: "no-such-thing", UserId: "grace"},
		},
		Consistency: &pb.Consistency{Requirement: &pb.Consistency_FullyConsistent{FullyConsistent: true}},
	})
	if err != nil {
		return err
	}
	var reasons []pb.CheckReason
	for _, result := range answer.GetResults() {
		reasons = append(reasons, result.GetReason())
	}
	return equal("reasons", reasons, []pb.CheckReason{
		pb.CheckReason_CHECK_REASON_ALLOWED,
		pb.CheckReason_CHECK_REASON_NOT_A_MEMBER,
		pb.CheckReason_CHECK_REASON_ORGANIZATION_NOT_FOUND,
	})
}

func (w *walk) checkStream() error {
	ctx, cancel := context.WithTimeout(as("SERVICE"), callLimit)
	defer cancel()
	stream, err := w.checks.StreamChecks(ctx)
	if err != nil {
		return err
	}
	users := []string{"grace", "ada", ""}
	for _, user := range users {
		request := &pb.StreamChecksRequest{Organization: acme, UserId: user, Consistency: w.fresh()}
		if err := stream.Send(request); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var answers []*pb.StreamChecksResponse
	for range users {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		answers = append(answers, answer)
	}
	return errors.Join(
		equal("Grace", answers[0].GetResult().GetAllowed(), true),
		equal("Ada", answers[1].GetResult().GetReason(), pb.CheckReason_CHECK_REASON_NOT_A_MEMBER),
		refusal(status.FromProto(answers[2].GetError()).Err(), codes.InvalidArgument, "INVALID_REQUEST", nil),
	)
}

func (w *walk) stranger() error {
	for _, organization := range []string{acme, "no-such-thing"} {
		_, err := call("ADA", w.organizations.ListMembers, &pb.ListMembersRequest{Organization: organization})
		want := map[string]string{"permission": "members.list"}
		if err := refusal(err, codes.PermissionDenied, "PERMISSION_DENIED", want); err != nil {
			return fmt.Errorf("%s: %w", organization, err)
		}
	}
	return nil
}

func (w *walk) invite() error {
	_, err := call("GRACE", w.invitations.CreateInvitation, &pb.CreateInvitationRequest{
		Organization: acme,
		Recipient:    &pb.CreateInvitationRequest_Email{Email: "ada@example.com"},
		Role:         "admin",
	})
	if err != nil {
		return err
	}
	received, err := call("ADA", w.invitations.ListReceivedInvitations, &pb.ListReceivedInvitationsRequest{})
	if err != nil {
		return err
	}
	token, err := mailedToken()
	if err != nil {
		return err
	}
	preview, err := call("", w.invitations.PreviewInvitation, &pb.PreviewInvitationRequest{Token: token})
	if err != nil {
		return err
	}
	accept := &pb.AcceptInvitationRequest{Invitation: &pb.AcceptInvitationRequest_Token{Token: token}}
	_, err = call("GRACE", w.invitations.AcceptInvitation, accept)
	if err := refusal(err, codes.PermissionDenied, "NOT_YOUR_INVITATION", nil); err != nil {
		return err
	}
	if _, err := call("ADA", w.invitations.AcceptInvitation, accept); err != nil {
		return err
	}
	roles, err := w.members()
	if err != nil {
		return err
	}
	return errors.Join(
		equal("invitations", len(received.GetInvitations()), 1),
		equal("name", preview.GetInvitation().GetOrganizationName(), "Acme, Inc."),
		equal("members", roles, map[string]string{"ada": "admin", "alan": "member", "grace": "owner"}),
	)
}

// mailedToken waits for the first mail, and returns the invitation token in its link.
func mailedToken() (string, error) {
	link := regexp.MustCompile(`token=([A-Za-z0-9_-]+)`)
	for started := time.Now(); time.Since(started) < mailLimit; time.Sleep(50 * time.Millisecond) {
		paths, err := filepath.Glob(filepath.Join(os.Getenv("ROSTER_MAIL"), "*.eml"))
		if err != nil {
			return "", err
		}
		for _, path := range paths {
			mail, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			if match := link.FindSubmatch(mail); match != nil {
				return string(match[1]), nil
			}
		}
	}
	return "", fmt.Errorf("no mail with a link within %s", mailLimit)
}

func (w *walk) pending() error {
	created, err := call("SERVICE", w.organizations.CreateOrganization, &pb.CreateOrganizationRequest{
		Name:       "Bletchley Park",
		OwnerEmail: "joan@example.com",
	})
	if err != nil {
		return err
	}
	received, err := call("JOAN", w.invitations.ListReceivedInvitations, &pb.ListReceivedInvitationsRequest{})
	if err != nil {
		return err
	}
	if err := equal("invitations", len(received.GetInvitations()), 1); err != nil {
		return err
	}
	invitation := received.GetInvitations()[0].GetInvitationId()
	_, err = call("JOAN", w.invitations.AcceptInvitation, &pb.AcceptInvitationRequest{
		Invitation: &pb.AcceptInvitationRequest_InvitationId{InvitationId: invitation},
	})
	if err != nil {
		return err
	}
	request := &pb.GetOrganizationRequest{Organization: "bletchley-park"}
	answer, err := call("JOAN", w.organizations.GetOrganization, request)
	if err != nil {
		return err
	}
	return errors.Join(
		equal("state before", created.GetOrganization().GetState(), pb.OrganizationState_ORGANIZATION_STATE_PENDING),
		equal("state", answer.GetOrganization().GetState(), pb.OrganizationState_ORGANIZATION_STATE_ACTIVE),
		equal("owner", answer.GetOrganization().GetOwnerUserId(), "joan"),
	)
}

func (w *walk) listEvents() error {
	answer, err := call("GRACE", w.events.ListEvents, &pb.ListEventsRequest{
		Organization: acme,
		Types:        []string{"member.added", "owner.changed"},
	})
	if err != nil {
		return err
	}
	var events []string
	for _, event := range answer.GetEvents() {
		events = append(events, fmt.Sprintf("%s(%s) by %s", event.GetType(), event.GetUserId(), event.GetActor().GetId()))
	}
	return equal("events", events, []string{
		"member.added(ada) by ada",
		"owner.changed() by ada",
		"member.added(alan) by ada",
		"member.added(grace) by ada",
		"member.added(ada) by ada",
	})
}

func (w *walk) deadline() error {
	ctx, cancel := context.WithTimeout(as("SERVICE"), 2*time.Second)
	defer cancel()
	stream, err := w.events.WatchEvents(ctx, &pb.WatchEventsRequest{})
	if err != nil {
		return err
	}
	cursors := 0
	for {
		answer, err := stream.Recv()
		if err != nil {
			return errors.Join(
				equal("code", status.Code(err), codes.DeadlineExceeded),
				equal("a cursor came before", cursors > 0, true),
			)
		}
		if answer.GetCursor() != "" {
			cursors++
		}
	}
}

func (w *walk) purge() error {
	listed, err := call("OPERATOR", w.organizations.ListOrganizations, &pb.ListOrganizationsRequest{
		States: []pb.OrganizationState{
			pb.OrganizationState_ORGANIZATION_STATE_ACTIVE,
			pb.OrganizationState_ORGANIZATION_STATE_DELETED,
		},
	})
	if err != nil {
		return err
	}
	var names []string
	for _, organization := range listed.GetOrganizations() {
		names = append(names, organization.GetName())
	}
	request := &pb.DeleteOrganizationRequest{Organization: acme, Purge: true, Reason: "end of the walk"}
	_, err = call("GRACE", w.organizations.DeleteOrganization, request)
	if err := refusal(err, codes.PermissionDenied, "OPERATOR_REQUIRED", nil); err != nil {
		return err
	}
	if _, err := call("OPERATOR", w.organizations.DeleteOrganization, request); err != nil {
		return err
	}
	_, err = call("SERVICE", w.organizations.GetOrganization, &pb.GetOrganizationRequest{Organization: w.id})
	return errors.Join(
		equal("organizations", names, []string{"Acme, Inc.", "Bletchley Park"}),
		refusal(err, codes.NotFound, "ORGANIZATION_NOT_FOUND", nil),
	)
}
