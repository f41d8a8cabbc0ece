import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.unix.DomainSocketAddress;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import io.roster.v1.*;
import java.io.File;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Phaser;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/**
 * A client of roster with grpc-java, for the tests in tests/it/interop: one call, or calls and a stream until its input
 * ends.
 */
class Probe {
  /** The time between two calls under load, in milliseconds. */
  static final long PACE = 5;

  static final CheckMembershipRequest QUESTION =
      CheckMembershipRequest.newBuilder().setOrganization("acme-inc").setUserId("ada").build();

  /** TLS with the certificates that the variables name, if there is a CA. */
  static ChannelCredentials credentials() throws Exception {
    String ca = System.getenv("ROSTER_CA");
    if (ca == null) {
      return InsecureChannelCredentials.create();
    }
    var tls = TlsChannelCredentials.newBuilder().trustManager(new File(ca));
    String certificate = System.getenv("ROSTER_CERTIFICATE");
    if (certificate != null) {
      tls.keyManager(new File(certificate), new File(System.getenv("ROSTER_KEY")));
    }
    return tls.build();
  }

  static ManagedChannelBuilder<?> builder(String address) throws Exception {
    if (!address.startsWith("unix:")) {
      return Grpc.newChannelBuilder(address, credentials());
    }
    var socket = new DomainSocketAddress(address.substring("unix:".length()));
    return NettyChannelBuilder.forAddress(socket, InsecureChannelCredentials.create())
        .channelType(EpollDomainSocketChannel.class)
        .eventLoopGroup(new EpollEventLoopGroup())
        .overrideAuthority("roster");
  }

  static Metadata bearer() {
    Metadata headers = new Metadata();
    String credential = System.getenv("SERVICE");
    if (credential != null) {
      headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + credential);
    }
    return headers;
  }

  /** An error and its causes: the status of a connection that failed has the reason in a cause. */
  static String causes(Throwable error) {
    StringBuilder text = new StringBuilder(error.getMessage());
    for (Throwable cause = error.getCause(); cause != null; cause = cause.getCause()) {
      text.append(": ").append(cause.getMessage());
    }
    return text.toString();
  }

  public static void main(String[] arguments) throws Exception {
    var channel = builder(System.getenv("ROSTER_ADDRESS"))
        .intercept(MetadataUtils.newAttachHeadersInterceptor(bearer()))
        .build();
    if (arguments[0].equals("load")) {
      load(channel);
    }
    try {
      var checks = CheckServiceGrpc.newBlockingStub(channel).withDeadlineAfter(10, TimeUnit.SECONDS);
      System.out.println(checks.checkMembership(QUESTION).getResult().getAllowed() ? "ok" : "ada is no member");
    } catch (StatusRuntimeException error) {
      System.out.println(causes(error).replace('\n', ' '));
    }
    System.exit(0);
  }

  static void background(Runnable work) {
    Thread thread = new Thread(work);
    thread.setDaemon(true);
    thread.start();
  }

  static void load(ManagedChannel channel) throws Exception {
    var failed = new AtomicLong();
    var streams = new AtomicLong();
    var events = new AtomicLong();
    var ended = new CountDownLatch(1);
    background(() -> watch(channel, streams, events));
    background(() -> {
      try {
        System.in.readAllBytes();
      } catch (java.io.IOException error) {
        System.err.println(error);
      }
      ended.countDown();
    });
    var pending = new Phaser(1);
    var checks = CheckServiceGrpc.newStub(channel);
    long calls = 0;
    while (!ended.await(PACE, TimeUnit.MILLISECONDS)) {
      calls++;
      pending.register();
      checks.withDeadlineAfter(10, TimeUnit.SECONDS).checkMembership(QUESTION, new StreamObserver<>() {
        @Override
        public void onNext(CheckMembershipResponse answer) {}

        @Override
        public void onError(Throwable error) {
          failed.incrementAndGet();
          System.err.println(causes(error));
          pending.arriveAndDeregister();
        }

        @Override
        public void onCompleted() {
          pending.arriveAndDeregister();
        }
      });
    }
    pending.arriveAndAwaitAdvance();
    System.out.printf("calls=%d failed=%d streams=%d events=%d%n", calls, failed.get(), streams.get(), events.get());
    System.exit(0);
  }

  /** Reads the audit trail. Each stream goes on where the one before has ended. */
  static void watch(ManagedChannel channel, AtomicLong streams, AtomicLong events) {
    var watch = WatchEventsRequest.newBuilder().setOrganization("acme-inc");
    while (true) {
      try {
        boolean first = true;
        for (var messages = EventServiceGrpc.newBlockingStub(channel).watchEvents(watch.build()); messages.hasNext();) {
          var message = messages.next();
          if (first) {
            streams.incrementAndGet();
            first = false;
          }
          if (message.getEventsCount() > 0) {
            events.addAndGet(message.getEventsCount());
            System.out.println("event");
          }
          if (!message.getCursor().isEmpty()) {
            watch.setCursor(message.getCursor());
          }
        }
      } catch (StatusRuntimeException error) {
        System.err.println("stream: " + causes(error));
      }
      try {
        Thread.sleep(100);
      } catch (InterruptedException error) {
        return;
      }
    }
  }
}
