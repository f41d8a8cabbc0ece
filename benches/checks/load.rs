//! The generator: plain HTTP/2, closed loop, every answer checked. A tonic client costs more than the server and could
//! not measure it; tools that count any answer as a success measure errors as speed.

use super::{CONNECTIONS, STREAMS, memberships, say, seconds, table, variable};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use prost::Message;
use roster::grpc::pb::{CheckMembershipRequest, CheckMembershipResponse};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Requests made before the clock starts, in turn: making them is not what is measured.
const PREPARED: u32 = 65_536;
const WARM_UP: Duration = Duration::from_secs(1);

/// Loads the server, and says how many calls it answered, how many a second, and the latencies of half and of 99 % of
/// them in microseconds.
pub(crate) async fn run() {
    let address = variable("ROSTER_BENCH_ADDRESS");
    let head = Arc::new(head(&address, &variable("ROSTER_BENCH_TOKEN")));
    let bodies: Arc<Vec<Bytes>> = Arc::new((0..PREPARED.min(memberships())).map(body).collect());
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(&address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move { connection.await.unwrap() });
        clients.push(client);
    }
    measure(&clients, &head, &bodies, WARM_UP).await;
    say("warm");
    let begin = Instant::now();
    let mut latencies = measure(&clients, &head, &bodies, Duration::from_secs(seconds())).await;
    let elapsed = begin.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let calls = f64::from(u32::try_from(latencies.len()).unwrap());
    let (p50, p99) = (latencies[latencies.len() / 2], latencies[latencies.len() * 99 / 100]);
    say(&format!("{calls} {} {p50} {p99}", calls / elapsed));
}

fn head(address: &str, token: &str) -> http::Request<()> {
    http::Request::post(format!("http://{address}/roster.v1.CheckService/CheckMembership"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"))
        .body(())
        .unwrap()
}

/// The frame of a question about a membership that there is. The numbers are spread over the whole table.
fn body(index: u32) -> Bytes {
    let number = u64::from(index) * u64::from(memberships()) / u64::from(PREPARED.min(memberships()));
    let (organization, user_id) = table::ids(u32::try_from(number).unwrap());
    let message = CheckMembershipRequest { organization, user_id, ..Default::default() };
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

/// Keeps all streams busy for a while; the latency of each call, in microseconds.
async fn measure(
    clients: &[SendRequest<Bytes>],
    head: &Arc<http::Request<()>>,
    bodies: &Arc<Vec<Bytes>>,
    time: Duration,
) -> Vec<u32> {
    let until = Instant::now() + time;
    let mut running = Vec::new();
    for (index, client) in clients.iter().enumerate() {
        for stream in 0..STREAMS {
            let (client, head, bodies) = (client.clone(), head.clone(), bodies.clone());
            let mut next = (index * STREAMS + stream) * bodies.len() / (CONNECTIONS * STREAMS);
            running.push(tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < until {
                    let begin = Instant::now();
                    call(&client, &head, bodies[next % bodies.len()].clone()).await;
                    latencies.push(u32::try_from(begin.elapsed().as_micros()).unwrap());
                    next += 1;
                }
                latencies
            }));
        }
    }
    let mut all = Vec::new();
    for task in running {
        all.extend(task.await.unwrap());
    }
    all
}

/// One call; an answer that is not a yes ends the bench.
async fn call(client: &SendRequest<Bytes>, head: &http::Request<()>, body: Bytes) {
    let mut client = client.clone().ready().await.unwrap();
    let (answer, mut sending) = client.send_request(head.clone(), false).unwrap();
    sending.send_data(body, true).unwrap();
    let answer = answer.await.unwrap();
    assert!(!answer.headers().contains_key("grpc-status"), "refused: {:?}", answer.headers());
    let mut body = answer.into_body();
    let mut frame = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        frame.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    let message = CheckMembershipResponse::decode(&frame[5..]).unwrap();
    assert!(message.result.unwrap().allowed, "a member was told no");
}
