//! TLS as the transport wants it: `rustls` behind the traits of `quinn-proto`, whose own are tied to libraries that need
//! a C compiler.

use std::any::Any;
use std::io::Cursor;
use std::sync::Arc;

use bytes::BytesMut;
use quinn_proto::crypto::{self, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Connection, KeyChange, Secrets, Suite, Version};

use super::protection::{TAG, is_retry_of};

/// What connections to a server are made by.
pub(super) struct Client {
    pub(super) config: Arc<rustls::ClientConfig>,
    /// What the first packets are protected by (RFC 9001, 5.2).
    pub(super) initial: Suite,
    pub(super) name: ServerName<'static>,
}

impl crypto::ClientConfig for Client {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        _server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        if version != 1 {
            return Err(ConnectError::UnsupportedVersion);
        }
        let mut written = Vec::new();
        params.write(&mut written);
        let tls = ClientConnection::new(Arc::clone(&self.config), Version::V1, self.name.clone(), written)
            .map_err(|error| ConnectError::InvalidServerName(error.to_string()))?;
        Ok(Box::new(Session { tls: tls.into(), initial: self.initial, next: None, has_told: false }))
    }
}

struct Session {
    tls: Connection,
    initial: Suite,
    /// What the keys after the present ones are made from (RFC 9001, 6.1).
    next: Option<Secrets>,
    /// The transport knows that there is something to learn about the server.
    has_told: bool,
}

impl crypto::Session for Session {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        let side = if side.is_client() { rustls::Side::Client } else { rustls::Side::Server };
        both(self.initial.keys(dst_cid, side, Version::V1))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        Some(Box::new(self.tls.alpn_protocol()?.to_vec()))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn crypto::PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        if let Err(error) = self.tls.read_hs(buf) {
            // RFC 9001, 4.8.
            let code = match self.tls.alert() {
                Some(alert) => TransportErrorCode::crypto(alert.into()),
                None => TransportErrorCode::PROTOCOL_VIOLATION,
            };
            return Err(TransportError { code, frame: None, reason: error.to_string() });
        }
        let is_known = self.tls.alpn_protocol().is_some() || !self.tls.is_handshaking();
        Ok(is_known && !std::mem::replace(&mut self.has_told, is_known))
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(bytes) = self.tls.quic_transport_parameters() else { return Ok(None) };
        Ok(Some(TransportParameters::read(Side::Client, &mut Cursor::new(bytes))?))
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        match self.tls.write_hs(buf)? {
            KeyChange::Handshake { keys } => Some(both(keys)),
            KeyChange::OneRtt { keys, next } => {
                self.next = Some(next);
                Some(both(keys))
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn crypto::PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        Some(KeyPair { local: Box::new(Packet(keys.local)), remote: Box::new(Packet(keys.remote)) })
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some((rest, tag)) = payload.split_last_chunk::<TAG>() else { return false };
        is_retry_of(orig_dst_cid, [header, rest], *tag)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let made = self.tls.export_keying_material(output, label, Some(context));
        made.map(drop).map_err(|_| ExportKeyingMaterialError)
    }
}

pub(super) fn both(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair {
            local: Box::new(Header(keys.local.header)),
            remote: Box::new(Header(keys.remote.header)),
        },
        packet: KeyPair {
            local: Box::new(Packet(keys.local.packet)),
            remote: Box::new(Packet(keys.remote.packet)),
        },
    }
}

struct Packet(Box<dyn rustls::quic::PacketKey>);

impl crypto::PacketKey for Packet {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let sealed = buf.split_at_mut_checked(header_len).and_then(|(header, rest)| {
            let (payload, place) = rest.split_last_chunk_mut::<TAG>()?;
            let tag = self.0.encrypt_in_place(packet, header, payload).ok()?;
            place.copy_from_slice(tag.as_ref());
            Some(())
        });
        if sealed.is_none() {
            // Nothing leaves in the clear.
            buf.fill(0);
        }
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        let opened = self.0.decrypt_in_place(packet, header, payload).map_err(|_| CryptoError)?;
        let len = opened.len();
        payload.truncate(len);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}

struct Header(Box<dyn rustls::quic::HeaderProtectionKey>);

impl Header {
    /// The sample, the first octet and the number. The sample begins where a number of four octets would end
    /// (RFC 9001, 5.4.2).
    fn parts<'a>(
        &self,
        pn_offset: usize,
        packet: &'a mut [u8],
    ) -> Option<(&'a [u8], &'a mut u8, &'a mut [u8])> {
        let (header, rest) = packet.split_at_mut_checked(pn_offset.checked_add(4)?)?;
        let sample = rest.get(..self.0.sample_len())?;
        let (first, header) = header.split_first_mut()?;
        Some((sample, first, header.get_mut(pn_offset.checked_sub(1)?..)?))
    }
}

// A packet that is too short stays as it is: then its tag does not fit.
impl HeaderKey for Header {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        if let Some((sample, first, number)) = self.parts(pn_offset, packet) {
            let _ = self.0.decrypt_in_place(sample, first, number);
        }
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        if let Some((sample, first, number)) = self.parts(pn_offset, packet) {
            let _ = self.0.encrypt_in_place(sample, first, number);
        }
    }

    fn sample_size(&self) -> usize {
        self.0.sample_len()
    }
}
