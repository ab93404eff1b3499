//! What the handshakes of all proxy protocols have in common.

use crate::ProxyFault;

/// What a handshake needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes: so many, as far as the protocol tells the length of its messages. More may be read at once;
    /// [`Self::Done`] says what is left over.
    Need(usize),
    /// So many bytes of the input are consumed, and the handshake goes on; what has been put into the output is
    /// to be written first.
    Took(usize),
    /// So many bytes of the input are consumed and the handshake is complete. The bytes behind them come from
    /// the destination already.
    Done(usize),
}

/// The client side of a proxy protocol's handshake: bytes in, bytes out, no I/O.
pub trait Handshake {
    /// Appends the first message; if `pipelined`, together with those that need not wait for an answer, where the
    /// protocol has any.
    fn start(&mut self, pipelined: bool, out: &mut Vec<u8>);

    /// Looks at the bytes that have been received and not consumed yet; may append one message to `out`.
    ///
    /// # Errors
    /// What the proxy refuses, or that it does not speak the protocol. The handshake is over then.
    fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, ProxyFault>;

    /// Whether the proxy has been asked for the destination, so that it is now the destination's turn.
    fn requested(&self) -> bool;
}
