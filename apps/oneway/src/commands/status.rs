//! `oneway status`.

use std::fmt::Write;
use std::process::ExitCode;

use oneway::control::{ControlReply, ControlRequest, FailingUpstream, Status};

use super::{connect, unexpected};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, bytes, printable, seconds};

/// Shows how the running instance is doing.
pub(crate) fn status(global: &Global, output: Output) -> Result<ExitCode, Failure> {
    let request = ControlRequest::Status;
    match connect(global)?.request(&request)? {
        ControlReply::Status(status) => {
            output.print(printable_lines(&text(&status)), &status)?;
            Ok(ExitCode::SUCCESS)
        }
        other => Err(unexpected(&request, &other)),
    }
}

fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<9} {value}");
    };
    row("oneway", format!("{}, pid {}, up {}", status.version, status.pid, seconds(status.uptime_s)));
    if let Some(ago) = status.reloaded_s {
        row("reloads", format!("{}, the last one {} ago", status.reloads, seconds(ago)));
    }
    let strict = if status.strict { ", strict: all else is refused" } else { "" };
    let handed = match status.port {
        Some(port) => format!("{} to port {port}, the rest by ", status.capture),
        None => String::new(),
    };
    row("capture", format!("{handed}tun {}, stack {}{strict}", status.tun, status.stack));
    let uplink = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".to_owned());
    row("uplink", format!("IPv4 {}, IPv6 {}", uplink(&status.uplink.ipv4), uplink(&status.uplink.ipv6)));
    row("protect", format!("{}: {}", status.protect.strategy, status.protect.explanation));
    row("loop-free", format!("{}: {}", status.loops.verdict, status.loops.why));
    let counters = &status.counters;
    row(
        "packets",
        format!(
            "{} read, {} written, {} malformed, {} refused, {} dropped",
            counters.tun.packets_read,
            counters.tun.packets_written,
            counters.tun.malformed,
            counters.tun.refused,
            counters.tun.dropped
        ),
    );
    let flows = |opened, active, refused| format!("{active} active, {opened} opened, {refused} refused");
    let limited = match counters.tcp.limited {
        0 => String::new(),
        n => format!(", {n} of them by a limit"),
    };
    let tcp = flows(counters.tcp.opened, counters.tcp.active, counters.tcp.refused);
    row("tcp", format!("{tcp}{limited}"));
    row("udp", flows(counters.udp.opened, counters.udp.active, counters.udp.refused));
    let dns = &counters.dns;
    row(
        "dns",
        format!(
            "{}: {} queries, {} fake, {} cached, {} forwarded, {} failed, {} malformed, {} spoofed",
            dns.mode,
            dns.queries,
            dns.fake,
            dns.cached,
            dns.forwarded,
            dns.failed,
            dns.malformed,
            dns.spoofed
        ),
    );
    for FailingUpstream { server, error } in &status.failing_upstreams {
        row("upstream", format!("{server} does not answer: {error}"));
    }
    if let Some(why) = &status.blind {
        row("programs", why.clone());
    }
    row("bytes", format!("{} up, {} down", bytes(counters.bytes.up), bytes(counters.bytes.down)));
    let guard = &status.guard;
    row(
        "guard",
        format!(
            "{} restored, {} followed, {} flows reset, {} packets came back, {} circles refused, {} alarms",
            guard.restored, guard.moved, guard.flows_reset, guard.returned, guard.circles, guard.alarms
        ),
    );
    if let Some(latest) = guard.latest.first() {
        row("restored", latest.clone());
    }
    for which in &guard.quarantined {
        row("stopped", format!("nothing is sent to {which}: packets of our own came back"));
    }
    for both in &guard.overlaps {
        row("overlap", format!("{both}, which is out of reach of captured programs"));
    }
    for outbound in &status.outbounds {
        let server = outbound.server.as_ref().map(|server| format!(" {server}")).unwrap_or_default();
        let error =
            outbound.last_error.as_ref().map(|error| format!(", last error: {error}")).unwrap_or_default();
        row("outbound", format!("{}: {}{server}, {}{error}", outbound.name, outbound.kind, outbound.health));
        for member in &outbound.members {
            let check =
                member.check_us.map(|us| format!(", {:.1} ms", us as f64 / 1000.0)).unwrap_or_default();
            let works = if member.works { "works" } else { "does not work" };
            let taken = if member.taken { " <-" } else { "" };
            row("", format!("  {}: {works}{check}{taken}", member.name));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use oneway::control::{
        Bytes, Counters, DnsCounters, GuardStatus, Health, LoopVerdict, MemberStatus, OutboundStatus,
        ProtectStatus, TcpCounters, TunCounters, UdpCounters, UplinkStatus, Verdict,
    };

    use super::*;

    #[test]
    fn shows_everything() {
        let status = Status {
            reloads: 0,
            reloaded_s: None,
            version: "1.2.3".to_owned(),
            pid: 42,
            uptime_s: 61,
            stack: "system".to_owned(),
            tun: "oneway0".to_owned(),
            capture: "redirect".to_owned(),
            port: Some(16_262),
            strict: true,
            uplink: UplinkStatus { ipv4: Some("eth0".to_owned()), ipv6: None },
            protect: ProtectStatus { strategy: "mark".to_owned(), explanation: "bit 0x1".to_owned() },
            outbounds: vec![OutboundStatus {
                name: "proxy".to_owned(),
                kind: "socks5".to_owned(),
                server: Some("192.0.2.1:1080".to_owned()),
                health: Health::Down,
                last_error: Some("refused".to_owned()),
                members: vec![MemberStatus {
                    name: "far".to_owned(),
                    works: true,
                    taken: true,
                    check_us: Some(1_500),
                }],
            }],
            failing_upstreams: vec![FailingUpstream {
                server: "tls://192.0.2.53:853".to_owned(),
                error: "refused".to_owned(),
            }],
            blind: Some("rules on programs match none".to_owned()),
            counters: Counters {
                tun: TunCounters {
                    packets_read: 1,
                    packets_written: 2,
                    malformed: 3,
                    refused: 4,
                    dropped: 5,
                },
                tcp: TcpCounters { opened: 6, active: 7, refused: 8, limited: 3, shortened: 0 },
                udp: UdpCounters { opened: 9, active: 10, refused: 11 },
                bytes: Bytes { up: 2048, down: 12 },
                dns: DnsCounters {
                    mode: "fake-ip".to_owned(),
                    queries: 12,
                    fake: 13,
                    cached: 14,
                    forwarded: 15,
                    failed: 16,
                    malformed: 17,
                    spoofed: 18,
                    loops: 19,
                    names: 20,
                },
            },
            loops: LoopVerdict { verdict: Verdict::NotProven, why: "no IPv6".to_owned() },
            guard: GuardStatus {
                restored: 13,
                latest: vec!["ip rule add priority 9".to_owned(), "older".to_owned()],
                moved: 14,
                flows_reset: 15,
                returned: 16,
                quarantined: vec!["192.0.2.7".to_owned()],
                alarms: 17,
                circles: 18,
                overlaps: vec!["10.162.0.0/24 and 10.162.0.9/16 of wlan0".to_owned()],
                missing: None,
            },
        };
        assert_eq!(
            text(&status),
            "oneway    1.2.3, pid 42, up 1m 1s\n\
             capture   redirect to port 16262, the rest by tun oneway0, stack system, strict: all else is refused\n\
             uplink    IPv4 eth0, IPv6 none\n\
             protect   mark: bit 0x1\n\
             loop-free not proven: no IPv6\n\
             packets   1 read, 2 written, 3 malformed, 4 refused, 5 dropped\n\
             tcp       7 active, 6 opened, 8 refused, 3 of them by a limit\n\
             udp       10 active, 9 opened, 11 refused\n\
             dns       fake-ip: 12 queries, 13 fake, 14 cached, 15 forwarded, 16 failed, 17 malformed, 18 spoofed\n\
             upstream  tls://192.0.2.53:853 does not answer: refused\n\
             programs  rules on programs match none\n\
             bytes     2.0 KiB up, 12 B down\n\
             guard     13 restored, 14 followed, 15 flows reset, 16 packets came back, 18 circles refused, 17 alarms\n\
             restored  ip rule add priority 9\n\
             stopped   nothing is sent to 192.0.2.7: packets of our own came back\n\
             overlap   10.162.0.0/24 and 10.162.0.9/16 of wlan0, which is out of reach of captured programs\n\
             outbound  proxy: socks5 192.0.2.1:1080, down, last error: refused\n\
             \x20           far: works, 1.5 ms <-\n"
        );
    }
}
