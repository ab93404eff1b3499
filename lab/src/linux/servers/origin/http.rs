//! As much of HTTP/1.1 as a client under test needs.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Tally;
use crate::pattern::{self, Sum};

/// Longest request head, in bytes.
const HEAD: usize = 16 * 1024;

struct Request {
    method: String,
    path: String,
    length: u64,
    close: bool,
}

/// Answers requests until the client closes, or asks to.
pub(super) async fn serve(stream: &mut TcpStream, client: SocketAddr, tally: &Tally) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let Some(head) = read_head(stream, &mut buffer, tally).await? else { return Ok(()) };
        let Some(request) = parse(&head) else {
            return respond(stream, "400 Bad Request", b"that is not HTTP/1.1\n", true, false).await;
        };
        let sum = read_body(stream, &mut buffer, request.length, tally).await?;
        answer(stream, &request, client, sum).await?;
        if request.close {
            return stream.shutdown().await;
        }
    }
}

async fn answer(stream: &mut TcpStream, request: &Request, client: SocketAddr, sum: Sum) -> io::Result<()> {
    let head_only = request.method == "HEAD";
    let body = match request.path.as_str() {
        "/" => "the origin of the laboratory\n".to_owned(),
        "/client" => format!("{client}\n"),
        "/sum" => format!("{sum}\n"),
        path => match path.strip_prefix("/bytes/").and_then(|n| n.parse().ok()) {
            Some(length) => return send_pattern(stream, length, request.close, head_only).await,
            None => {
                return respond(stream, "404 Not Found", b"no such path\n", request.close, head_only).await;
            }
        },
    };
    respond(stream, "200 OK", body.as_bytes(), request.close, head_only).await
}

fn head_of(status: &str, length: u64, close: bool) -> String {
    let connection = if close { "close" } else { "keep-alive" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n\r\n"
    )
}

async fn respond(
    stream: &mut TcpStream,
    status: &str,
    body: &[u8],
    close: bool,
    head_only: bool,
) -> io::Result<()> {
    let mut out = head_of(status, body.len() as u64, close).into_bytes();
    if !head_only {
        out.extend_from_slice(body);
    }
    stream.write_all(&out).await
}

async fn send_pattern(stream: &mut TcpStream, length: u64, close: bool, head_only: bool) -> io::Result<()> {
    stream.write_all(head_of("200 OK", length, close).as_bytes()).await?;
    let mut sent = 0;
    while !head_only && sent < length {
        let left = usize::try_from(length - sent).unwrap_or(usize::MAX);
        sent += stream.write(pattern::piece(sent, left)).await? as u64;
    }
    Ok(())
}

/// Reads up to the empty line; what comes after it stays in `buffer`. `None` at the end of the connection.
async fn read_head(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    tally: &Tally,
) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = buffer.split_off(end + 4);
            return Ok(Some(std::mem::replace(buffer, rest)));
        }
        if buffer.len() > HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request head is too long"));
        }
        let read = stream.read_buf(buffer).await?;
        if read == 0 {
            return Ok(None);
        }
        tally.add_bytes(read);
    }
}

async fn read_body(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    length: u64,
    tally: &Tally,
) -> io::Result<Sum> {
    let mut sum = Sum::default();
    while sum.bytes < length {
        if buffer.is_empty() {
            let read = stream.read_buf(buffer).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            tally.add_bytes(read);
        }
        let take = buffer.len().min(usize::try_from(length - sum.bytes).unwrap_or(usize::MAX));
        sum.add(&buffer[..take]);
        buffer.drain(..take);
    }
    Ok(sum)
}

fn parse(head: &[u8]) -> Option<Request> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path, version) = (first.next()?, first.next()?, first.next()?);
    let mut request =
        Request { method: method.to_owned(), path: path.to_owned(), length: 0, close: version == "HTTP/1.0" };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => request.length = value.trim().parse().ok()?,
            "connection" => request.close = value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    version.starts_with("HTTP/1.").then_some(request)
}
