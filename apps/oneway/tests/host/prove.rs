//! `doctor`, `why` and `check`: what they say is what the kernel does.

use oneway_lab::client::wait_until;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::topology::{Standard, address};
use oneway_lab::{NetNs, Route, Rule, Snapshot, Topology};
use serde_json::Value;

use crate::common::{SECOND, TUN, command, run, stop};

const OWN: &[&str] = &["--tun-address", "10.88.0.1/24", "--tun-address", "fd88::1/64"];
const BOTH: [&str; 2] = ["mark", "bind"];

/// A command's exit code and document.
fn asked(host: &NetNs, words: &[&str]) -> Result<(Option<i32>, Value), Failed> {
    let finished = command(host, &[words, &["--json"]].concat())?;
    let document = serde_json::from_str(&finished.stdout)
        .map_err(|e| format!("{words:?}: {e}: {} {}", finished.stdout, finished.stderr))?;
    Ok((finished.code, document))
}

/// The one answer of `why`.
fn why(host: &NetNs, words: &[&str]) -> Result<Value, Failed> {
    let (code, document) = asked(host, &[&["why"], words].concat())?;
    assert_eq!(code, Some(0), "{document}");
    Ok(document["answers"][0].clone())
}

/// The verdict on one way out.
fn path<'a>(document: &'a Value, outbound: &str, path: &str) -> &'a Value {
    let paths = document["paths"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = paths.iter().find(|p| p["outbound"] == outbound && p["path"] == path);
    found.unwrap_or_else(|| panic!("no {outbound} {path} in {document}"))
}

pub fn the_doctor_proves_before_and_while_it_runs() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let proxy = format!("socks5://{}", address::SOCKS.v4_port(1080));
    for protect in BOTH {
        let options = [OWN, &["--protect", protect, "--proxy", &proxy]].concat();
        let (code, planned) = asked(&lab.host, &[&["doctor"], options.as_slice()].concat())?;
        assert_eq!((code, &planned["running"]), (Some(0), &Value::Bool(false)), "{planned:#}");
        before.expect_same(&lab.host)?;
        let mut oneway = run(&lab.host, &options)?;
        let (code, now) = asked(&lab.host, &["doctor"])?;
        assert_eq!((code, &now["running"]), (Some(0), &Value::Bool(true)), "{now:#}");
        for document in [&planned, &now] {
            assert_eq!(document["verdict"], "proven");
            for name in ["IPv4 TCP", "IPv4 UDP", "IPv6 TCP", "IPv6 UDP"] {
                for outbound in ["direct", "proxy"] {
                    assert_eq!(path(document, outbound, name)["loop_free"], "proven");
                }
            }
            assert_eq!(path(document, "proxy", "IPv4 TCP")["via"][0], Standard::UP1);
            let told = path(document, "proxy", "IPv6 TCP")["why"].as_str().unwrap_or_default().to_owned();
            assert!(told.contains("no IPv6 address"), "{told}");
        }
        stop(&mut oneway, &lab.host, &before)?;
    }
    Ok(())
}

/// Somebody's rule leads marked packets into the TUN; somebody's route leads one network there.
pub fn the_doctor_finds_what_others_broke() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let mut oneway = run(&lab.host, &[OWN, &["--protect", "mark"]].concat())?;
    let trap = Route::to("0.0.0.0/0".parse()?).dev(TUN).table(77);
    lab.host.add_route(&trap)?;
    let rule = Rule { priority: 5, table: 77, ..Rule::default() };
    lab.host.add_rule(&rule)?;
    let (code, document) = asked(&lab.host, &["doctor"])?;
    assert_eq!(code, Some(3));
    assert_eq!(path(&document, "direct", "IPv4 TCP")["loop_free"], "LOOPS", "{document:#}");
    assert_eq!(path(&document, "direct", "IPv6 TCP")["loop_free"], "proven", "{document:#}");
    let answer = why(&lab.host, &["203.0.113.77:80"])?;
    assert_eq!(answer["loop_free"], "LOOPS", "{answer:#}");
    assert_eq!(answer["program"]["rule"], "5: from all lookup 77", "{answer:#}");
    // Either the kernel's way for our own socket is told, or the detector has stopped sending there by now.
    let dial = &answer["dials"][0];
    let stopped = dial["guard"].as_str().is_some_and(|guard| guard.contains("came back"));
    assert!(stopped || dial["way"]["rule"] == "5: from all lookup 77", "{answer:#}");
    lab.host.delete_rule(&rule)?;
    lab.host.delete_route(&trap)?;

    let (_, document) = asked(&lab.host, &["doctor"])?;
    assert_eq!(document["verdict"], "proven", "{document:#}");

    // A rule by source, which a connection meets when it is routed with its source.
    let from = Some(format!("{}/32", address::HOST_UP1.both()[0]).parse()?);
    let rule = Rule { priority: 6, table: 77, from, ..Rule::default() };
    lab.host.add_route(&trap)?;
    lab.host.add_rule(&rule)?;
    let (code, document) = asked(&lab.host, &["doctor"])?;
    let found = path(&document, "direct", "IPv4 TCP");
    assert_eq!((code, &found["loop_free"]), (Some(3), &"LOOPS".into()), "{document:#}");
    lab.host.delete_rule(&rule)?;
    lab.host.delete_route(&trap)?;

    let stray = Route::to("203.0.113.77/32".parse()?).dev(TUN);
    lab.host.add_route(&stray)?;
    // Nothing is sent there any more: that is what makes it free of loops. The route is named all the same.
    let mut document = Value::Null;
    wait_until(5 * SECOND, "the destination is refused", || {
        document = asked(&lab.host, &["doctor"]).map(|(_, document)| document).unwrap_or_default();
        document["paths"].is_array() && path(&document, "direct", "IPv4 UDP")["loop_free"] == "proven"
    })
    .map_err(|error| format!("{error}: {document:#}"))?;
    assert!(document["notes"].to_string().contains("203.0.113.77/32"), "{document:#}");
    lab.host.delete_route(&stray)?;
    stop(&mut oneway, &lab.host, &before)
}

pub fn why_follows_a_packet() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    for protect in BOTH {
        let options = [OWN, &["--protect", protect, "--exclude-uid", "12345"]].concat();
        let planned = |dst: &[&str]| why(&lab.host, &[dst, options.as_slice()].concat());
        let questions: &[&[&str]] = &[
            &["203.0.113.1:80"],
            &["203.0.113.1:53", "--udp"],
            &["[2001:db8:100::1]:80"],
            &["[::ffff:203.0.113.1]:80"],
            &["10.88.0.2:80"],
            &["192.0.2.1:80"],
            &["127.0.0.1:80"],
            &["203.0.113.1:80", "--uid", "12345"],
        ];
        let plans = questions.iter().map(|q| planned(q)).collect::<Result<Vec<_>, _>>()?;
        let mut oneway = run(&lab.host, &options)?;
        for (question, plan) in questions.iter().zip(&plans) {
            let now = why(&lab.host, question)?;
            for key in ["captured", "guard", "rule", "outbound", "loop_free", "target"] {
                assert_eq!(now[key], plan[key], "{question:?} {key}\n{now:#}\n{plan:#}");
            }
            for pointer in ["/program/device", "/program/rule", "/dials/0/way/device", "/dials/0/way/route"] {
                assert_eq!(now.pointer(pointer), plan.pointer(pointer), "{question:?} {pointer}");
            }
        }
        let answer = why(&lab.host, &["203.0.113.1:80"])?;
        assert_eq!((&answer["captured"], &answer["outbound"]), (&true.into(), &"direct".into()));
        assert_eq!(answer["program"]["device"], TUN);
        assert_eq!(answer["dials"][0]["way"]["device"], Standard::UP1, "{answer:#}");
        assert_eq!(answer["dials"][0]["way"]["source"], address::HOST_UP1.both()[0].to_string());
        assert_eq!(answer["loop_free"], "proven");
        assert_eq!(why(&lab.host, &["[::ffff:203.0.113.1]:80"])?, why(&lab.host, &["203.0.113.1:80"])?);
        let query = why(&lab.host, &["203.0.113.1:53", "--udp"])?;
        let reason = query["why"].as_str().unwrap_or_default();
        assert!(reason.starts_with("a query is answered here before any rule, in mode real: "), "{query:#}");
        assert_eq!((&query["rule"], &query["loop_free"]), (&Value::Null, &"proven".into()), "{query:#}");
        assert_eq!(query["dials"][0]["address"], "203.0.113.1:53", "{query:#}");
        let own = why(&lab.host, &["10.88.0.2:80"])?;
        assert_eq!((&own["captured"], &own["dials"]), (&true.into(), &Value::Array(Vec::new())), "{own:#}");
        assert!(own["guard"].as_str().is_some_and(|g| g.starts_with("refused")), "{own:#}");
        for uncaptured in [&["192.0.2.1:80"][..], &["127.0.0.1:80"], &["203.0.113.1:80", "--uid", "12345"]] {
            assert_eq!(why(&lab.host, uncaptured)?["captured"], false, "{uncaptured:?}");
        }
        // What this host would forward for the container is not captured unless that is asked for.
        let container = address::CONTAINER.both()[0].to_string();
        assert_eq!(why(&lab.host, &["203.0.113.1:80", "--from", &container])?["captured"], false);
        stop(&mut oneway, &lab.host, &before)?;
    }
    Ok(())
}

pub fn check_finds_loops_before_anything_is_touched() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let here = format!("socks5://{}", address::HOST_UP1.v4_port(1080));
    let far = format!("socks5://{}", address::SOCKS.v4_port(1080));
    let cases: &[(&[&str], &str)] = &[
        (
            &["--proxy", "socks5://127.0.0.1:1080"],
            "--proxy: outbound \"proxy\": the proxy 127.0.0.1:1080 is a program of this host",
        ),
        (&["--proxy", "socks5://localhost:1080"], "is a program of this host"),
        (&["--proxy", &here], "is a program of this host"),
        (&["--tun-address", "192.0.2.1/26"], "--tun-address: the TUN address 192.0.2.1/26 overlaps"),
        (&["--tun-address", "10.88.0.1/24", "--proxy", "socks5://10.88.0.9:1080"], "is the capture's own"),
        (&["--interface", "nowhere0"], "--interface: there is no device"),
        (&["--strict", "--protect", "bind"], "--protect: this host cannot carry --strict"),
    ];
    for (options, message) in cases {
        let (code, document) = asked(&lab.host, &[&["check"], *options].concat())?;
        assert_eq!(code, Some(3), "{options:?}: {document}");
        let text = command(&lab.host, &[&["check"], *options].concat())?.stdout;
        assert!(text.contains(message), "{options:?}: {text}");
    }
    let good: &[&[&str]] = &[
        &["--proxy", &far],
        &["--proxy", &far, "--protect", "bind"],
        &["--proxy", "socks5://127.0.0.1:1080", "--exclude-uid", "12345"],
        OWN,
    ];
    for options in good {
        let (code, document) = asked(&lab.host, &[&["check"], *options].concat())?;
        assert_eq!(code, Some(0), "{options:?}: {document}");
    }
    // A program that listens there is known by its user.
    let listener = lab.host.run(|| std::net::TcpListener::bind("127.0.0.1:1080"))??;
    let local = ["check", "--proxy", "socks5://127.0.0.1:1080", "--exclude-uid"];
    for (uid, code, message) in [("12345", 3, "start it as `oneway exclude -- "), ("0", 0, "ok")] {
        let finished = command(&lab.host, &[local.as_slice(), &[uid]].concat())?;
        assert_eq!(finished.code, Some(code), "{}", finished.stdout);
        assert!(finished.stdout.contains(message), "{}", finished.stdout);
    }
    drop(listener);
    before.expect_same(&lab.host)?;
    // An address of our own running instance is no fault.
    let mut oneway = run(&lab.host, OWN)?;
    let (code, document) = asked(&lab.host, &[&["check"], OWN].concat())?;
    assert_eq!(code, Some(0), "{document}");
    stop(&mut oneway, &lab.host, &before)
}
