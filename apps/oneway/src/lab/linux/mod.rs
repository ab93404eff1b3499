//! The loops that Linux can show, each in throw-away network namespaces: one machine, `host`, is captured, and beyond its
//! uplink lie an origin, a DNS server and a SOCKS5 server.

mod astray;
mod direct;
mod early;
mod echo;
mod hairpin;
mod ipv6;
mod local_proxy;
mod own_network;
mod proxy;
mod reflected;
mod report;
mod resolver;
mod run;
mod stale_fake;
mod unnoticed;
mod uplink_lost;
mod virtual_uplink;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use oneway::config::Safeguard;
use oneway_lab::topology::Simple;
use oneway_lab::{Entered, LabError, NetNs, nft};

use super::kind::Kind;
use crate::failure::{FAILED, Failure};
use crate::output::Output;
use report::Report;

/// What a scene keeps for as long as it is played.
type Props = Option<Box<dyn Prop>>;

/// Something that is needed while a scene is played.
trait Prop {
    /// How many packets it has sent so far.
    fn sent(&self) -> u64 {
        0
    }
}

/// How one kind of loop is made.
struct Scene {
    /// The options of `oneway run`.
    options: Vec<String>,
    /// What has to be left out, so that it loops.
    without: Vec<Safeguard>,
    /// What is left out besides nothing, where the kind itself is that something fails and the guards are to notice.
    broken: Vec<Safeguard>,
    /// Makes the host ready, before anything is captured.
    prepare: fn(&Simple) -> Result<Props, LabError>,
    /// Sends what is to loop, and says how many packets that were.
    ignite: fn(&Simple) -> Result<u64, LabError>,
    /// Takes back what `ignite` has changed on the host.
    tidy: fn(&Simple) -> Result<(), LabError>,
    /// Why it does not loop even so.
    harmless: Option<&'static str>,
}

impl Default for Scene {
    fn default() -> Self {
        Self {
            options: Vec::new(),
            without: Vec::new(),
            broken: Vec::new(),
            prepare: |_| Ok(None),
            ignite: |_| Ok(0),
            tidy: |_| Ok(()),
            harmless: None,
        }
    }
}

fn scene(id: &str) -> Option<Scene> {
    Some(match id {
        "L1" => proxy::scene(),
        "L2" => direct::scene(),
        "L3" => own_network::scene(),
        "L4" => ipv6::scene(),
        "L5" => uplink_lost::scene(),
        "L6" => reflected::scene(),
        "L7" => virtual_uplink::scene(),
        "L8" => stale_fake::scene(),
        "L9" => resolver::scene(),
        "L10" => local_proxy::scene(),
        "L11" => astray::scene(),
        "L12" => hairpin::scene(),
        "L13" => echo::scene(),
        "L14" => unnoticed::scene(),
        "L15" => early::scene(),
        _ => return None,
    })
}

fn words(options: &[&str]) -> Vec<String> {
    options.iter().map(ToString::to_string).collect()
}

/// Removes all tables of nftables, as `nft flush ruleset` does, and ours with them: without that the kernel knows a
/// connection of our own again by its mark, and leads what comes back of it out once more.
fn flush_nft(lab: &Simple) -> Result<(), LabError> {
    nft::tables(&lab.host)?.iter().try_for_each(|table| nft::delete_table(&lab.host, table))?;
    // The watch has put ours back by then.
    thread::sleep(Duration::from_millis(400));
    Ok(())
}

/// How long a program waits for an answer that may never come.
const SHORT: Duration = Duration::from_millis(50);

/// Sends one datagram to each.
fn send(lab: &Simple, to: &[SocketAddr]) -> Result<u64, LabError> {
    to.iter().try_for_each(|to| lab.host.client().udp(*to, b"anybody there", SHORT).map(drop))?;
    Ok(to.len() as u64)
}

/// Opens a connection to each.
fn dial(lab: &Simple, to: &[SocketAddr]) -> Result<u64, LabError> {
    to.iter().try_for_each(|to| lab.host.client().tcp(*to, SHORT).map(drop))?;
    // A handshake, and its end.
    Ok(4 * to.len() as u64)
}

/// Plays loops; with `each`, also with each single guard left out alone.
pub(crate) fn play(kinds: &[&'static Kind], each: bool, output: Output) -> Result<ExitCode, Failure> {
    let by = match oneway_lab::enter()? {
        Entered::Root => "root",
        Entered::UserNamespace => "a user namespace",
    };
    let mut report = Report::new(output);
    report
        .say(&format!("throw-away network namespaces (as {by}): host ── up1 ── origin, DNS, SOCKS5 server"));
    for kind in kinds {
        let Some(scene) = scene(kind.id) else {
            return Err(Failure::new(FAILED, format_args!("{} cannot be played", kind.id)));
        };
        report.kind(kind);
        if !scene.without.is_empty() {
            report.unguarded(run::run(&scene, &scene.without)?, scene.harmless);
        }
        for without in parts(&scene).into_iter().filter(|_| each) {
            report.guarded(run::run(&scene, &without)?);
        }
        report.guarded(run::run(&scene, &scene.broken)?);
    }
    report.end()
}

/// What else may be left out: each guard alone, and all but one.
fn parts(scene: &Scene) -> Vec<Vec<Safeguard>> {
    let all = &scene.without;
    let alone = all.iter().map(|guard| vec![*guard]);
    let but = |one: &Safeguard| all.iter().copied().filter(|guard| guard != one).collect::<Vec<_>>();
    let mut parts: Vec<Vec<Safeguard>> = Vec::new();
    for part in alone.chain(all.iter().map(but)) {
        if !part.is_empty() && part.len() < all.len() && !parts.contains(&part) && part != scene.broken {
            parts.push(part);
        }
    }
    parts
}

/// The part of a program of its own: a SOCKS server on the host. Ends when it is killed.
pub(crate) fn part(listen: &[SocketAddr]) -> Result<ExitCode, Failure> {
    let _server = local_proxy::serve(&NetNs::current("here")?, listen)?;
    Output::new(false).print("ready: SOCKS", &())?;
    loop {
        thread::park();
    }
}
