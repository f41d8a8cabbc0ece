package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	pb "roster.example/gen/roster/v1"
)

// compressed sends a compressed request. The refusal names the encoding.
func (w *walk) compressed() error {
	ctx, cancel := context.WithTimeout(as("ADA"), callLimit)
	defer cancel()
	_, err := w.users.GetCaller(ctx, &pb.GetCallerRequest{}, grpc.UseCompressor(gzip.Name))
	if status.Code(err) != codes.Unimplemented || !strings.Contains(status.Convert(err).Message(), "gzip") {
		return fmt.Errorf("got %w, want UNIMPLEMENTED with the name of the encoding", err)
	}
	return nil
}

// protocols makes unary calls and streams with a client of Connect and gRPC-Web, over HTTP/1.1 and HTTP/2. It reports
// what roster serves instead, and not that the server is unavailable.
func (w *walk) protocols() error {
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	clients := map[string]*http.Client{
		"HTTP/1.1": {Timeout: callLimit},
		"HTTP/2":   {Timeout: callLimit, Transport: &http.Transport{Protocols: &h2c}},
	}
	options := map[string]connect.ClientOption{
		"the Connect protocol": connect.WithClientOptions(),
		"JSON":                 connect.WithProtoJSON(),
		"gRPC-Web":             connect.WithGRPCWeb(),
	}
	for version, client := range clients {
		for protocol, option := range options {
			for kind, call := range map[string]func(*http.Client, connect.ClientOption) error{
				"unary": connectUnary, "stream": connectStream,
			} {
				err := call(client, option)
				wanted := "roster serves gRPC over HTTP/2, not "
				if connect.CodeOf(err) != connect.CodeUnimplemented || !strings.Contains(err.Error(), wanted) {
					return fmt.Errorf("%s over %s, %s: got %w, want %q", protocol, version, kind, err, wanted)
				}
			}
		}
	}
	return nil
}

func connectUnary(client *http.Client, option connect.ClientOption) error {
	url := "http://" + os.Getenv("ROSTER_ADDRESS") + pb.UserService_GetCaller_FullMethodName
	caller := connect.NewClient[pb.GetCallerRequest, pb.GetCallerResponse](client, url, option)
	_, err := caller.CallUnary(context.Background(), connect.NewRequest(&pb.GetCallerRequest{}))
	return err
}

func connectStream(client *http.Client, option connect.ClientOption) error {
	url := "http://" + os.Getenv("ROSTER_ADDRESS") + pb.EventService_WatchEvents_FullMethodName
	watch := connect.NewClient[pb.WatchEventsRequest, pb.WatchEventsResponse](client, url, option)
	stream, err := watch.CallServerStream(context.Background(), connect.NewRequest(&pb.WatchEventsRequest{}))
	if err != nil {
		return err
	}
	defer stream.Close()
	stream.Receive()
	return stream.Err()
}
