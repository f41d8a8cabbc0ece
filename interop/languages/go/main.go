package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails" // Without this import, Details returns no details.
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // Without this import, healthCheckConfig has no effect.
	"google.golang.org/grpc/status"

	rosterv1 "example.com/app/gen/roster/v1"
)

const serviceConfig = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"healthCheckConfig": {"serviceName": ""},
	"methodConfig": [{
		"name": [{"service": "roster.v1.CheckService"}],
		"timeout": "10s",
		"retryPolicy": {
			"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}]
}`

// bearer is a bearer token or an API key. It is called for each call, so it may return a renewed token.
type bearer func() string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b()}, nil
}

// RequireTransportSecurity is true where the connection has TLS.
func (b bearer) RequireTransportSecurity() bool { return false }

func main() {
	connection, err := grpc.NewClient("dns:///"+os.Getenv("ROSTER_ADDRESS"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(bearer(func() string { return os.Getenv("SERVICE") })),
		grpc.WithDefaultServiceConfig(serviceConfig))
	if err != nil {
		log.Fatal(err)
	}
	checks := rosterv1.NewCheckServiceClient(connection)
	question := &rosterv1.CheckMembershipRequest{Organization: "acme-inc", UserId: "ada"}
	answer, err := checks.CheckMembership(context.Background(), question)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ada is a member:", answer.GetResult().GetAllowed())

	_, err = checks.CheckMembership(context.Background(), &rosterv1.CheckMembershipRequest{Organization: "acme-inc"})
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Println("error:", detail.GetReason())
		case *errdetails.BadRequest:
			fmt.Println("invalid field:", detail.GetFieldViolations()[0].GetField())
		}
	}

	// Each stream goes on where the one before has ended.
	for watch := (&rosterv1.WatchEventsRequest{Organization: "acme-inc"}); ; time.Sleep(time.Second) {
		stream, err := rosterv1.NewEventServiceClient(connection).WatchEvents(context.Background(), watch)
		for err == nil {
			var message *rosterv1.WatchEventsResponse
			if message, err = stream.Recv(); err == nil {
				for _, event := range message.GetEvents() {
					fmt.Println("event:", event.GetType(), event.GetUserId())
				}
				if watch.Cursor == "" {
					fmt.Println("watching")
				}
				watch.Cursor = cmp.Or(message.GetCursor(), watch.Cursor)
			}
		}
		log.Print(err)
	}
}
