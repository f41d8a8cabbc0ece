// Command probe is a client of roster with grpc-go, for the tests in tests/it/interop: one call, or calls and a stream
// until its input ends.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "roster.example/gen/roster/v1"
)

// pace is the time between two calls under load.
const pace = 5 * time.Millisecond

func main() {
	connection, err := connect()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if os.Args[1] == "call" {
		if err := check(connection); err != nil {
			fmt.Println(status.Code(err), "=", status.Convert(err).Message())
		} else {
			fmt.Println("ok")
		}
		return
	}
	load(connection)
}

// connect makes a channel with the certificates that the variables name: TLS if there is a CA.
func connect() (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if ca := os.Getenv("ROSTER_CA"); ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		config := &tls.Config{RootCAs: x509.NewCertPool()}
		config.RootCAs.AppendCertsFromPEM(pem)
		if certificate := os.Getenv("ROSTER_CERTIFICATE"); certificate != "" {
			own, err := tls.LoadX509KeyPair(certificate, os.Getenv("ROSTER_KEY"))
			if err != nil {
				return nil, err
			}
			config.Certificates = []tls.Certificate{own}
		}
		transport = credentials.NewTLS(config)
	}
	return grpc.NewClient(os.Getenv("ROSTER_ADDRESS"), grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
}

// authorized adds the credential, if there is one.
func authorized(ctx context.Context) context.Context {
	if credential := os.Getenv("SERVICE"); credential != "" {
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+credential)
	}
	return ctx
}

func check(connection *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(authorized(context.Background()), 10*time.Second)
	defer cancel()
	question := &pb.CheckMembershipRequest{Organization: "acme-inc", UserId: "ada"}
	answer, err := pb.NewCheckServiceClient(connection).CheckMembership(ctx, question)
	if err == nil && !answer.GetResult().GetAllowed() {
		err = fmt.Errorf("ada is no member")
	}
	return err
}

func load(connection *grpc.ClientConn) {
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	var failed, streams, events atomic.Int64
	go watch(connection, &streams, &events)
	var calls sync.WaitGroup
	ticker, count := time.NewTicker(pace), 0
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case <-ticker.C:
			count++
			calls.Go(func() {
				if err := check(connection); err != nil {
					failed.Add(1)
					fmt.Fprintln(os.Stderr, err)
				}
			})
		}
	}
	calls.Wait()
	fmt.Printf("calls=%d failed=%d streams=%d events=%d\n", count, failed.Load(), streams.Load(), events.Load())
}

// watch reads the audit trail. Each stream goes on where the one before has ended.
func watch(connection *grpc.ClientConn, streams, events *atomic.Int64) {
	for request := (&pb.WatchEventsRequest{Organization: "acme-inc"}); ; time.Sleep(100 * time.Millisecond) {
		stream, err := pb.NewEventServiceClient(connection).WatchEvents(authorized(context.Background()), request)
		for first := true; err == nil; {
			var message *pb.WatchEventsResponse
			if message, err = stream.Recv(); err == nil {
				if first {
					streams.Add(1)
					first = false
				}
				if count := len(message.GetEvents()); count > 0 {
					events.Add(int64(count))
					fmt.Println("event")
				}
				request.Cursor = cmp.Or(message.GetCursor(), request.Cursor)
			}
		}
		fmt.Fprintln(os.Stderr, "stream:", err)
	}
}
