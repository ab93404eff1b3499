//! The capture's own device, which others may rename, or take away into another network namespace.
//!
//! All that is ours is made again by the device's name, so that under another one nothing would be put back; and of a device
//! that has left, the workers hear nothing: it is there, and they read what there is in its new place.

use std::io;
use std::time::Instant;

use oneway_route::{Link, Watched as Which, link, rename_link};

use super::Watcher;
use crate::error::EngineError;

/// What has become of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// It is here, by its name.
    Here,
    /// It is not what it has to be, and is to be looked at again.
    Misnamed,
    /// It is gone, and with it the capture: the engine ends.
    Gone,
}

impl Watcher {
    /// Looks for the device by its number, and gives it its name back if it has another one and the names are `ours` to give.
    pub(super) fn keep_device(&mut self, ours: bool) -> Device {
        // That of a namespace apart is nobody's here.
        if self.egress.is_apart() {
            return Device::Here;
        }
        let (index, name) = self.tun.clone();
        let found = match link(index) {
            Ok(found) => found,
            Err(error) => {
                self.failed("cannot look for the device", &error);
                return Device::Misnamed;
            }
        };
        match found {
            Some(link) if link.name == name => Device::Here,
            // Another device may have got its number since.
            Some(Link { name: other, kind: Some(kind), .. }) if kind == "tun" => {
                if !ours {
                    self.tun.1 = other;
                    return Device::Here;
                }
                if let Err(error) = rename_link(index, &name) {
                    if self.said.renamed.may(Instant::now()) {
                        tracing::warn!(name = other, %error, "somebody has renamed the TUN, and it cannot get its name back");
                    }
                    return Device::Misnamed;
                }
                let what = format!("the name {name} of the TUN, which somebody had made {other}");
                self.note_restored(vec![what], Which::All);
                Device::Here
            }
            _ => {
                let source = io::Error::other("it is not in this network namespace any more");
                self.end.fail(EngineError::DeviceLost { name, source });
                Device::Gone
            }
        }
    }
}
