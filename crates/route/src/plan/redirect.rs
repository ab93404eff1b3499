//! `--capture redirect`: this host's own TCP ends in our listeners on loopback; all else comes by the device.

use super::{Draft, Phase, PlanError, Step, choose};
use crate::change::Change;
use crate::host::NftSupport;
use crate::nft::RedirectTable;

/// Looks whether the host can do it.
pub(super) fn prepare_for(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    if draft.request.redirect.is_none() {
        return Ok(());
    }
    match draft.host.nft {
        NftSupport::Missing => return Err(PlanError::NoRedirect),
        NftSupport::Unknown => draft.notes.push(
            "whether nftables works is not known without CAP_NET_ADMIN; --capture redirect cannot be without it"
                .to_owned(),
        ),
        NftSupport::Full | NftSupport::NoCgroups => {}
    }
    draft.notes.push(
        "by redirection come the TCP connections of this host; UDP, ICMP and what is forwarded come by the device, as with \
         --capture tun"
            .to_owned(),
    );
    Ok(())
}

/// The table that redirects.
pub(super) fn table(draft: &Draft<'_>) -> Option<Step> {
    let table = RedirectTable {
        name: choose::nft_name(draft.host, "oneway_redirect"),
        tun: draft.tun.clone(),
        mark: draft.mark?,
        port: draft.request.redirect?,
        apart: draft.host.nft == NftSupport::Full,
    };
    Some(Step {
        phase: Phase::Capture,
        change: Change::Redirect(table),
        why: "connections that would go into the device end in our own listeners; our own sockets never go there".into(),
    })
}
