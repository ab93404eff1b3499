//! What counts as a host name.

/// The name in lower case and without a dot at the end; none if it is no name that DNS could have: an address, say.
pub(crate) fn name(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() || text.len() > 253 || text.parse::<std::net::Ipv4Addr>().is_ok() {
        return None;
    }
    // An underscore is in use, whatever RFC 952 says.
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(good);
    text.split('.').all(label).then(|| text.to_ascii_lowercase())
}
