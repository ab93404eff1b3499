//! `oneway flows`.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use oneway::control::{ControlReply, ControlRequest, FlowInfo};

use super::{connect, unexpected};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, bytes, printable, seconds};

/// Between two lists of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);

/// Lists the flows of the running instance, once or every second.
pub(crate) fn flows(global: &Global, watch: bool, output: Output) -> Result<ExitCode, Failure> {
    let request = ControlRequest::Flows;
    let mut client = connect(global)?;
    loop {
        let flows = match client.request(&request)? {
            ControlReply::Flows(flows) => flows,
            other => return Err(unexpected(&request, &other)),
        };
        // Erase the screen and go to its top (ECMA-48, 8.3.39 and 8.3.21).
        let clear = if watch && output.is_screen() { "\x1b[2J\x1b[H" } else { "" };
        let listened =
            output.print(format!("{clear}{}", table(&flows)), &serde_json::json!({ "flows": flows }))?;
        if !watch || !listened {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// A table with columns as wide as their widest cell.
fn table(flows: &[FlowInfo]) -> String {
    let head = ["ID", "NET", "SOURCE", "TARGET", "OUTBOUND", "UP", "DOWN", "AGE", "STATE", "RULE"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(flows.iter().map(|flow| {
        [
            flow.id.to_string(),
            printable(&flow.network),
            flow.source.to_string(),
            printable(&flow.target),
            printable(&flow.outbound),
            bytes(flow.bytes.up),
            bytes(flow.bytes.down),
            seconds(flow.age_s),
            printable(&flow.state),
            if flow.rule.is_empty() { "final".to_owned() } else { printable(&flow.rule) },
        ]
    }));
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.push_str(&match flows.len() {
        1 => "1 flow".to_owned(),
        n => format!("{n} flows"),
    });
    text
}

#[cfg(test)]
mod tests {
    use oneway::control::Bytes;

    use super::*;

    #[test]
    fn columns_line_up() {
        let flow = FlowInfo {
            id: 7,
            network: "tcp".to_owned(),
            source: "[2001:db8::1]:50000".parse().unwrap(),
            target: "www.example:443".to_owned(),
            rule: String::new(),
            outbound: "proxy".to_owned(),
            bytes: Bytes { up: 10, down: 4096 },
            age_s: 5,
            state: "open".to_owned(),
        };
        assert_eq!(
            table(&[flow]),
            "ID  NET  SOURCE               TARGET           OUTBOUND  UP    DOWN     AGE  STATE  RULE\n\
             7   tcp  [2001:db8::1]:50000  www.example:443  proxy     10 B  4.0 KiB  5s   open   final\n\
             1 flow"
        );
        assert_eq!(table(&[]), "ID  NET  SOURCE  TARGET  OUTBOUND  UP  DOWN  AGE  STATE  RULE\n0 flows");
    }
}
