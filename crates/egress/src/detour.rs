//! Devices that sockets are bound to besides.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use oneway_route::Family;
use parking_lot::RwLock;

use crate::Uplink;

/// One of each family, or none.
#[derive(Debug, Default)]
pub(crate) struct Detours {
    /// Whether there is one: all that is looked at as long as there is none.
    any: AtomicBool,
    devices: RwLock<(Option<Uplink>, Option<Uplink>)>,
}

impl Detours {
    pub(crate) fn any(&self) -> bool {
        self.any.load(Relaxed)
    }

    pub(crate) fn of(&self, family: Family) -> Option<Uplink> {
        if !self.any() {
            return None;
        }
        let devices = self.devices.read();
        match family {
            Family::V4 => devices.0.clone(),
            Family::V6 => devices.1.clone(),
        }
    }

    /// Whether that is another than before.
    pub(crate) fn set(&self, family: Family, device: Option<Uplink>) -> bool {
        let mut devices = self.devices.write();
        let place = match family {
            Family::V4 => &mut devices.0,
            Family::V6 => &mut devices.1,
        };
        let news = *place != device;
        *place = device;
        self.any.store(devices.0.is_some() || devices.1.is_some(), Relaxed);
        news
    }
}
