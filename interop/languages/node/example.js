import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const files = [
  "roster/v1/check_service.proto",
  "roster/v1/event_service.proto",
  "google/rpc/status.proto",
  "google/rpc/error_details.proto",
];
const includeDirs = ["../roster/proto", "../roster/third_party/googleapis"];
const packages = protoLoader.loadSync(files, { includeDirs, longs: String, enums: String, defaults: true });
const { roster } = grpc.loadPackageDefinition(packages);

const serviceConfig = {
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [{
    name: [{ service: "roster.v1.CheckService" }],
    retryPolicy: {
      maxAttempts: 4, initialBackoff: "0.1s", maxBackoff: "1s", backoffMultiplier: 2,
      retryableStatusCodes: ["UNAVAILABLE"],
    },
  }],
};
const target = "dns:///" + process.env.ROSTER_ADDRESS;
const options = { "grpc.service_config": JSON.stringify(serviceConfig) };

// A bearer token or an API key. It is called for each call, so it may return a renewed token.
function bearer() {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", "Bearer " + process.env.SERVICE);
  return metadata;
}

const checks = new roster.v1.CheckService(target, grpc.credentials.createInsecure(), options);
const checkMembership = promisify(checks.checkMembership).bind(checks);
const within = (seconds) => ({ deadline: Date.now() + 1000 * seconds });
const answer = await checkMembership({ organization: "acme-inc", userId: "ada" }, bearer(), within(10));
console.log("ada is a member:", answer.result.allowed);

try {
  await checkMembership({ organization: "acme-inc" }, bearer(), within(10));
} catch (error) {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  for (const { type_url, value } of packages["google.rpc.Status"].deserialize(bytes).details) {
    const detail = packages[type_url.split("/")[1]].deserialize(value);
    if (detail.reason) console.log("error:", detail.reason);
    if (detail.fieldViolations) console.log("invalid field:", detail.fieldViolations[0].field);
  }
}

// Each stream goes on where the one before has ended.
const events = new roster.v1.EventService(target, grpc.credentials.createInsecure(), options);
for (let cursor = ""; ; await sleep(1000)) {
  try {
    for await (const message of events.watchEvents({ organization: "acme-inc", cursor }, bearer())) {
      for (const event of message.events) console.log("event:", event.type, event.userId);
      if (!cursor) console.log("watching");
      cursor = message.cursor || cursor;
    }
  } catch (error) {
    console.error(error.message);
  }
}
