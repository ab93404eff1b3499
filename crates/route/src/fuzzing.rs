//! What fuzz targets reach of what others say to this program.

/// Takes what a bus says after a call, and apart what it answers; says whether it answers.
pub fn dbus_answer(said: &[u8]) -> bool {
    crate::os::dbus_answer(said)
}

/// Takes a `resolv.conf` apart. One of ours says which it is, and what was there before: it must say so again.
pub fn resolv_conf(text: &str) {
    let _ = crate::resolver::servers(text);
    let Some(said) = crate::resolver::said(text) else { return };
    let ours = crate::ResolvConf {
        path: crate::RESOLV_CONF.into(),
        nameserver: [192, 0, 2, 1].into(),
        kept: Vec::new(),
        closed: false,
        place: said.place.clone(),
        before: said.before.clone(),
    };
    assert!(ours.is(text));
    let again = crate::resolver::said(&ours.text());
    assert_eq!(again.as_ref(), Some(&said));
}

pub use crate::os::fuzzing::{mountinfo, nftables, routing, sockets};
