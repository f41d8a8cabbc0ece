import json
import os
import sys
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from roster.v1 import check_service_pb2, check_service_pb2_grpc, event_service_pb2, event_service_pb2_grpc

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [{
        "name": [{"service": "roster.v1.CheckService"}],
        "retryPolicy": {
            "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        },
    }],
}


def bearer():
    """A bearer token or an API key. It is called for each call, so it may return a renewed token."""
    return [("authorization", "Bearer " + os.environ["SERVICE"])]


def main():
    options = [("grpc.service_config", json.dumps(SERVICE_CONFIG))]
    channel = grpc.insecure_channel("dns:///" + os.environ["ROSTER_ADDRESS"], options)
    checks = check_service_pb2_grpc.CheckServiceStub(channel)
    question = check_service_pb2.CheckMembershipRequest(organization="acme-inc", user_id="ada")
    answer = checks.CheckMembership(question, metadata=bearer(), timeout=10)
    print("ada is a member:", str(answer.result.allowed).lower())

    try:
        question = check_service_pb2.CheckMembershipRequest(organization="acme-inc")
        checks.CheckMembership(question, metadata=bearer(), timeout=10)
    except grpc.RpcError as error:
        info, invalid = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in rpc_status.from_call(error).details:
            if detail.Unpack(info):
                print("error:", info.reason)
            elif detail.Unpack(invalid):
                print("invalid field:", invalid.field_violations[0].field)

    # Each stream goes on where the one before has ended.
    events = event_service_pb2_grpc.EventServiceStub(channel)
    watch = event_service_pb2.WatchEventsRequest(organization="acme-inc")
    while True:
        try:
            for message in events.WatchEvents(watch, metadata=bearer()):
                for event in message.events:
                    print("event:", event.type, event.user_id, flush=True)
                if not watch.cursor:
                    print("watching", flush=True)
                watch.cursor = message.cursor or watch.cursor
        except grpc.RpcError as error:
            print(error, file=sys.stderr)
        time.sleep(1)


main()
