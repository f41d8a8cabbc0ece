module roster.example/interop

go 1.25.0

require (
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260825221802-da73d73af1c5
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
	roster.example/gen v0.0.0
)

// interop/run.sh generates this module from the protos.
replace roster.example/gen => ../../target/interop/generated/go
