"""A client of roster with grpc-python, for the tests in tests/it/interop: one call, or calls and a stream until its
input ends."""

import os
import sys
import threading
import time

import grpc
from roster.v1 import check_service_pb2, check_service_pb2_grpc, event_service_pb2, event_service_pb2_grpc

# The time between two calls under load, in seconds.
PACE = 0.005


def read(variable):
    path = os.environ.get(variable)
    return open(path, "rb").read() if path else None


def connect():
    """A channel with the certificates that the variables name: TLS if there is a CA."""
    address = os.environ["ROSTER_ADDRESS"]
    ca = read("ROSTER_CA")
    if not ca:
        # The library would make the authority of the path, which is none.
        options = [("grpc.default_authority", "roster")] if address.startswith("unix:") else []
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, read("ROSTER_KEY"), read("ROSTER_CERTIFICATE")))


def metadata():
    credential = os.environ.get("SERVICE")
    return [("authorization", "Bearer " + credential)] if credential else []


QUESTION = check_service_pb2.CheckMembershipRequest(organization="acme-inc", user_id="ada")


def load(channel, checks):
    counts = {"calls": 0, "failed": 0, "streams": 0, "events": 0}
    ended, pending = threading.Event(), set()

    def done(call):
        pending.discard(call)
        if call.code() != grpc.StatusCode.OK:
            counts["failed"] += 1
            print(call.code(), call.details(), file=sys.stderr)

    def watch():
        request = event_service_pb2.WatchEventsRequest(organization="acme-inc")
        while True:
            try:
                first = True
                for message in event_service_pb2_grpc.EventServiceStub(channel).WatchEvents(request, metadata=metadata()):
                    counts["streams"] += first
                    first = False
                    if message.events:
                        counts["events"] += len(message.events)
                        print("event", flush=True)
                    request.cursor = message.cursor or request.cursor
            except grpc.RpcError as error:
                print("stream:", error.code(), error.details(), file=sys.stderr)
            time.sleep(0.1)

    threading.Thread(target=watch, daemon=True).start()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.wait(PACE):
        counts["calls"] += 1
        call = checks.CheckMembership.future(QUESTION, metadata=metadata(), timeout=10)
        pending.add(call)
        call.add_done_callback(done)
    while pending:
        time.sleep(0.01)
    print(*(f"{name}={count}" for name, count in counts.items()), flush=True)
    os._exit(0)


def main():
    channel = connect()
    checks = check_service_pb2_grpc.CheckServiceStub(channel)
    if sys.argv[1] == "load":
        load(channel, checks)
    try:
        answer = checks.CheckMembership(QUESTION, metadata=metadata(), timeout=10)
        print("ok" if answer.result.allowed else "ada is no member")
    except grpc.RpcError as error:
        print(error.code().name, "=", error.details())


main()
