//! Others remove what is ours (S9), or nobody says that it is to stay.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use oneway_lab::client::wait_until;
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::{NetNs, Oneway, Snapshot, Topology};
use serde_json::json;

use crate::common::{SECOND, TUN, ask, command, expect_connectivity, number, reaches_origin, run, stop};

/// Runs a tool of the host, as its administrator would, and returns what it prints.
#[allow(clippy::disallowed_methods, reason = "the administrator of the host is played")]
pub fn tool(host: &NetNs, words: &str) -> Result<String, Failed> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let (name, rest) = words.split_first().ok_or("no command")?;
    let done = host.run(|| std::process::Command::new(name).args(rest).output())??;
    match done.status.success() {
        true => Ok(String::from_utf8(done.stdout)?),
        false => Err(format!("{words:?}: {}", String::from_utf8_lossy(&done.stderr)).into()),
    }
}

/// Commands that remove each single thing of ours that is on the host: rules, routes, what is in nftables, the switch.
fn removals(host: &NetNs) -> Result<Vec<String>, Failed> {
    let mut all = Vec::new();
    for ip in ["ip -4", "ip -6"] {
        for line in
            tool(host, &format!("{ip} rule list"))?.lines().filter(|line| line.ends_with(" proto 162"))
        {
            let priority = line.split(':').next().unwrap_or_default();
            all.push(format!("{ip} rule del pref {priority}"));
        }
        for line in tool(host, &format!("{ip} route show table all proto 162"))?.lines() {
            all.push(format!("{ip} route del {line} proto 162"));
        }
    }
    let mut chains = Vec::new();
    for (chain, n, _) in nft_rules(host)? {
        all.push(format!("{NFT_RULE} {chain} {n}"));
        chains.push(chain);
    }
    chains.dedup();
    for chain in chains {
        all.push(format!("nft flush chain inet {chain}"));
        all.push(format!("nft delete chain inet {chain}"));
    }
    all.extend(tables(host)?.iter().map(|table| format!("nft delete table inet {table}")));
    all.push(format!("ip link set dev {TUN} down"));
    all.push(SWITCH.to_owned());
    Ok(all)
}

/// Stands for a command that needs a handle, which is another one after each restore.
const NFT_RULE: &str = "nft-rule";
/// Stands for setting the switch back.
const SWITCH: &str = "switch";

/// Our tables of nftables.
fn tables(host: &NetNs) -> Result<Vec<String>, Failed> {
    let all = tool(host, "nft list tables inet")?;
    let ours = all.lines().filter_map(|line| line.strip_prefix("table inet "));
    Ok(ours.filter(|name| name.starts_with("oneway")).map(str::to_owned).collect())
}

/// Every rule of our tables: table and chain, its place there, and its handle now.
fn nft_rules(host: &NetNs) -> Result<Vec<(String, usize, String)>, Failed> {
    let mut found = Vec::new();
    for table in tables(host)? {
        found.extend(nft_rules_of(host, &table)?);
    }
    Ok(found)
}

fn nft_rules_of(host: &NetNs, table: &str) -> Result<Vec<(String, usize, String)>, Failed> {
    let (mut chain, mut found): (String, Vec<(String, usize, String)>) = Default::default();
    for line in tool(host, &format!("nft -a list table inet {table}"))?.lines() {
        if let Some(name) = line.strip_prefix("\tchain ") {
            chain = format!("{table} {}", name.split_whitespace().next().unwrap_or_default());
        } else if line.starts_with("\t\t")
            && let Some((_, handle)) = line.rsplit_once("# handle ")
        {
            let n = found.iter().filter(|(other, ..)| *other == chain).count();
            found.push((chain.clone(), n, handle.trim().to_owned()));
        }
    }
    Ok(found)
}

fn remove(host: &NetNs, what: &str) -> TestResult {
    if what == SWITCH {
        host.set_sysctl("ipv4/conf/all/src_valid_mark", "0")?;
        return Ok(());
    }
    if !what.starts_with(NFT_RULE) {
        return tool(host, what).map(drop);
    }
    let found = nft_rules(host)?;
    let rule = found.iter().find(|(chain, n, _)| what == format!("{NFT_RULE} {chain} {n}"));
    let (chain, _, handle) = rule.ok_or_else(|| format!("no {what} in {found:?}"))?;
    tool(host, &format!("nft delete rule inet {chain} handle {handle}")).map(drop)
}

/// Our tables as they read, whatever its handles, and everything else as it was. A table that was made anew has another handle.
#[derive(Debug)]
struct State {
    nft: String,
    all: Snapshot,
}

impl State {
    fn take(host: &NetNs) -> Result<Self, Failed> {
        let mut names = tables(host)?;
        // One that was made anew comes last.
        names.sort();
        let nft = names.iter().map(|table| tool(host, &format!("nft list table inet {table}")));
        Ok(Self { nft: nft.collect::<Result<_, _>>()?, all: Snapshot::take(host)? })
    }

    /// What differs; nothing when all is as it was.
    fn differs(&self, host: &NetNs) -> String {
        let now = match Self::take(host) {
            Ok(now) => now,
            Err(error) => return error.message().unwrap_or("no table").to_owned(),
        };
        let mut lines: Vec<&str> = Vec::new();
        let diff = self.all.diff(&now.all);
        let ours = |line: &str| ["name oneway", "table oneway"].iter().any(|name| line.contains(name));
        // What only has another place is there and here.
        let mut times: HashMap<&str, usize> = HashMap::new();
        diff.lines().for_each(|line| *times.entry(&line[1..]).or_default() += 1);
        let moved = |line: &str| times[&line[1..]] > 1;
        lines.extend(
            diff.lines().filter(|line| !(moved(line) || line[1..].starts_with("nft ") && ours(line))),
        );
        if self.nft != now.nft {
            lines.push(&now.nft);
        }
        lines.join("\n")
    }
}

fn restored(oneway: &Oneway, host: &NetNs) -> Result<u64, Failed> {
    let status = ask(host, "status").map_err(|e| format!("{e:?}: {}", oneway.stderr()))?;
    Ok(number(&status, "/guard/restored"))
}

pub fn whatever_is_removed_is_put_back() -> TestResult {
    is_put_back(&["--forwarded", "--exclude", "203.0.113.128/25"])
}

pub fn whatever_strict_needs_is_put_back() -> TestResult {
    is_put_back(&["--forwarded", "--exclude", "203.0.113.128/25", "--strict"])
}

fn is_put_back(options: &[&str]) -> TestResult {
    let lab = Topology::standard()?;
    lab.strict_rp_filter()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, options)?;
    expect_connectivity(host)?;
    let foreign = [
        "ip rule add pref 77 fwmark 0x77 lookup 77",
        "ip -6 rule add pref 77 fwmark 0x77 lookup 77",
        "nft add table inet theirs",
    ];
    for words in foreign {
        tool(host, words)?;
    }
    wait_until(2 * SECOND, "it took note of the others", || {
        ask(host, "status").is_ok_and(|status| number(&status, "/guard/moved") > 0)
    })?;
    // The second family's rule may have come a moment after the first.
    thread::sleep(SECOND / 2);
    let during = State::take(host)?;
    let all = removals(host)?;
    assert!(all.len() > 30, "{all:#?}");
    let mut slowest = Duration::ZERO;
    for what in &all {
        let count = restored(&oneway, host)?;
        remove(host, what)?;
        let took =
            wait_until(2 * SECOND, &format!("restored after `{what}`"), || during.differs(host).is_empty())
                .map_err(|error| format!("{error}: {} {}", during.differs(host), oneway.stderr()))?;
        slowest = slowest.max(took);
        wait_until(SECOND, "it was counted", || restored(&oneway, host).is_ok_and(|now| now > count))?;
    }
    assert!(slowest < 2 * SECOND, "the slowest of {} took {slowest:?}", all.len());
    // All at once.
    host.flush_rules(162)?;
    host.flush_routes(162)?;
    tool(host, "nft delete table inet oneway")?;
    wait_until(2 * SECOND, "all of it is restored", || during.differs(host).is_empty())?;
    expect_connectivity(host)?;
    for words in ["ip rule del pref 77", "ip -6 rule del pref 77", "nft delete table inet theirs"] {
        tool(host, words)?;
    }
    stop(&mut oneway, host, &before)
}

pub fn a_fight_is_fought_slowly_and_named() -> TestResult {
    const LONG: Duration = Duration::from_secs(4);
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &[])?;
    let start = restored(&oneway, host)?;
    let cpu = oneway.cpu_time()?;
    let rule = tool(host, "ip rule list")?;
    let rule = rule.lines().rfind(|line| line.ends_with(" proto 162")).ok_or("no rule of ours")?;
    let rule = format!("ip rule del pref {}", rule.split(':').next().unwrap_or_default());
    let begin = Instant::now();
    let mut removed = 0;
    while begin.elapsed() < LONG {
        removed += u64::from(tool(host, &rule).is_ok());
        thread::sleep(Duration::from_millis(5));
    }
    let count = restored(&oneway, host)? - start;
    let most = 5 * (LONG.as_secs() + 1) + 1;
    assert!(removed > 5 && count > 5 && count <= most, "{removed} removed, {count} restored, at most {most}");
    let used = oneway.cpu_time()? - cpu;
    assert!(used < LONG / 4, "{used:?} of processor time in {LONG:?}");
    let log = oneway.stderr();
    assert_eq!(log.matches("somebody keeps removing").count(), 1, "{log}");
    assert!(log.contains("ip rule add priority"), "{log}");
    wait_until(2 * SECOND, "peace", || reaches_origin(host, SECOND / 5))?;
    stop(&mut oneway, host, &before)
}

/// Under another name the device carries on, but of what it loses when it is set down nothing could be made again.
pub fn a_renamed_device_gets_its_name_back() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &["--strict"])?;
    expect_connectivity(host)?;
    let during = State::take(host)?;
    let renamed = [
        // As it had to be done before Linux 6.2.
        &[
            "ip link set dev oneway0 down",
            "ip link set dev oneway0 name theirs0",
            "ip link set dev theirs0 up",
        ][..],
        &["ip link set dev oneway0 name theirs0"],
    ];
    for commands in renamed {
        let count = restored(&oneway, host)?;
        for words in commands {
            tool(host, words)?;
        }
        wait_until(2 * SECOND, "all is as it was", || during.differs(host).is_empty())
            .map_err(|error| format!("{error}: {} {}", during.differs(host), oneway.stderr()))?;
        wait_until(SECOND, "it was counted", || restored(&oneway, host).is_ok_and(|now| now > count))?;
        expect_connectivity(host)?;
    }
    assert!(oneway.stderr().contains("theirs0"), "{}", oneway.stderr());

    // While the name is another device's, that gets nothing of ours.
    host.bridge("theirs1")?;
    let both = tempfile::NamedTempFile::new()?;
    std::fs::write(&both, "link set dev oneway0 name theirs0\nlink set dev theirs1 name oneway0\n")?;
    tool(host, &format!("ip -batch {}", both.path().display()))?;
    wait_until(3 * SECOND, "it is said", || oneway.stderr().contains("cannot get its name back"))?;
    let theirs =
        tool(host, "ip -d address show dev oneway0")? + &tool(host, "ip route show table all dev oneway0")?;
    assert!(theirs.contains("bridge") && !theirs.contains("10.162."), "{theirs}");
    tool(host, "ip link del dev oneway0")?;
    wait_until(2 * SECOND, "all is as it was", || during.differs(host).is_empty())
        .map_err(|error| format!("{error}: {} {}", during.differs(host), oneway.stderr()))?;
    expect_connectivity(host)?;
    stop(&mut oneway, host, &before)
}

/// Its new place has no part in ours, where nothing is captured any more.
pub fn a_device_that_is_taken_away_ends_it() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &[])?;
    expect_connectivity(host)?;
    tool(host, &format!("ip link set dev {TUN} netns {}", lab.net.path().display()))?;
    let status = oneway.wait(5 * SECOND)?;
    assert_eq!(status.code(), Some(1), "{}", oneway.stderr());
    assert!(oneway.stderr().contains("not in this network namespace any more"), "{}", oneway.stderr());
    before.expect_same(host)?;
    expect_connectivity(host)?;
    Ok(())
}

pub fn a_crash_after_restores_leaves_nothing() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &[])?;
    let during = Snapshot::take(host)?;
    host.flush_rules(162)?;
    wait_until(2 * SECOND, "restored", || during.expect_same(host).is_ok())?;
    tool(host, "ip route del default dev up1")?;
    wait_until(2 * SECOND, "it followed", || {
        ask(host, "status").is_ok_and(|status| status["uplink"]["ipv4"] == "up2")
    })?;
    oneway.kill()?;
    assert_eq!(command(host, &["recover"])?.code, Some(0));
    tool(host, "ip route add default via 192.0.2.1 dev up1 metric 100 proto boot")?;
    before.expect_same(host)?;
    Ok(())
}

pub fn what_nobody_confirms_is_undone() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &["--confirm", "1"])?;
    let status = oneway.wait(4 * SECOND)?;
    assert_eq!(status.code(), Some(1), "{}", oneway.stderr());
    assert!(oneway.stderr().contains("not confirmed within 1 s"), "{}", oneway.stderr());
    before.expect_same(host)?;
    let mut oneway = run(host, &["--confirm", "2"])?;
    let confirmed = command(host, &["confirm"])?;
    assert_eq!((confirmed.code, confirmed.stdout.as_str()), (Some(0), "confirmed; it stays\n"));
    thread::sleep(2 * SECOND + SECOND / 2);
    assert!(oneway.alive(), "{}", oneway.stderr());
    expect_connectivity(host)?;
    stop(&mut oneway, host, &before)?;
    assert_eq!(command(host, &["confirm"])?.code, Some(1), "there is nobody to hear it");
    Ok(())
}

/// While we run, the host joins a LAN or another VPN that has our networks (S13).
pub fn a_network_that_comes_later_is_noticed() -> TestResult {
    let lab = Topology::standard()?;
    let host = &lab.host;
    let before = Snapshot::take(host)?;
    let mut oneway = run(host, &["--dns", "fake-ip"])?;
    expect_connectivity(host)?;
    let overlaps = || Ok::<_, Failed>(ask(host, "status")?["guard"]["overlaps"].clone());
    assert_eq!(overlaps()?, json!([]));
    let newcomers = [
        ("ip -4 address", "10.162.0.77/16 dev up2", "10.162.0.0/24 and 10.162.0.77/16 of up2"),
        (
            "ip -6 address",
            "fd5e:7c1b:a2e4::77/64 dev up2",
            "fd5e:7c1b:a2e4::/64 and fd5e:7c1b:a2e4::77/64 of up2",
        ),
        (
            "ip -4 route",
            "198.18.4.0/24 dev up2",
            "198.18.0.0/15 and the route to 198.18.4.0/24 in table main",
        ),
    ];
    for (command, theirs, both) in newcomers {
        tool(host, &format!("{command} add {theirs}"))?;
        wait_until(2 * SECOND, "it is noticed", || overlaps().is_ok_and(|found| found == json!([both])))
            .map_err(|error| format!("{error}: {both}: {:?}", overlaps()))?;
        let doctor = self::command(host, &["doctor"])?;
        assert!(doctor.stdout.contains(both), "{}", doctor.stdout);
        expect_connectivity(host)?;
        tool(host, &format!("{command} del {theirs}"))?;
        wait_until(2 * SECOND, "it is gone", || overlaps().is_ok_and(|found| found == json!([])))?;
    }
    let said = oneway.stderr().matches("a network has come that overlaps ours").count();
    assert_eq!(said, newcomers.len(), "{}", oneway.stderr());
    stop(&mut oneway, host, &before)
}
