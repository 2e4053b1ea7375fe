//! A TCP proxy that behaves as badly as a network.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

#[derive(Clone, Copy, PartialEq)]
enum Weather {
    Fair,
    /// Nothing is passed on, in either direction, and nobody is told.
    Stalled,
    /// What the server says is kept back, what is said to it gets through.
    Deaf,
    /// Every piece takes that long.
    Slow(Duration),
    /// New connections are reset.
    Refusing,
}

/// Forwards connections to a port of this machine. In a thread of its own; ends when dropped.
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    /// Its value counts the cuts.
    cuts: watch::Sender<u64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn start(target: u16) -> Proxy {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let weather = watch::Sender::new(Weather::Fair);
        let cuts = watch::Sender::new(0);
        let (stop, stopped) = oneshot::channel();
        let forward = Arc::new(Forward { target, weather: weather.subscribe(), cuts: cuts.subscribe() });
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, forward) => {}
                    _ = stopped => {}
                }
            });
        });
        Proxy { port, weather, cuts, stop: Some(stop), thread: Some(thread) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Resets every open connection (RST on both sides). New ones are welcome.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Resets every open connection, and every new one until `clear`.
    pub fn refuse(&self) {
        self.weather.send_replace(Weather::Refusing);
        self.cut();
    }

    /// Open connections stay open, new ones are accepted, and nothing passes until `clear`: a
    /// peer that vanished without a word.
    pub fn stall(&self) {
        self.weather.send_replace(Weather::Stalled);
    }

    /// What is said to the server arrives, its answers do not, until `clear` (or never, after `cut`).
    pub fn hold_answers(&self) {
        self.weather.send_replace(Weather::Deaf);
    }

    /// Each piece of up to 16 kB is delayed until `clear`.
    pub fn slow(&self, delay: Duration) {
        self.weather.send_replace(Weather::Slow(delay));
    }

    /// Fair weather again; what was stalled goes on.
    pub fn clear(&self) {
        self.weather.send_replace(Weather::Fair);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Forward {
    target: u16,
    weather: watch::Receiver<Weather>,
    cuts: watch::Receiver<u64>,
}

async fn accept(listener: TcpListener, forward: Arc<Forward>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(connection(client, forward.clone()));
    }
}

async fn connection(mut client: TcpStream, forward: Arc<Forward>) {
    let mut cuts = forward.cuts.clone();
    cuts.mark_unchanged();
    let mut weather = forward.weather.clone();
    if *weather.borrow_and_update() == Weather::Refusing {
        return reset(client);
    }
    let server = tokio::select! {
        _ = cuts.changed() => return reset(client),
        server = connect(&mut weather, forward.target) => server,
    };
    let Some(mut server) = server else {
        return reset(client);
    };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let both = async {
        let up = pass(from_client, to_server, forward.weather.clone(), Direction::Question);
        let down = pass(from_server, to_client, forward.weather.clone(), Direction::Answer);
        tokio::join!(up, down)
    };
    let was_cut = tokio::select! {
        _ = cuts.changed() => true,
        _ = both => false,
    };
    if was_cut {
        reset(client);
        reset(server);
    }
}

/// A stalled network lets no new connection through to the server either.
async fn connect(weather: &mut watch::Receiver<Weather>, target: u16) -> Option<TcpStream> {
    not_stalled(weather).await;
    let server = TcpStream::connect(("127.0.0.1", target)).await.ok()?;
    server.set_nodelay(true).ok()?;
    Some(server)
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Question,
    Answer,
}

async fn pass(
    mut from: tokio::net::tcp::ReadHalf<'_>,
    mut to: tokio::net::tcp::WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    direction: Direction,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            passes(&mut weather, direction).await;
            // The other direction goes on: half-closed is a state of its own.
            let _ = to.shutdown().await;
            return;
        };
        passes(&mut weather, direction).await;
        let delay = match *weather.borrow() {
            Weather::Slow(delay) => Some(delay),
            _ => None,
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn not_stalled(weather: &mut watch::Receiver<Weather>) {
    // An error means that the proxy is gone, and its connections with it.
    let _ = weather.wait_for(|now| *now != Weather::Stalled).await;
}

async fn passes(weather: &mut watch::Receiver<Weather>, direction: Direction) {
    let held = |now: &Weather| match now {
        Weather::Stalled => true,
        Weather::Deaf => direction == Direction::Answer,
        Weather::Fair | Weather::Slow(_) | Weather::Refusing => false,
    };
    let _ = weather.wait_for(|now| !held(now)).await;
}

/// Closes with RST instead of FIN.
fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}
