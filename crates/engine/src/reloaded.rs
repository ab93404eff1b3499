//! What comes of another configuration.

use serde::{Deserialize, Serialize};

/// What [`Engine::reload`](crate::Engine::reload) did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Outbounds that there are now.
    pub outbounds: usize,
    /// Those that are new, or defined otherwise than before.
    pub changed: Vec<String>,
    /// Those that are no more.
    pub removed: Vec<String>,
    /// Flows that were reset.
    pub reset: usize,
    /// What the user should know about the rules.
    pub warnings: Vec<String>,
}
