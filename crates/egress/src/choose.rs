//! Picks the protection that works on this host.

use oneway_route::{IfIndex, Mark};

use crate::{Egress, EgressError, Protect, Strategy};

/// The interface that leads to the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its index.
    pub index: IfIndex,
    /// Its name.
    pub name: String,
    /// Whether the user named it. A mark follows the host's routes to whatever uplink is best, so only a bound
    /// socket keeps to a pinned one.
    pub pinned: bool,
}

/// The chosen protection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What to give to [`Egress::new`].
    pub strategy: Strategy,
    /// One sentence on why, for `plan`, `doctor` and the log.
    pub why: String,
}

/// Picks a strategy and proves on a real socket of each family that it takes and reads back.
///
/// `mark` is the mark that the capture's rule lets pass; `uplink` is what to bind to, if there is an uplink.
///
/// # Errors
/// [`EgressError::Protect`] if what was asked for (or, for `auto`, everything) fails on this host;
/// [`EgressError::Unsupported`] for a mechanism that this version does not have.
pub fn choose(protect: Protect, mark: Mark, uplink: Option<&Uplink>) -> Result<Choice, EgressError> {
    match protect {
        Protect::Mark => try_mark(mark),
        Protect::Bind => try_bind(uplink, "asked for with --protect bind"),
        Protect::Auto => match uplink {
            Some(pinned) if pinned.pinned => try_bind(
                uplink,
                "the uplink is pinned, and a mark alone would follow the host's routes elsewhere",
            ),
            _ => match try_mark(mark) {
                Ok(choice) => Ok(choice),
                Err(no_mark) => try_bind(uplink, &format!("second choice: {no_mark}")),
            },
        },
        Protect::SourceRule => Err(unsupported(protect, "use --protect mark, which needs no source address")),
        Protect::HostRoute => Err(unsupported(protect, "use --protect mark, which leaves the routes alone")),
        Protect::Netns => Err(unsupported(protect, "use `oneway exec`, or --protect mark")),
    }
}

fn try_mark(mark: Mark) -> Result<Choice, EgressError> {
    let strategy = Strategy::Mark(mark);
    trial(&strategy)?;
    Ok(Choice { why: format!("SO_MARK can be set and reads back as {:#x}", mark.0), strategy })
}

fn try_bind(uplink: Option<&Uplink>, because: &str) -> Result<Choice, EgressError> {
    let Some(Uplink { index, name, .. }) = uplink else {
        let why =
            format!("there is no uplink to bind to yet, and no socket is made before there is; {because}");
        return Ok(Choice { strategy: Strategy::unbound(), why });
    };
    let strategy = Strategy::Bind { index: *index, name: name.clone() };
    trial(&strategy)?;
    Ok(Choice { why: format!("SO_BINDTODEVICE reads back as {name}; {because}"), strategy })
}

/// Applies the strategy to throw-away sockets. A family that the host does not have proves nothing either way.
fn trial(strategy: &Strategy) -> Result<(), EgressError> {
    let egress = Egress::new(strategy.clone(), Vec::new())?;
    for test in egress.self_test() {
        match test.result {
            Err(EgressError::Create { .. } | EgressError::Unsupported { .. }) | Ok(()) => {}
            Err(protect) => return Err(protect),
        }
    }
    Ok(())
}

fn unsupported(protect: Protect, instead: &'static str) -> EgressError {
    EgressError::Unsupported { what: format!("--protect {protect}"), instead }
}
