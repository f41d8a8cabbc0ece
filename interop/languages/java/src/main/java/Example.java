import com.google.protobuf.Any;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.grpc.CallCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.roster.v1.*;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;

class Example {
  static final Map<String, Object> SERVICE_CONFIG = Map.of(
      "loadBalancingConfig", List.of(Map.of("round_robin", Map.of())),
      "healthCheckConfig", Map.of("serviceName", ""),
      "methodConfig", List.of(Map.of(
          "name", List.of(Map.of("service", "roster.v1.CheckService")),
          "retryPolicy", Map.of(
              "maxAttempts", 4.0, "initialBackoff", "0.1s", "maxBackoff", "1s", "backoffMultiplier", 2.0,
              "retryableStatusCodes", List.of("UNAVAILABLE")))));

  /** A bearer token or an API key. It is asked for each call, so it may return a renewed token. */
  static class Bearer extends CallCredentials {
    @Override
    public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
      Metadata headers = new Metadata();
      headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER),
          "Bearer " + System.getenv("SERVICE"));
      applier.apply(headers);
    }
  }

  public static void main(String[] arguments) throws Exception {
    String target = "dns:///" + System.getenv("ROSTER_ADDRESS");
    var channel = Grpc.newChannelBuilder(target, InsecureChannelCredentials.create())
        .defaultServiceConfig(SERVICE_CONFIG)
        .build();
    var checks = CheckServiceGrpc.newBlockingStub(channel).withCallCredentials(new Bearer());
    var question = CheckMembershipRequest.newBuilder().setOrganization("acme-inc").setUserId("ada").build();
    var answer = checks.withDeadlineAfter(10, TimeUnit.SECONDS).checkMembership(question);
    System.out.println("ada is a member: " + answer.getResult().getAllowed());

    try {
      checks.withDeadlineAfter(10, TimeUnit.SECONDS).checkMembership(question.toBuilder().clearUserId().build());
    } catch (StatusRuntimeException error) {
      for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          System.out.println("error: " + detail.unpack(ErrorInfo.class).getReason());
        } else if (detail.is(BadRequest.class)) {
          System.out.println("invalid field: " + detail.unpack(BadRequest.class).getFieldViolations(0).getField());
        }
      }
    }

    // Each stream goes on where the one before has ended.
    var events = EventServiceGrpc.newBlockingStub(channel).withCallCredentials(new Bearer());
    var watch = WatchEventsRequest.newBuilder().setOrganization("acme-inc");
    while (true) {
      try {
        for (var messages = events.watchEvents(watch.build()); messages.hasNext();) {
          var message = messages.next();
          message.getEventsList().forEach(event ->
              System.out.println("event: " + event.getType() + " " + event.getUserId()));
          if (watch.getCursor().isEmpty()) {
            System.out.println("watching");
          }
          if (!message.getCursor().isEmpty()) {
            watch.setCursor(message.getCursor());
          }
        }
      } catch (StatusRuntimeException error) {
        System.err.println(error.getStatus());
      }
      Thread.sleep(1000);
    }
  }
}
