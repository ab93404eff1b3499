//! In a process of its own, which may open no more files.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "the server of the test is not ours to protect")]
#![allow(clippy::unwrap_used, reason = "what fails ends the test")]

use std::io::ErrorKind;
use std::sync::Arc;

use oneway_dns::{Client, ClientConfig, Upstream};
use oneway_egress::Egress;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UdpSocket;

/// `EMFILE`.
const TOO_MANY: i32 = 24;

#[tokio::test]
async fn a_lack_of_descriptors_is_told_from_resolvers_that_do_not_answer() {
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config = ClientConfig { upstreams: vec![Upstream::Udp(closed)], ..ClientConfig::default() };
    let client = Arc::new(Client::new(Arc::new(Egress::unprotected_for_loopback_tests()), config));
    let error = client.resolve("proxy.example").await.unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Other, None), "{error}");

    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    let found = [client.resolve("other.example").await, client.resolve("other.example").await];
    setrlimit(Resource::Nofile, limit).unwrap();
    // The second time as well: that nobody was asked is not remembered as an answer.
    for found in found {
        assert_eq!(found.unwrap_err().raw_os_error(), Some(TOO_MANY));
    }
}
