//! `oneway select`.

use std::process::ExitCode;

use oneway::config::canonical;
use oneway::control::{ControlReply, ControlRequest, OutboundStatus};

use super::{connect, unexpected};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, printable};

/// The type of those groups that do not choose by themselves.
const SELECT: &str = "select";

/// Tells a group of type `select` which of its members new flows take.
pub(crate) fn select(
    global: &Global,
    group: String,
    member: String,
    output: Output,
) -> Result<ExitCode, Failure> {
    let mut client = connect(global)?;
    let member = match client.request(&ControlRequest::Status)? {
        ControlReply::Status(status) => found(&status.outbounds, &group, &member)?.to_owned(),
        other => return Err(unexpected(&ControlRequest::Status, &other)),
    };
    let text = printable(&format!("{group}: {member}"));
    let document = serde_json::json!({ "group": group, "member": member });
    let request = ControlRequest::Select { group, member };
    match client.request(&request)? {
        ControlReply::Selected => {
            output.print(text, &document)?;
            Ok(ExitCode::SUCCESS)
        }
        other => Err(unexpected(&request, &other)),
    }
}

/// The member by its own name, which may be given by that of Clash as in the configuration. Names what there is instead of a group
/// or a member that is not.
fn found<'a>(outbounds: &'a [OutboundStatus], group: &str, member: &str) -> Result<&'a str, Failure> {
    let selects = |outbound: &&OutboundStatus| outbound.kind == SELECT;
    let Some(found) = outbounds.iter().filter(selects).find(|outbound| outbound.name == group) else {
        let groups: Vec<_> =
            outbounds.iter().filter(selects).map(|outbound| outbound.name.as_str()).collect();
        let instead = match groups.as_slice() {
            [] => "there is none".to_owned(),
            groups => format!("there are {}", groups.join(", ")),
        };
        return Err(Failure::usage(format!("{group:?} is no group of type {SELECT}; {instead}")));
    };
    let mut members = found.members.iter().map(|member| member.name.as_str());
    // An outbound may have been given such a name.
    let is_own = outbounds.iter().any(|outbound| outbound.name == member);
    let name = canonical(member).filter(|_| !is_own).unwrap_or(member);
    members.find(|known| *known == name).ok_or_else(|| {
        let members: Vec<_> = found.members.iter().map(|member| member.name.as_str()).collect();
        let members = members.join(", ");
        Failure::usage(format!("{member:?} is no member of {group:?}; there are {members}"))
    })
}

#[cfg(test)]
mod tests {
    use oneway::control::{Health, MemberStatus};

    use super::*;

    fn outbound(name: &str, kind: &str, members: &[&str]) -> OutboundStatus {
        let member = |name: &&str| MemberStatus {
            name: (*name).to_owned(),
            works: true,
            taken: false,
            check_us: None,
        };
        OutboundStatus {
            name: name.to_owned(),
            kind: kind.to_owned(),
            server: None,
            health: Health::Unknown,
            last_error: None,
            members: members.iter().map(member).collect(),
        }
    }

    #[test]
    fn members_are_named_as_in_the_configuration() {
        let mut outbounds =
            vec![outbound("g", "select", &["p", "block"]), outbound("h", "fallback", &["direct"])];
        let found_in = |outbounds: &[OutboundStatus], group: &str, member: &str| {
            found(outbounds, group, member).map(str::to_owned).map_err(|failure| failure.to_string())
        };
        for (member, name) in [("p", "p"), ("block", "block"), ("REJECT", "block"), ("REJECT-DROP", "block")]
        {
            assert_eq!(found_in(&outbounds, "g", member).as_deref(), Ok(name));
        }
        for member in ["DIRECT", "direct", "reject"] {
            let error = format!("{member:?} is no member of \"g\"; there are p, block");
            assert_eq!(found_in(&outbounds, "g", member), Err(error));
        }
        let error = "\"h\" is no group of type select; there are g".to_owned();
        assert_eq!(found_in(&outbounds, "h", "direct"), Err(error));
        outbounds.push(outbound("REJECT", "socks5", &[]));
        found(&outbounds, "g", "REJECT").unwrap_err();
    }
}
