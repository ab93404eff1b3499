//! L14: what was to protect a socket did nothing and said nothing. Reading it back notices, and nothing starts.

use oneway::config::Safeguard::{Detector, Proof, Protect};

use super::{Scene, direct};

pub(super) fn scene() -> Scene {
    Scene { without: vec![Protect, Proof, Detector], broken: vec![Protect], ..direct::scene() }
}
