//! Messages as bodies of HTTP/2 requests (RFC 8484).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};

use super::Stream;

/// The port of HTTPS.
pub(super) const PORT: u16 = 443;

/// The type of a message (RFC 8484, 6).
const MESSAGE: &str = "application/dns-message";

/// No message is longer.
const MOST: usize = 65_535;

/// The head of a response: its status, its type, and what is of no use here. Without a limit `h2` takes 16 MiB, for each of
/// all questions that are on their way.
const MOST_HEAD: u32 = 16 * 1024;

/// A connection, and where on it messages go.
#[derive(Clone)]
pub(super) struct Pipe {
    requests: SendRequest<Bytes>,
    uri: Uri,
    /// The connection has ended.
    ended: Arc<AtomicBool>,
}

/// Says so however the task ends.
struct Ending(Arc<AtomicBool>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Pipe {
    pub(super) async fn new(stream: Stream, authority: &str, path: &str) -> io::Result<Self> {
        if stream.get_ref().1.alpn_protocol().is_some_and(|word| word != b"h2") {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it does not speak HTTP/2"));
        }
        let uri = Uri::builder().scheme("https").authority(authority).path_and_query(path).build();
        let uri = uri.map_err(io::Error::other)?;
        let mut settings = Builder::new();
        // Nothing is asked that would have anything pushed (RFC 9113, 8.4).
        settings.max_header_list_size(MOST_HEAD).enable_push(false);
        let (requests, connection) = settings.handshake(stream).await.map_err(io::Error::other)?;
        let ended = Arc::new(AtomicBool::new(false));
        let ending = Ending(Arc::clone(&ended));
        tokio::spawn(async move {
            let ended = connection.await;
            tracing::debug!(?ended, "a connection to a DNS server over HTTPS is over");
            drop(ending);
        });
        Ok(Self { requests, uri, ended })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.ended.load(Relaxed)
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.ended, &other.ended)
    }

    pub(super) async fn ask(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut body = bytes.to_vec();
        // So that the same question is the same request (RFC 8484, 4.1).
        let Some(id) = body.first_chunk_mut::<2>() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let asked = std::mem::take(id);
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(header::ACCEPT, MESSAGE)
            .header(header::CONTENT_TYPE, MESSAGE)
            .header(header::CONTENT_LENGTH, body.len())
            .body(())
            .map_err(io::Error::other)?;
        let mut requests = self.requests.clone().ready().await.map_err(io::Error::other)?;
        let (response, mut sending) = requests.send_request(request, false).map_err(io::Error::other)?;
        sending.send_data(body.into(), true).map_err(io::Error::other)?;
        let mut answer = whole(response.await.map_err(io::Error::other)?).await?;
        if let Some(id) = answer.first_chunk_mut::<2>() {
            *id = asked;
        }
        Ok(answer)
    }
}

/// The message in a response.
async fn whole(response: Response<h2::RecvStream>) -> io::Result<Vec<u8>> {
    let (head, mut body) = response.into_parts();
    is_message(head.status, &head.headers)?;
    let mut answer = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(io::Error::other)?;
        if answer.len() + part.len() > MOST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it answers with more than any message has",
            ));
        }
        answer.extend_from_slice(&part);
        body.flow_control().release_capacity(part.len()).map_err(io::Error::other)?;
    }
    Ok(answer)
}

fn is_message(status: StatusCode, headers: &HeaderMap) -> io::Result<()> {
    if status != StatusCode::OK {
        return Err(io::Error::other(format!("it answers HTTP {}", status.as_u16())));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Parameters may follow (RFC 9110, 8.3.1).
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MESSAGE) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what it answers is no DNS message"));
    }
    Ok(())
}
