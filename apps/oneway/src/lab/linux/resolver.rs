//! L9: our own look-up goes to a resolver of this host, which asks a server outside, which is captured, and so asks us.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use oneway::config::Safeguard::Circle;
use oneway_lab::LabError;
use oneway_lab::client::{Client, RecordType};
use oneway_lab::topology::{Simple, address, name, port};

use super::{Prop, Props, Scene, words};

const STUB: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port::DNS);

pub(super) fn scene() -> Scene {
    Scene {
        options: words(&["--dns", "real", "--dns-upstream", "udp://127.0.0.1"]),
        without: vec![Circle],
        prepare,
        ignite: |lab| {
            let server = address::DNS.v4_port(port::DNS);
            // Nobody answers, if it goes in a circle.
            let _ =
                lab.host.client().dns(server, name::ORIGIN, RecordType::A, false, Duration::from_millis(300));
            Ok(1)
        },
        harmless: Some(
            "the question that comes back is the one that is on its way already, waits for the same answer, and is asked \
             no second time",
        ),
        ..Scene::default()
    }
}

struct Stub;

impl Prop for Stub {}

/// A resolver that asks for each question anew, as often as it is asked.
fn prepare(lab: &Simple) -> Result<Props, LabError> {
    let socket = lab.host.client().source_port(STUB).udp_socket(false)?;
    let client = lab.host.client();
    lab.host.spawn_thread("stub", move || {
        let mut question = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let (Ok(socket), client) = (socket.try_clone(), client.clone()) else { return };
            let question = question.get(..length).unwrap_or_default().to_vec();
            thread::spawn(move || answer(&socket, &client, &question, from));
        }
    })?;
    Ok(Some(Box::new(Stub)))
}

fn answer(socket: &std::net::UdpSocket, client: &Client, question: &[u8], from: SocketAddr) {
    let server = address::DNS.v4_port(port::DNS);
    if let Ok(exchange) = client.udp(server, question, Duration::from_secs(1)) {
        // Who asked may have given up.
        let _ = socket.send_to(&exchange.data, from);
    }
}
