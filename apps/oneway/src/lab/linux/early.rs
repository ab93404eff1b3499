//! L15: sockets are made before they can be protected, while traffic is captured already.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use oneway::config::Safeguard::{Detector, Order, Proof};
use oneway_lab::LabError;
use oneway_lab::servers::origin;
use oneway_lab::topology::{Simple, address};

use super::{Prop, Props, Scene};

pub(super) fn scene() -> Scene {
    Scene { without: vec![Order, Proof, Detector], prepare, ..Scene::default() }
}

/// A program that sends before, while and after everything starts.
struct Busy {
    sent: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Prop for Busy {
    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn prepare(lab: &Simple) -> Result<Props, LabError> {
    let (sent, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let socket = lab.host.client().udp_socket(false)?;
    let busy = Busy { sent: Arc::clone(&sent), over: Arc::clone(&over) };
    let spawned = thread::Builder::new().name("busy".to_owned()).spawn(move || {
        while !over.load(Ordering::Relaxed) {
            // While there is no way, it tries again, as programs do.
            let _ = socket.send_to(b"anybody there", address::ORIGIN.v4_port(origin::port::ECHO));
            sent.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
        }
    });
    spawned.map_err(|source| LabError::Client { what: "start a thread".to_owned(), source })?;
    Ok(Some(Box::new(busy)))
}
