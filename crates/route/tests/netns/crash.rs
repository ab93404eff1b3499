//! SIGKILL at every step of set-up and of undoing; then `recover` leaves the host as it was.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use oneway_route::{
    Journal, JournalState, Protect, Recovered, Request, Snapshot, StepPoint, apply, no_hook, recover,
    recover_with,
};

use crate::host::{FAR4, FAR6, Net, SWITCHES, Tun, planned, protections, set};
use crate::namespace::{mount_over, other_user};
use crate::resolver;

crate::trials!(
    every_point_of_the_default,
    every_point_with_everything,
    every_point_of_mark_ifgroup,
    every_point_of_source_rule,
    every_point_of_host_route,
    every_point_of_host_route_halves,
    every_point_of_tproxy,
    every_point_with_a_resolv_conf,
    every_point_with_a_link_instead,
    every_point_with_a_mounted_resolv_conf,
    killed_while_recovering,
);

const FLAG: &str = "--crash-child";
const SIGKILL: i32 = 9;

/// `file` is the `resolv.conf`, for those that change it.
fn request(name: &str, file: &Path) -> Request {
    match name {
        "resolv-conf" => resolver::request(file),
        "default" => Request::default(),
        "tproxy" => Request { tproxy: Some(16_262), ..Request::default() },
        "everything" => Request {
            forwarded: true,
            protect: Protect::Bind,
            exclude: vec!["203.0.113.128/25".parse().unwrap(), "2001:db8:ffff:1::/64".parse().unwrap()],
            exclude_uids: other_user().into_iter().collect(),
            ..Request::default()
        },
        name => protections().into_iter().find(|request| request.protect.name() == name).unwrap(),
    }
}

/// The part of the process that is killed: `--crash-child REQUEST JOURNAL POINT`.
pub fn child() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != FLAG {
        return None;
    }
    let (request_name, journal) = (arguments.next()?, PathBuf::from(arguments.next()?));
    let at: usize = arguments.next()?.parse().ok()?;
    run(&request_name, journal, &mut die_at(at));
    Some(ExitCode::SUCCESS)
}

fn die_at(at: usize) -> impl FnMut(StepPoint) {
    let mut count = 0;
    move |_| {
        if count == at {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        }
        count += 1;
    }
}

/// A whole life: apply, verify, capture, undo.
fn run(name: &str, journal: PathBuf, hook: &mut dyn FnMut(StepPoint)) {
    let plan = planned(&request(name, &journal.with_file_name("resolv.conf")));
    let _tun = Tun::open(&plan.tun_name);
    let far = [FAR4.parse().unwrap(), FAR6.parse().unwrap()];
    let prepared = apply(plan, Journal::create(&journal).unwrap(), hook).unwrap();
    let captured = prepared.verify(&far, hook).unwrap().capture(&far, hook).unwrap();
    captured.undo(hook).unwrap();
}

#[allow(clippy::disallowed_methods, reason = "the process that is killed is this test itself, once more")]
fn killed(name: &str, net: &Net, at: usize) {
    let me = std::env::current_exe().unwrap();
    let status = Command::new(me).args([FLAG, name]).arg(net.journal()).arg(at.to_string()).status().unwrap();
    assert_eq!(status.signal(), Some(SIGKILL), "point {at}: {status}");
}

fn every_point(name: &str) {
    let net = Net::new();
    net.host.run(|| {
        set("net/ipv4/conf/all/rp_filter", "1");
        let before = Snapshot::take().unwrap();
        let mut points = Vec::new();
        run(name, net.journal(), &mut |point| points.push(point));
        assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
        assert!(points.len() > 70, "{}", points.len());
        for (at, point) in points.iter().enumerate() {
            killed(name, &net, at);
            // The file is there at every point, since it is removed after the last one.
            let first = recovered(&net);
            assert_eq!(first.journal, JournalState::Applied, "{point:?}");
            assert_eq!(first.by_tag, 0, "the journal knew everything at {point:?}");
            assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0], "{point:?}");
            let again = recovered(&net);
            assert_eq!((again.undone, again.by_tag, again.journal), (0, 0, JournalState::None));
        }
        // And the same with the journal lost: all but the switches, which carry no tag.
        set("net/ipv4/conf/all/rp_filter", "0");
        SWITCHES.iter().for_each(|path| set(path, "1"));
        let before = Snapshot::take().unwrap();
        let mut count = 0;
        run(name, net.journal(), &mut |_| count += 1);
        for at in (0..count).step_by(5) {
            killed(name, &net, at);
            std::fs::remove_file(net.journal()).unwrap();
            recovered(&net);
            assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0], "point {at}");
        }
    });
}

fn every_point_of_the_default() {
    every_point("default");
}

fn every_point_with_everything() {
    every_point("everything");
}

fn every_point_of_mark_ifgroup() {
    every_point("mark-ifgroup");
}

fn every_point_of_source_rule() {
    every_point("source-rule");
}

fn every_point_of_host_route() {
    every_point("host-route");
}

fn every_point_of_host_route_halves() {
    every_point("host-route-halves");
}

fn every_point_of_tproxy() {
    every_point("tproxy");
}

/// The file is what it was after each, with the journal and without.
fn every_point_of_a_file(net: &Net) {
    let file = net.dir.path().join("resolv.conf");
    let look = || (fs::read_to_string(&file).unwrap(), fs::read_link(&file).ok());
    let before = look();
    net.host.run(|| {
        // They carry no tag, and would stay as they are with the first journal that is lost.
        SWITCHES.iter().for_each(|path| set(path, "1"));
        let mut points = Vec::new();
        run("resolv-conf", net.journal(), &mut |point| points.push(point));
        assert_eq!(look(), before);
        let mut changed = 0;
        // What comes before it is killed in the other tests.
        let last = points.len() - 1;
        let of_file = points.iter().enumerate().filter(|(at, _)| *at + 12 >= last / 2 && *at <= last);
        for (at, point) in of_file {
            for keeps_journal in [true, false] {
                killed("resolv-conf", net, at);
                changed += usize::from(look() != before);
                if !keeps_journal {
                    fs::remove_file(net.journal()).unwrap();
                }
                recover_with(&net.journal(), &file).unwrap();
                assert_eq!(look(), before, "{point:?}, {keeps_journal}");
                let again = recover_with(&net.journal(), &file).unwrap();
                assert_eq!((again.undone, again.by_tag), (0, 0));
            }
        }
        assert!(changed >= 4, "{changed}");
    });
}

fn every_point_with_a_resolv_conf() {
    let net = Net::new();
    fs::write(net.dir.path().join("resolv.conf"), resolver::ON_LINK).unwrap();
    every_point_of_a_file(&net);
}

fn every_point_with_a_link_instead() {
    let net = Net::new();
    fs::write(net.dir.path().join("stub.conf"), resolver::ON_LINK).unwrap();
    std::os::unix::fs::symlink("stub.conf", net.dir.path().join("resolv.conf")).unwrap();
    every_point_of_a_file(&net);
}

fn every_point_with_a_mounted_resolv_conf() {
    let net = Net::new();
    let (file, under) = (net.dir.path().join("resolv.conf"), net.dir.path().join("mounted"));
    fs::write(&file, "covered\n").unwrap();
    fs::write(&under, resolver::ON_LINK).unwrap();
    let _mounted = mount_over(&under, &file);
    every_point_of_a_file(&net);
}

fn recovered(net: &Net) -> Recovered {
    recover(&net.journal()).unwrap()
}

/// A recovery that stopped half-way is finished by the next one: the journal goes last.
fn killed_while_recovering() {
    let net = Net::new();
    net.host.run(|| {
        let before = Snapshot::take().unwrap();
        let mut points = 0;
        run("default", net.journal(), &mut |_| points += 1);
        killed("default", &net, points / 2);
        let kept = std::fs::read(net.journal()).unwrap();
        recovered(&net);
        std::fs::write(net.journal(), kept).unwrap();
        let first = recovered(&net);
        assert_eq!((first.undone, first.by_tag), (0, 0));
        assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
        run("default", net.journal(), &mut no_hook);
    });
}
