// Command clients is a load generator of the figure `clients`: it asks CheckMembership through grpc-go, as backends do,
// and checks every answer. benches/figures builds it, starts it on the core without the server and measures the server.
//
// It has the interface of the Rust generator. The parameters are JSON in ROSTER_BENCH_LOAD. It prints `warm` when the
// measurement starts, and the results as JSON at the end. A failed call and a wrong answer end it.
package main

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	method = "/roster.v1.CheckService/CheckMembership"

	// The number of members of each organization, as in benches/figures/tool/table.rs.
	members = 10

	// Requests that are encoded before the measurement starts, as in benches/figures/tool/questions.rs.
	prepared = 65_536

	warmUp = time.Second
)

// load contains the parameters of the bench's generator that this one honours.
type load struct {
	Address string
	// The bearer token; no header where it is empty.
	Token string
	// The header that each call has in addition: None or RequestId.
	CallHeader string `json:"call_header"`
	Table      struct{ Memberships, Users uint64 }
	// The number of connections, and of concurrent calls on each.
	Connections, Streams int
	Seconds              int
}

// measurement contains the results. Latencies are in microseconds.
type measurement struct {
	Calls   int     `json:"calls"`
	Seconds float64 `json:"seconds"`
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	Most    float64 `json:"most"`
}

// wireCodec sends and receives encoded messages, so that the measurement contains no encoding.
type wireCodec struct{}

func (wireCodec) Name() string { return "proto" }

func (wireCodec) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(message.([]byte))}, nil
}

func (wireCodec) Unmarshal(data mem.BufferSlice, message any) error {
	*message.(*[]byte) = data.Materialize()
	return nil
}

type generator struct {
	connections   []*grpc.ClientConn
	streams       int
	withRequestID bool
	// The context of every call, with its credential.
	context   context.Context
	questions [][]byte
	// The number of questions asked so far.
	asked atomic.Uint64
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("clients: ")
	// Replaces the codec of grpc-go under its name, so that requests have the headers of every other client.
	encoding.RegisterCodecV2(wireCodec{})
	var load load
	if err := json.Unmarshal([]byte(os.Getenv("ROSTER_BENCH_LOAD")), &load); err != nil {
		log.Fatal("ROSTER_BENCH_LOAD: ", err)
	}
	generator := newGenerator(load)
	generator.run(warmUp)
	fmt.Println("warm")
	begin := time.Now()
	latencies := generator.run(time.Duration(load.Seconds) * time.Second)
	seconds := time.Since(begin).Seconds()
	slices.Sort(latencies)
	percentile := func(part int) float64 {
		return float64(latencies[(len(latencies)-1)*part/1000].Nanoseconds()) / 1000
	}
	results, err := json.Marshal(measurement{
		Calls: len(latencies), Seconds: seconds, P50: percentile(500), P99: percentile(990), Most: percentile(1000),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(results))
}

func newGenerator(load load) *generator {
	if load.CallHeader != "None" && load.CallHeader != "RequestId" {
		log.Fatal("no call header ", load.CallHeader)
	}
	generator := &generator{streams: load.Streams, withRequestID: load.CallHeader == "RequestId"}
	generator.context = context.Background()
	if load.Token != "" {
		generator.context = metadata.AppendToOutgoingContext(generator.context, "authorization", "Bearer "+load.Token)
	}
	for range load.Connections {
		connection, err := grpc.NewClient(load.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			log.Fatal(err)
		}
		generator.connections = append(generator.connections, connection)
	}
	memberships := load.Table.Memberships
	count := min(prepared, memberships)
	for index := range count {
		generator.questions = append(generator.questions, question(index*memberships/count, load.Table.Users))
	}
	return generator
}

// question returns the encoded request about a membership. Membership n is user n (modulo the number of users) in
// organization n / 10.
func question(number, users uint64) []byte {
	var message []byte
	for field, id := range []string{id("o", number/members), id("u", number%users)} {
		message = protowire.AppendTag(message, protowire.Number(field+1), protowire.BytesType)
		message = protowire.AppendString(message, id)
	}
	return message
}

// id returns the id of an organization or a user: the MD5 of its kind and number, as a UUID.
func id(kind string, number uint64) string {
	return uuid(md5.Sum(fmt.Appendf(nil, "%s%d", kind, number)))
}

func uuid(bytes [16]byte) string {
	digits := hex.EncodeToString(bytes[:])
	return digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:]
}

// run keeps the given number of calls running on each connection for a time, and returns the latencies.
func (g *generator) run(length time.Duration) []time.Duration {
	var callers sync.WaitGroup
	all := make([][]time.Duration, len(g.connections)*g.streams)
	until := time.Now().Add(length)
	for caller := range all {
		connection := g.connections[caller%len(g.connections)]
		callers.Go(func() { all[caller] = g.call(connection, until) })
	}
	callers.Wait()
	return slices.Concat(all...)
}

// call asks one question after the other, and returns the latencies.
func (g *generator) call(connection *grpc.ClientConn, until time.Time) []time.Duration {
	var latencies []time.Duration
	for begin := time.Now(); begin.Before(until); begin = time.Now() {
		ctx := g.context
		var options []grpc.CallOption
		var headers metadata.MD
		var requestID string
		if g.withRequestID {
			requestID = newRequestID()
			ctx = metadata.AppendToOutgoingContext(ctx, "x-request-id", requestID)
			options = append(options, grpc.Header(&headers))
		}
		question := g.questions[g.asked.Add(1)%uint64(len(g.questions))]
		var answer []byte
		if err := connection.Invoke(ctx, method, question, &answer, options...); err != nil {
			log.Fatal(err)
		}
		latencies = append(latencies, time.Since(begin))
		if !allowed(answer) {
			log.Fatalf("a member was denied: %x", answer)
		}
		if returned := headers.Get("x-request-id"); g.withRequestID && !slices.Equal(returned, []string{requestID}) {
			log.Fatalf("the answer to request %s names %q", requestID, returned)
		}
	}
	return latencies
}

func newRequestID() string {
	var bytes [16]byte
	for place := 0; place < len(bytes); place += 8 {
		random := rand.Uint64()
		for byte := range 8 {
			bytes[place+byte] = uint8(random >> (8 * byte))
		}
	}
	return uuid(bytes)
}

// allowed returns whether a CheckMembershipResponse says yes: field 1 of the message in its field 1.
func allowed(answer []byte) bool {
	_, kind, length := protowire.ConsumeTag(answer)
	if length < 0 || answer[0] != byte(1<<3|protowire.BytesType) || kind != protowire.BytesType {
		return false
	}
	result, length := protowire.ConsumeBytes(answer[length:])
	if length < 0 {
		return false
	}
	number, _, length := protowire.ConsumeTag(result)
	if length < 0 || number != 1 {
		return false
	}
	yes, length := protowire.ConsumeVarint(result[length:])
	return length > 0 && yes == 1
}
