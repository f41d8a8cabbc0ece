// A client of roster with grpc-node, for the tests in tests/it/interop: one call, or calls and a stream until its input
// ends. interop/run.sh copies it beside interop/languages/node/example.js, whose packages it uses.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

// The time between two calls under load, in milliseconds.
const pace = 5;

const files = ["roster/v1/check_service.proto", "roster/v1/event_service.proto"];
const includeDirs = ["../roster/proto", "../roster/third_party/googleapis"];
const { roster } = grpc.loadPackageDefinition(protoLoader.loadSync(files, { includeDirs, longs: String, defaults: true }));

// TLS with the certificates that the variables name, if there is a CA.
const read = (variable) => process.env[variable] ? readFileSync(process.env[variable]) : null;
const ca = read("ROSTER_CA");
const transport = ca
  ? grpc.credentials.createSsl(ca, read("ROSTER_KEY"), read("ROSTER_CERTIFICATE"))
  : grpc.credentials.createInsecure();

function bearer() {
  const metadata = new grpc.Metadata();
  if (process.env.SERVICE) metadata.set("authorization", "Bearer " + process.env.SERVICE);
  return metadata;
}

const checks = new roster.v1.CheckService(process.env.ROSTER_ADDRESS, transport);
const events = new roster.v1.EventService(process.env.ROSTER_ADDRESS, transport);
const check = () => new Promise((resolve, reject) => {
  const question = { organization: "acme-inc", userId: "ada" };
  checks.checkMembership(question, bearer(), { deadline: Date.now() + 10_000 }, (error, answer) => {
    if (error) reject(error);
    else if (!answer.result.allowed) reject(new Error("ada is no member"));
    else resolve();
  });
});

const counts = { calls: 0, failed: 0, streams: 0, events: 0 };

// Reads the audit trail. Each stream goes on where the one before has ended.
async function watch() {
  for (let cursor = ""; ; await sleep(100)) {
    try {
      let first = true;
      for await (const message of events.watchEvents({ organization: "acme-inc", cursor }, bearer())) {
        if (first) counts.streams += 1;
        first = false;
        if (message.events.length > 0) {
          counts.events += message.events.length;
          console.log("event");
        }
        cursor = message.cursor || cursor;
      }
    } catch (error) {
      console.error("stream:", error.message);
    }
  }
}

async function load() {
  watch();
  let running = true;
  process.stdin.on("end", () => { running = false; }).resume();
  const pending = new Set();
  const start = performance.now();
  while (running) {
    // Timers of Node have whole milliseconds and come late: as many calls as are due.
    for (; counts.calls * pace < performance.now() - start; counts.calls += 1) {
      const call = check().catch((error) => {
        counts.failed += 1;
        console.error(error.message);
      });
      pending.add(call);
      call.finally(() => pending.delete(call));
    }
    await sleep(pace);
  }
  await Promise.all(pending);
  console.log(Object.entries(counts).map(([name, count]) => `${name}=${count}`).join(" "));
  process.exit(0);
}

if (process.argv[2] === "load") {
  await load();
} else {
  try {
    await check();
    console.log("ok");
  } catch (error) {
    console.log(grpc.status[error.code], "=", error.details ?? error.message);
  }
  process.exit(0);
}
