//! Servers that do what a real one never would, or only at the worst of times.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use wire::{ConnectOptions, Error, Event, Feedback, Host, Lsn, PgOutputOptions, ReplicationClient, Stream};

const PATIENCE: Duration = Duration::from_secs(20);

/// A message of the server.
fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![tag];
    frame.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

fn authentication(kind: u32, rest: &[u8]) -> Vec<u8> {
    frame(b'R', &[&kind.to_be_bytes()[..], rest].concat())
}

fn keepalive(wal_end: u64, reply: bool) -> Vec<u8> {
    let time = [0; 8];
    let body = [b"k", &wal_end.to_be_bytes()[..], &time, &[u8::from(reply)]].concat();
    frame(b'd', &body)
}

/// The other end of one connection.
struct Peer(TcpStream);

impl Peer {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("sent");
    }

    /// What follows a length: the startup packet.
    async fn untagged(&mut self) -> Vec<u8> {
        let length = self.0.read_u32().await.expect("length") as usize;
        let mut body = vec![0; length - 4];
        self.0.read_exact(&mut body).await.expect("body");
        body
    }

    async fn message(&mut self) -> (u8, Vec<u8>) {
        let tag = self.0.read_u8().await.expect("tag");
        (tag, self.untagged().await)
    }

    /// Lets the client in and on to the stream.
    async fn start_stream(&mut self) {
        self.untagged().await;
        self.send(&authentication(0, b"")).await;
        self.send(&frame(b'S', b"server_version\x0017.2\0")).await;
        self.send(&frame(b'Z', b"I")).await;
        let (tag, _) = self.message().await;
        assert_eq!(tag, b'Q', "asks for wal_sender_timeout");
        self.send(&frame(b'D', b"\x00\x01\x00\x00\x00\x0560000")).await;
        self.send(&frame(b'Z', b"I")).await;
        let (tag, command) = self.message().await;
        assert_eq!(tag, b'Q');
        assert!(command.starts_with(b"START_REPLICATION SLOT \"s\" LOGICAL 0/7 ("));
        self.send(&frame(b'W', b"\0\0\0")).await;
    }

    /// Flushed position and reply mark of the next status.
    async fn status(&mut self) -> (u64, bool) {
        let (tag, body) = self.message().await;
        assert_eq!((tag, body[0], body.len()), (b'd', b'r', 34));
        let flushed = u64::from_be_bytes(body[9..17].try_into().expect("eight bytes"));
        (flushed, body[33] == 1)
    }
}

/// Listens for one connection and plays `script` on it.
async fn server<F: Future<Output = Peer> + Send + 'static>(
    script: impl FnOnce(Peer) -> F + Send + 'static,
) -> (ConnectOptions, JoinHandle<Peer>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let mut options = ConnectOptions::new(Host::Tcp("127.0.0.1".to_owned(), None), "user", "database");
    options.port = listener.local_addr().expect("address").port();
    options.password = Some("secret".into());
    options.status_interval = Duration::from_secs(3600);
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("connection");
        script(Peer(stream)).await
    });
    (options, server)
}

/// What comes of a login in which the server says just this.
async fn login(answer: Vec<u8>) -> Error {
    let (options, server) = server(|mut peer| async move {
        peer.untagged().await;
        peer.send(&answer).await;
        peer.0.shutdown().await.expect("end");
        peer
    })
    .await;
    let outcome = ReplicationClient::connect(&options).await;
    drop(server.await.expect("script"));
    outcome.err().expect("no login")
}

async fn start(options: &ConnectOptions) -> (Stream, Feedback) {
    let client = ReplicationClient::connect(options).await.expect("login");
    assert_eq!(client.server_major(), 17);
    let pgoutput = PgOutputOptions::new(["pub"]);
    client.start("s", Lsn(7), &pgoutput).await.expect("stream")
}

async fn next(stream: &mut Stream) -> Result<Event, Error> {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time")
}

#[tokio::test]
async fn logins_that_cannot_succeed() {
    for (kind, name) in [(2, "Kerberos"), (7, "GSSAPI"), (9, "SSPI"), (77, "77")] {
        let error = login(authentication(kind, b"")).await;
        let Error::UnsupportedAuth { method } = &error else { panic!("{error}") };
        assert!(method.contains(name));
    }
    let error = login(authentication(10, b"SCRAM-SHA-512\0\0")).await;
    assert!(matches!(error, Error::UnsupportedAuth { .. }), "{error}");
    // Bound to a certificate, without TLS: no way to answer that.
    let error = login(authentication(10, b"SCRAM-SHA-256-PLUS\0\0")).await;
    assert!(matches!(error, Error::UnsupportedAuth { .. }), "{error}");
    let error = login(Vec::new()).await;
    assert!(matches!(error, Error::Closed | Error::Io(_)), "{error}");
    let error = login(frame(b'd', b"")).await;
    assert!(matches!(error, Error::Unexpected { tag: 'd', .. }), "{error}");
    // Nobody is entitled to a gigabyte before it has said who it is.
    let error = login(vec![b'E', 0x3F, 0, 0, 0]).await;
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    let error = login(frame(b'E', b"SFATAL\0C53300\0Mtoo many\0Htry later\0\0")).await;
    assert_eq!(error.code(), Some("53300"));
    assert_eq!(error.server().and_then(|server| server.hint.as_deref()), Some("try later"));
}

#[tokio::test]
async fn a_server_that_does_not_know_the_password() {
    // It says that all is well as soon as it has seen the first message.
    let (options, script) = server(|mut peer| async move {
        peer.untagged().await;
        peer.send(&authentication(10, b"SCRAM-SHA-256\0\0")).await;
        let (tag, _) = peer.message().await;
        assert_eq!(tag, b'p');
        peer.send(&authentication(0, b"")).await;
        peer.send(&frame(b'Z', b"I")).await;
        peer
    })
    .await;
    let error = ReplicationClient::connect(&options).await.err().expect("no login");
    assert!(matches!(error, Error::ServerUnproven { .. }), "{error}");
    drop(script.await);

    // It goes through with it, with a proof it made up.
    let (options, script) = server(|mut peer| async move {
        peer.untagged().await;
        peer.send(&authentication(10, b"SCRAM-SHA-256\0\0")).await;
        let (_, first) = peer.message().await;
        let nonce = String::from_utf8_lossy(&first);
        let nonce = nonce.rsplit_once("r=").expect("nonce").1.to_owned();
        let challenge = format!("r={nonce}abc,s=c2FsdA==,i=4096");
        peer.send(&authentication(11, challenge.as_bytes())).await;
        peer.message().await;
        peer.send(&authentication(12, b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")).await;
        peer.send(&authentication(0, b"")).await;
        peer
    })
    .await;
    let error = ReplicationClient::connect(&options).await.err().expect("no login");
    assert!(matches!(error, Error::ServerUnproven { .. }), "{error}");
    drop(script.await);
}

#[tokio::test]
async fn a_keepalive_that_asks_is_answered_at_once() {
    let (options, script) = server(|mut peer| async move {
        peer.start_stream().await;
        // The first status goes out unasked, the next would be an hour away.
        assert_eq!(peer.status().await, (0, false));
        peer.send(&keepalive(100, true)).await;
        assert_eq!(peer.status().await, (0, false));
        peer.send(&keepalive(200, false)).await;
        assert_eq!(peer.status().await, (200, false), "sent because the caller says so");
        assert_eq!(peer.status().await, (0, false), "the status that stands names no flushed position");
        peer.send(&keepalive(300, false)).await;
        assert_eq!(peer.status().await, (300, false), "the last word");
        assert_eq!(peer.status().await, (0, false));
        assert_eq!(peer.message().await.0, b'X');
        peer.0.shutdown().await.expect("end");
        peer
    })
    .await;
    let (mut stream, feedback) = start(&options).await;
    for (position, asked) in [(100, true), (200, false), (300, false)] {
        let event = next(&mut stream).await.expect("keepalive");
        let Event::Keepalive { wal_end, reply_requested, .. } = event else { panic!("{event:?}") };
        assert_eq!((wal_end, reply_requested), (Lsn(position), asked));
        match position {
            100 => {}
            200 => {
                feedback.set(wal_end, Lsn::NONE);
                feedback.flush_now();
            }
            _ => feedback.set(wal_end, wal_end),
        }
    }
    stream.stop(PATIENCE).await.expect("good end");
    drop(script.await.expect("script"));
}

#[tokio::test]
async fn a_silent_server_is_asked_before_it_is_given_up() {
    let (mut options, script) = server(|mut peer| async move {
        peer.start_stream().await;
        assert_eq!(peer.status().await, (0, false));
        assert_eq!(peer.status().await, (0, true), "asked to answer");
        peer.send(&keepalive(1, false)).await;
        assert_eq!(peer.status().await, (0, true), "asked again");
        peer
    })
    .await;
    let limit = Duration::from_secs(2);
    options.silence_timeout = Some(limit);
    let (mut stream, _feedback) = start(&options).await;
    assert!(matches!(next(&mut stream).await, Ok(Event::Keepalive { .. })));
    let error = next(&mut stream).await.expect_err("silence");
    assert!(matches!(error, Error::Silent { after } if after == limit), "{error}");
    drop(script.await.expect("script"));
}

type Check = fn(&Error) -> bool;

#[tokio::test]
async fn nonsense_in_the_stream_is_an_error() {
    let server_error = frame(b'E', b"VERROR\0C55006\0Mslot lost\0\0");
    let cases: Vec<(Vec<u8>, Check)> = vec![
        (frame(b'd', b""), |error| matches!(error, Error::Malformed { .. })),
        (frame(b'd', b"x"), |error| matches!(error, Error::Malformed { .. })),
        (frame(b'd', b"wshort"), |error| matches!(error, Error::Malformed { .. })),
        (frame(b'd', &[b'w'; 26]), |error| matches!(error, Error::Malformed { .. })),
        (frame(b'd', &[b'k'; 18]), |error| matches!(error, Error::Malformed { .. })),
        (vec![b'd', 0, 0, 0, 1], |error| matches!(error, Error::Malformed { .. })),
        (frame(b'T', b""), |error| matches!(error, Error::Unexpected { tag: 'T', .. })),
        (frame(b'c', b""), |error| matches!(error, Error::Ended)),
        (frame(b'C', b"COPY 0\0"), |error| matches!(error, Error::Ended)),
        (server_error, |error| error.code() == Some("55006")),
        (b"d\0\0\0".to_vec(), |error| matches!(error, Error::Closed)),
    ];
    for (bytes, expected) in cases {
        let described = format!("{bytes:?}");
        let (options, script) = server(|mut peer| async move {
            peer.start_stream().await;
            // What may come at any time is passed over.
            peer.send(&frame(b'N', b"SNOTICE\0\0")).await;
            peer.send(&frame(b'S', b"TimeZone\0UTC\0")).await;
            peer.send(&bytes).await;
            peer.status().await;
            peer.0.shutdown().await.expect("end");
            peer
        })
        .await;
        let (mut stream, _feedback) = start(&options).await;
        let error = next(&mut stream).await.expect_err("nonsense");
        assert!(expected(&error), "{described}: {error:?}");
        drop(script.await.expect("script"));
    }
}
