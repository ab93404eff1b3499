//! `oneway select`.

use std::process::ExitCode;

use oneway::control::{ControlReply, ControlRequest, OutboundStatus};

use super::{connect, unexpected};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

/// The type of those groups that do not choose by themselves.
const SELECT: &str = "select";

/// Tells a group of type `select` which of its members new flows take.
pub(crate) fn select(
    global: &Global,
    group: String,
    member: String,
    output: Output,
) -> Result<ExitCode, Failure> {
    let text = format!("{group}: {member}");
    let document = serde_json::json!({ "group": group, "member": member });
    let mut client = connect(global)?;
    match client.request(&ControlRequest::Status)? {
        ControlReply::Status(status) => is_there(&status.outbounds, &group, &member)?,
        other => return Err(unexpected(&ControlRequest::Status, &other)),
    }
    let request = ControlRequest::Select { group, member };
    match client.request(&request)? {
        ControlReply::Selected => {
            output.print(text, &document)?;
            Ok(ExitCode::SUCCESS)
        }
        other => Err(unexpected(&request, &other)),
    }
}

/// Names what there is instead of a group or a member that is not.
fn is_there(outbounds: &[OutboundStatus], group: &str, member: &str) -> Result<(), Failure> {
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
    if found.members.iter().all(|other| other.name != member) {
        let members: Vec<_> = found.members.iter().map(|member| member.name.as_str()).collect();
        let members = members.join(", ");
        return Err(Failure::usage(format!("{member:?} is no member of {group:?}; there are {members}")));
    }
    Ok(())
}
