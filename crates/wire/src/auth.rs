//! Proving to the server who we are, and having it prove who it is.

use bytes::BytesMut;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;

use crate::cursor::Cursor;
use crate::error::{Error, Result, ServerError};
use crate::frame::{Frame, Frames};
use crate::options::{ChannelBinding, ConnectOptions};
use crate::transport::Transport;

/// Answers the server's requests until it says that all is well.
pub(crate) async fn authenticate(frames: &mut Frames<Transport>, options: &ConnectOptions) -> Result<()> {
    let mut bound = false;
    loop {
        let body = next_request(frames).await?;
        let mut request = Cursor::new(&body);
        let method = request.i32("kind of authentication")?;
        // Anything but a bound SCRAM leaves open who is at the other end.
        if options.channel_binding == ChannelBinding::Require && !bound && method != 10 {
            return Err(Error::ChannelBinding { why: "the server wants to let us in without it" });
        }
        match method {
            0 => return Ok(()),
            3 => {
                let password = password(options, "cleartext")?;
                send_password(frames, password).await?;
            }
            5 => {
                let salt = request.take(4, "salt")?;
                let salt = [salt[0], salt[1], salt[2], salt[3]];
                let password = password(options, "md5")?;
                let hash = md5_hash(options.user.as_bytes(), password, salt);
                send_password(frames, hash.as_bytes()).await?;
            }
            10 => {
                scram(frames, options, &mut request).await?;
                bound = true;
            }
            other => return Err(unsupported(other)),
        }
    }
}

fn unsupported(method: i32) -> Error {
    let method = match method {
        2 => "Kerberos V5".to_owned(),
        6 => "SCM credentials".to_owned(),
        7 | 8 => "GSSAPI".to_owned(),
        9 => "SSPI".to_owned(),
        other => format!("number {other}"),
    };
    Error::UnsupportedAuth { method }
}

/// The next authentication message's body.
async fn next_request(frames: &mut Frames<Transport>) -> Result<bytes::Bytes> {
    loop {
        let Frame { tag, body } = frames.next().await?;
        match tag {
            b'R' => return Ok(body),
            b'E' => return Err(ServerError::parse(&body)?.at_startup()),
            // Notices, and the offer of an older minor protocol version.
            b'N' | b'v' => {}
            other => {
                return Err(Error::Unexpected { tag: char::from(other), during: "during authentication" });
            }
        }
    }
}

fn password<'a>(options: &'a ConnectOptions, method: &'static str) -> Result<&'a [u8]> {
    match &options.password {
        Some(password) if !password.expose().is_empty() => Ok(password.expose().as_bytes()),
        _ => Err(Error::PasswordMissing { method }),
    }
}

async fn send(frames: &mut Frames<Transport>, message: &[u8]) -> Result<()> {
    frames.input().write_all(message).await?;
    frames.input().flush().await?;
    Ok(())
}

async fn send_password(frames: &mut Frames<Transport>, password: &[u8]) -> Result<()> {
    let mut message = BytesMut::new();
    frontend::password_message(password, &mut message)
        .map_err(|_| Error::InvalidOption { what: "the password has a NUL byte in it".to_owned() })?;
    send(frames, &message).await
}

/// SCRAM-SHA-256, bound to the server's certificate where both sides can.
async fn scram(frames: &mut Frames<Transport>, options: &ConnectOptions, offer: &mut Cursor<'_>) -> Result<()> {
    let mut plain = false;
    let mut plus = false;
    loop {
        match offer.cstr("name of a SASL mechanism")? {
            b"" => break,
            name if name == sasl::SCRAM_SHA_256.as_bytes() => plain = true,
            name if name == sasl::SCRAM_SHA_256_PLUS.as_bytes() => plus = true,
            _ => {}
        }
    }
    let (mechanism, binding) = choose(frames.input(), options.channel_binding, plain, plus)?;
    let password = password(options, "SCRAM-SHA-256")?;
    let mut exchange = sasl::ScramSha256::new(password, binding);

    let mut message = BytesMut::new();
    frontend::sasl_initial_response(mechanism, exchange.message(), &mut message)?;
    send(frames, &message).await?;

    let unproven = |error: std::io::Error| Error::ServerUnproven { why: error.to_string() };
    let challenge = sasl_step(frames, 11).await?;
    exchange.update(&challenge[4..]).map_err(unproven)?;
    message.clear();
    frontend::sasl_response(exchange.message(), &mut message)?;
    send(frames, &message).await?;

    let proof = sasl_step(frames, 12).await?;
    exchange.finish(&proof[4..]).map_err(unproven)
}

/// The mechanism, and what to tell the server about binding: it notices if somebody in between has
/// taken its offer of PLUS away.
fn choose(
    transport: &Transport,
    wanted: ChannelBinding,
    plain: bool,
    plus: bool,
) -> Result<(&'static str, sasl::ChannelBinding)> {
    let end_point = match wanted {
        ChannelBinding::Disable => None,
        _ => transport.end_point(),
    };
    let missing = |why| Err(Error::ChannelBinding { why });
    match end_point {
        Some(digest) if plus => Ok((sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(digest))),
        _ if wanted == ChannelBinding::Require && !transport.is_tls() => missing("the connection does not use TLS"),
        _ if wanted == ChannelBinding::Require && !plus => missing("the server does not offer it"),
        _ if wanted == ChannelBinding::Require => missing("the signature of the server's certificate names no hash"),
        Some(_) if plain => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested())),
        None if plain => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported())),
        _ => Err(Error::UnsupportedAuth { method: "SASL without SCRAM-SHA-256".to_owned() }),
    }
}

/// The next message of the exchange, which must be of the given kind: above all not "all is well"
/// before the server has proved itself.
async fn sasl_step(frames: &mut Frames<Transport>, expected: i32) -> Result<bytes::Bytes> {
    let body = next_request(frames).await?;
    let kind = Cursor::new(&body).i32("kind of authentication")?;
    if kind != expected {
        return Err(Error::ServerUnproven { why: "it broke off the SCRAM exchange".to_owned() });
    }
    Ok(body)
}
