//! Messages on a TLS connection, each behind its length (RFC 7858, 3.3), answered in any order (RFC 7766, 7).

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Stream;

/// Questions that wait to be written.
const QUEUE: usize = 64;

/// Questions on their way on one connection.
const MOST_WAITING: usize = 1024;

/// A connection that nobody has asked anything on for so long is closed (RFC 7858, 3.4).
const IDLE: Duration = Duration::from_secs(60);

/// How long the answers to what was asked are waited for when nothing more will be asked.
const LINGER: Duration = Duration::from_secs(5);

/// Where the questions for one connection go.
#[derive(Clone)]
pub(super) struct Pipe(mpsc::Sender<Question>);

struct Question {
    /// The message.
    bytes: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
}

/// Who waits for an answer, and the number that they asked with.
struct Waiting {
    id: [u8; 2],
    answer: oneshot::Sender<Vec<u8>>,
}

impl Pipe {
    pub(super) fn new(stream: Stream) -> Self {
        let (send, receive) = mpsc::channel(QUEUE);
        tokio::spawn(carry(stream, receive));
        Self(send)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }

    pub(super) async fn ask(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        let closed =
            || io::Error::new(io::ErrorKind::ConnectionAborted, "the server has closed the connection");
        self.0.send(Question { bytes: bytes.to_vec(), answer }).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())
    }
}

/// Carries questions and answers until either side has had enough. Whoever still waits then learns it by the drop of the
/// other end of its channel.
async fn carry(stream: Stream, mut questions: mpsc::Receiver<Question>) {
    let (read, mut write) = split(stream);
    let (found, mut answers) = mpsc::channel(1);
    let reader = tokio::spawn(read_all(read, found));
    let mut waiting: HashMap<u16, Waiting> = HashMap::new();
    let mut next_id = 0u16;
    let mut open = true;
    loop {
        let patience = if open { IDLE } else { LINGER };
        tokio::select! {
            question = questions.recv(), if open => match question {
                None => open = false,
                Some(question) => {
                    waiting.retain(|_, waiting| !waiting.answer.is_closed());
                    if waiting.len() < MOST_WAITING
                        && put(&mut write, question, &mut next_id, &mut waiting).await.is_err()
                    {
                        break;
                    }
                }
            },
            answer = answers.recv() => match answer {
                None => break,
                Some(answer) => deliver(answer, &mut waiting),
            },
            () = tokio::time::sleep(patience) => break,
        }
        if !open && waiting.values().all(|waiting| waiting.answer.is_closed()) {
            break;
        }
    }
    reader.abort();
    // The end of it is said, if the far end takes it at once (RFC 8446, 6.1).
    let _ = timeout(Duration::from_secs(1), write.shutdown()).await;
}

/// Writes a question, under a number that no other has that waits for its answer.
async fn put(
    write: &mut WriteHalf<Stream>,
    question: Question,
    next_id: &mut u16,
    waiting: &mut HashMap<u16, Waiting>,
) -> io::Result<()> {
    let Question { mut bytes, answer } = question;
    let Some(id) = bytes.first_chunk_mut::<2>() else { return Ok(()) };
    while waiting.contains_key(next_id) {
        *next_id = next_id.wrapping_add(1);
    }
    waiting.insert(*next_id, Waiting { id: *id, answer });
    *id = next_id.to_be_bytes();
    *next_id = next_id.wrapping_add(1);
    let mut framed = u16::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
    framed.extend_from_slice(&bytes);
    // A server that takes nothing any more is as good as gone.
    let written = timeout(LINGER, async {
        write.write_all(&framed).await?;
        write.flush().await
    });
    written.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn deliver(mut answer: Vec<u8>, waiting: &mut HashMap<u16, Waiting>) {
    let Some(id) = answer.first_chunk_mut::<2>() else { return };
    if let Some(waiting) = waiting.remove(&u16::from_be_bytes(*id)) {
        *id = waiting.id;
        let _ = waiting.answer.send(answer);
    }
}

async fn read_all(mut read: ReadHalf<Stream>, found: mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    loop {
        let len = read.read_u16().await?;
        let mut answer = vec![0; usize::from(len)];
        read.read_exact(&mut answer).await?;
        if found.send(answer).await.is_err() {
            return Ok(());
        }
    }
}
