//! Runs a handshake over bytes that a proxy might send.

use oneway_outbound::{Handshake, Progress};

/// How a handshake ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Complete, with so many bytes consumed in all.
    Done(usize),
    /// Refused by the proxy, or the proxy speaks something else.
    Failed,
    /// The bytes ran out.
    WantsMore,
}

/// Feeds `input`, reading no more at once than the handshake allows and than `chunk`. Returns how it ended, and
/// what was written to the proxy.
pub fn drive(handshake: &mut impl Handshake, pipelined: bool, input: &[u8], chunk: usize) -> (End, Vec<u8>) {
    let mut out = Vec::new();
    handshake.start(pipelined, &mut out);
    let (mut consumed, mut received) = (0, 0);
    loop {
        let unread = &input[consumed..received];
        match handshake.step(unread, &mut out) {
            Err(_) => return (End::Failed, out),
            Ok(Progress::Done(len)) => {
                assert!(len <= unread.len());
                return (End::Done(consumed + len), out);
            }
            Ok(Progress::Took(len)) => {
                assert!(0 < len && len <= unread.len(), "no progress");
                consumed += len;
            }
            Ok(Progress::Need(more)) => {
                assert!(more > 0, "no progress");
                if received == input.len() {
                    return (End::WantsMore, out);
                }
                received = input.len().min(received + more.min(chunk));
            }
        }
    }
}
