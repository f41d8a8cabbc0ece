module roster.example/interop

go 1.26.0

require (
	connectrpc.com/connect v1.19.2
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260825221802-da73d73af1c5
	google.golang.org/grpc v1.85.0
	roster.example/gen v0.0.0
)

require (
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

// interop/run.sh generates this module from the protos.
replace roster.example/gen => ../../target/interop/generated/go
