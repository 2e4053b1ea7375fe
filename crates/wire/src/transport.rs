//! The bytes' way to the server: TCP, a Unix socket, or TLS over TCP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host, tcp, unix};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::{Error, Result};
use crate::options::{Host, Keepalives, TlsConfig};
use crate::tls::end_point_digest;

/// One place to try.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Every address the host stands for, in the order to be tried.
pub(crate) async fn resolve(host: &Host, port: u16) -> io::Result<Vec<Address>> {
    match host {
        Host::Unix(directory) => {
            let socket = directory.join(format!(".s.PGSQL.{port}"));
            Ok(vec![Address::Unix(socket)])
        }
        Host::Tcp(_, Some(address)) => Ok(vec![Address::Tcp(SocketAddr::new(*address, port))]),
        Host::Tcp(name, None) => {
            if let Ok(address) = name.parse::<IpAddr>() {
                return Ok(vec![Address::Tcp(SocketAddr::new(address, port))]);
            }
            let found: Vec<_> = lookup_host((name.as_str(), port)).await?.map(Address::Tcp).collect();
            match found.is_empty() {
                true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
                false => Ok(found),
            }
        }
    }
}

pub(crate) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    pub(crate) async fn connect(address: &Address, keepalives: &Keepalives) -> io::Result<Self> {
        match address {
            Address::Unix(path) => Ok(Transport::Unix(UnixStream::connect(path).await?)),
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                // A status is one small packet that must not wait for another.
                stream.set_nodelay(true)?;
                keep_alive(&stream, keepalives)?;
                Ok(Transport::Tcp(stream))
            }
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Transport::Tls(_))
    }

    /// The SCRAM channel binding data of the server's certificate, where there is any.
    pub(crate) fn end_point(&self) -> Option<Vec<u8>> {
        match self {
            Transport::Tls(stream) => {
                let (_, session) = stream.get_ref();
                end_point_digest(session.peer_certificates()?.first()?)
            }
            _ => None,
        }
    }

    /// Asks for TLS and turns it on. With `optional`, a server without it leaves the connection as
    /// it was.
    pub(crate) async fn upgrade(self, tls: &TlsConfig, optional: bool) -> Result<Self> {
        let Transport::Tcp(mut stream) = self else {
            return Ok(self);
        };
        let mut request = bytes::BytesMut::new();
        postgres_protocol::message::frontend::ssl_request(&mut request);
        stream.write_all(&request).await?;
        // Exactly one byte: anything after it must be TLS, or somebody in between has added it.
        match stream.read_u8().await? {
            b'S' => {
                let connector = TlsConnector::from(tls.config.clone());
                let stream = connector.connect(tls.server_name.clone(), stream).await.map_err(Error::Tls)?;
                Ok(Transport::Tls(Box::new(stream)))
            }
            b'N' if optional => Ok(Transport::Tcp(stream)),
            b'N' => Err(Error::TlsRefused),
            other => Err(Error::Unexpected { tag: char::from(other), during: "in answer to the request for TLS" }),
        }
    }

    /// Two halves that work at the same time, for the reader and for the feedback task.
    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Transport::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Transport::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
            Transport::Tls(stream) => {
                let (read, write) = tokio::io::split(*stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        }
    }
}

fn keep_alive(stream: &TcpStream, keepalives: &Keepalives) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    #[cfg(target_os = "linux")]
    if keepalives.user_timeout.is_some() {
        socket.set_tcp_user_timeout(keepalives.user_timeout)?;
    }
    if keepalives.disabled {
        return socket.set_keepalive(false);
    }
    socket.set_keepalive(true)?;
    let mut wanted = socket2::TcpKeepalive::new();
    if let Some(idle) = keepalives.idle {
        wanted = wanted.with_time(idle);
    }
    if let Some(interval) = keepalives.interval {
        wanted = wanted.with_interval(interval);
    }
    if let Some(count) = keepalives.count {
        wanted = wanted.with_retries(count);
    }
    socket.set_tcp_keepalive(&wanted)
}

pub(crate) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Tls(tokio::io::ReadHalf<TlsStream<TcpStream>>),
}

pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    Tls(tokio::io::WriteHalf<TlsStream<TcpStream>>),
}

/// Hands a call on to whichever stream it is.
macro_rules! each {
    ($kind:ident, $self:expr, $method:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            $kind::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            $kind::Unix(stream) => Pin::new(stream).$method($($argument),*),
            $kind::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

macro_rules! reads {
    ($kind:ident) => {
        impl AsyncRead for $kind {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                each!($kind, self, poll_read(cx, buffer))
            }
        }
    };
}

macro_rules! writes {
    ($kind:ident) => {
        impl AsyncWrite for $kind {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                each!($kind, self, poll_write(cx, bytes))
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                each!($kind, self, poll_flush(cx))
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                each!($kind, self, poll_shutdown(cx))
            }
        }
    };
}

reads!(Transport);
writes!(Transport);
reads!(ReadHalf);
writes!(WriteHalf);
