//! `resolv.conf` of every kind: made ours, brought back, killed in between, written over by others. And systemd-resolved,
//! played by a bus of the test's own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use oneway_route::{
    Change, JournalState, LinkDomains, Plan, PlanError, Request, Resolver, Watched, no_hook, plan,
    recover_with, resolv_conf_before,
};

use crate::bus::{Bus, Mood};
use crate::host::{Net, capture, until};
use crate::namespace::mount_over;

crate::trials!(
    every_kind_comes_back_byte_for_byte,
    a_mounted_file_is_written_over,
    an_immutable_file_is_refused_by_name,
    what_others_write_comes_back_in_the_end,
    a_file_that_is_not_ours_any_more_is_left_alone,
    the_file_itself_tells_how_it_is_undone,
    the_file_of_another_namespace_is_left_alone,
    systemd_resolved_is_set_watched_and_reverted,
    a_bus_that_hangs_holds_nobody_up,
);

/// A resolver on the link of `eth0`.
pub const ON_LINK: &str = "# by hand\nsearch example\nnameserver 192.0.2.1\n";

/// The settings that the file says, as `run` would see them.
pub fn request(file: &Path) -> Request {
    let resolver = Resolver { upstream: true, ..Resolver::look_at(file, false).unwrap() };
    Request { resolver: Some(resolver), ..Request::default() }
}

fn planned(request: &Request) -> Plan {
    plan(request, &oneway_route::Snapshot::take().unwrap()).unwrap()
}

fn file_of(net: &Net) -> PathBuf {
    net.dir.path().join("resolv.conf")
}

/// What is there: the link itself, or text, permissions and owner.
#[derive(Debug, PartialEq, Eq)]
enum There {
    Nothing,
    Link(PathBuf),
    File(String, u32, u32, u32),
}

fn there(path: &Path) -> There {
    let Ok(meta) = fs::symlink_metadata(path) else { return There::Nothing };
    if meta.is_symlink() {
        return There::Link(fs::read_link(path).unwrap());
    }
    There::File(fs::read_to_string(path).unwrap(), meta.mode() & 0o7777, meta.uid(), meta.gid())
}

fn names(path: &Path, server: &str) -> bool {
    fs::read_to_string(path).unwrap().contains(&format!("\nnameserver {server}\n"))
}

fn every_kind_comes_back_byte_for_byte() {
    let net = Net::new();
    let (file, target) = (file_of(&net), net.dir.path().join("stub.conf"));
    let kinds: [&dyn Fn(); 5] = [
        &|| fs::write(&file, ON_LINK).unwrap(),
        &|| {
            fs::write(&file, "nameserver 192.0.2.1 # no end of line").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        },
        &|| {
            fs::write(&target, ON_LINK).unwrap();
            symlink("stub.conf", &file).unwrap();
        },
        &|| symlink("nowhere.conf", &file).unwrap(),
        &|| {},
    ];
    for make in kinds {
        let _ = (fs::remove_file(&file), fs::remove_file(&target));
        make();
        let before = there(&file);
        net.host.run(|| {
            let request = request(&file);
            let (tun, applied) = capture(&planned(&request), net.journal());
            assert!(names(&file, "10.162.0.254"), "{before:?}");
            let now = fs::symlink_metadata(&file).unwrap();
            assert!(now.is_file());
            if let There::File(_, mode, uid, gid) = &before {
                assert_eq!((now.mode() & 0o7777, now.uid(), now.gid()), (*mode, *uid, *gid));
            }
            // What a link led to is another program's.
            assert!(!target.exists() || fs::read_to_string(&target).unwrap() == ON_LINK);
            if target.exists() {
                assert!(fs::read_to_string(&file).unwrap().contains("\nsearch example\n"));
            }
            assert_eq!(applied.missing(Watched::All).unwrap(), []);
            // Who starts while it is ours sees what was there before.
            let again = Resolver::look_at(&file, false).unwrap();
            assert!(!again.text.contains("10.162.0.254"));
            applied.undo(&mut no_hook).unwrap();
            drop(tun);
            assert_eq!(there(&file), before);
        });
        let left: Vec<_> = fs::read_dir(net.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.len() <= 2, "{left:?}");
    }
}

fn a_mounted_file_is_written_over() {
    let net = Net::new();
    let (file, under) = (file_of(&net), net.dir.path().join("mounted"));
    fs::write(&file, "covered\n").unwrap();
    for text in [ON_LINK.to_owned(), "# long\n".repeat(2_000) + ON_LINK] {
        fs::write(&under, &text).unwrap();
        let _mounted = mount_over(&under, &file);
        let before = there(&file);
        let inode = fs::metadata(&file).unwrap().ino();
        net.host.run(|| {
            let (_tun, applied) = capture(&planned(&request(&file)), net.journal());
            assert!(names(&file, "10.162.0.254"));
            assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
            applied.undo(&mut no_hook).unwrap();
            assert_eq!(there(&file), before);
        });
    }
}

fn an_immutable_file_is_refused_by_name() {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let net = Net::new();
    let file = file_of(&net);
    fs::write(&file, ON_LINK).unwrap();
    let handle = fs::File::open(&file).unwrap();
    let flags = ioctl_getflags(&handle).unwrap_or(IFlags::empty());
    if ioctl_setflags(&handle, flags | IFlags::IMMUTABLE).is_err() {
        // Neither the file system nor a user namespace need allow it: then the flag cannot be there either. The decision
        // is a golden text.
        return;
    }
    let look = net.host.run(|| (request(&file), planned(&request(&file))));
    let cleared = ioctl_setflags(&handle, flags);
    cleared.unwrap();
    let (mut request, plan) = look;
    assert!(plan.resolver().is_none());
    assert!(plan.notes.iter().any(|note| note.contains("is immutable") && note.contains("chattr -i")));
    request.resolver.as_mut().unwrap().always = true;
    let refused = net.host.run(|| oneway_route::plan(&request, &oneway_route::Snapshot::take().unwrap()));
    assert!(matches!(refused, Err(PlanError::Resolver(_))), "{refused:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), ON_LINK);
}

fn what_others_write_comes_back_in_the_end() {
    let net = Net::new();
    let (file, target) = (file_of(&net), net.dir.path().join("run.conf"));
    fs::write(&file, ON_LINK).unwrap();
    net.host.run(|| {
        let (_tun, mut applied) = capture(&planned(&request(&file)), net.journal());
        let theirs = "# Generated by a manager\nnameserver 198.51.100.1\n";
        let writers: [&dyn Fn(); 4] = [
            &|| fs::write(&file, theirs).unwrap(),
            &|| {
                fs::write(&target, theirs).unwrap();
                fs::remove_file(&file).unwrap();
                symlink(&target, &file).unwrap();
            },
            &|| fs::remove_file(&file).unwrap(),
            &|| fs::write(&file, theirs).unwrap(),
        ];
        for write in writers {
            write();
            let foreign = there(&file);
            let back = applied.put_back(Watched::Switches).whole().unwrap();
            assert_eq!(back.len(), 1, "{back:?}");
            let named = match &foreign {
                There::File(..) => "Generated by a manager",
                There::Link(_) => "a link to",
                There::Nothing => "nothing",
            };
            assert!(back[0].contains(named), "{back:?}");
            assert!(names(&file, "10.162.0.254"));
            assert_eq!(applied.put_back(Watched::Switches).whole().unwrap(), [""; 0]);
            if let There::File(text, ..) = foreign {
                assert_eq!(resolv_conf_before(&fs::read_to_string(&file).unwrap()), text);
            }
        }
        // The journal knows of it, too: as after a crash.
        let kept = fs::read(net.journal()).unwrap();
        applied.undo(&mut no_hook).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), theirs);
        assert!(String::from_utf8(kept).unwrap().contains("Generated by a manager"));
    });
}

fn a_file_that_is_not_ours_any_more_is_left_alone() {
    let net = Net::new();
    let file = file_of(&net);
    fs::write(&file, ON_LINK).unwrap();
    net.host.run(|| {
        let (_tun, applied) = capture(&planned(&request(&file)), net.journal());
        fs::write(&file, "nameserver 198.51.100.7\n").unwrap();
        applied.undo(&mut no_hook).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "nameserver 198.51.100.7\n");
    });
}

fn the_file_itself_tells_how_it_is_undone() {
    let net = Net::new();
    let file = file_of(&net);
    for of_another_boot in [false, true] {
        fs::write(&file, ON_LINK).unwrap();
        net.host.run(|| {
            let (tun, applied) = capture(&planned(&request(&file)), net.journal());
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
            // The program is killed, and the journal gone: with /run, after the power failed.
            drop((tun, applied));
            fs::remove_file(net.journal()).unwrap();
            if of_another_boot {
                let other = fs::read_to_string(&file).unwrap().replace(boot.trim(), "another");
                fs::write(&file, other).unwrap();
                // Whose it is then cannot be told in a namespace that is not that of process 1.
                return;
            }
            let recovered = recover_with(&net.journal(), &file).unwrap();
            assert!(recovered.by_tag > 0 && recovered.journal == JournalState::None);
            assert_eq!(fs::read_to_string(&file).unwrap(), ON_LINK);
            assert_eq!(recover_with(&net.journal(), &file).unwrap().by_tag, 0);
        });
    }
}

fn the_file_of_another_namespace_is_left_alone() {
    let (net, other) = (Net::new(), Net::new());
    let file = file_of(&net);
    fs::write(&file, ON_LINK).unwrap();
    net.host.run(|| {
        let (_tun, applied) = capture(&planned(&request(&file)), net.journal());
        let ours = fs::read_to_string(&file).unwrap();
        other.host.run(|| {
            assert_eq!(recover_with(&other.journal(), &file).unwrap().by_tag, 0);
        });
        assert_eq!(fs::read_to_string(&file).unwrap(), ours);
        applied.undo(&mut no_hook).unwrap();
    });
    // And the machine's own is never looked upon as this namespace's.
    let fixed = net.host.run(|| Resolver::look().unwrap().fixed);
    assert!(fixed.is_some());
}

/// What NetworkManager makes of the device with the default route.
fn wide() -> Vec<(String, bool)> {
    vec![("example".to_owned(), false), (".".to_owned(), true)]
}

fn link_dns(request: &Request) -> Plan {
    let mut request = request.clone();
    let resolver = request.resolver.as_mut().unwrap();
    resolver.resolved = true;
    resolver.everything = vec![LinkDomains { name: "eth0".into(), domains: wide() }];
    let plan = planned(&request);
    assert!(matches!(plan.resolver(), Some(Change::LinkDns { .. })));
    plan
}

/// A host whose programs ask systemd-resolved, and its bus.
fn beside_resolved(test: impl FnOnce(&Net, &Path, &Bus) + Send) {
    let net = Net::new();
    let file = file_of(&net);
    fs::write(&file, "nameserver 127.0.0.53\n").unwrap();
    Bus::alone(|| {
        let bus = Bus::start(Mood::Helpful);
        net.host.run(|| test(&net, &file, &bus));
    });
}

fn systemd_resolved_is_set_watched_and_reverted() {
    beside_resolved(|net, file, bus| {
        let plan = link_dns(&request(file));
        let eth0 = oneway_route::Snapshot::take().unwrap().link("eth0").unwrap().index.0;
        bus.set_domains(eth0, wide());
        let (tun, mut applied) = capture(&plan, net.journal());
        assert_eq!(bus.link(eth0).domains, wide()[..1]);
        let link = oneway_route::Snapshot::take().unwrap().link(&plan.tun_name).unwrap().index.0;
        let state = bus.link(link);
        assert_eq!(state.servers, [vec![10, 162, 0, 254]]);
        assert_eq!(state.domains, [(".".to_owned(), true)]);
        assert!(state.default_route);
        for off in ["DNSSEC", "DNSOverTLS", "MulticastDNS", "LLMNR"] {
            assert_eq!(state.modes.get(off).map(String::as_str), Some("no"), "{off}");
        }
        assert_eq!(bus.flushed(), 1);
        assert_eq!(applied.missing(Watched::All).unwrap(), []);
        // Somebody has `resolvectl revert` or another server.
        bus.forget(link);
        assert_eq!(applied.put_back(Watched::Switches).whole().unwrap().len(), 1);
        assert_eq!(bus.link(link).servers.len(), 1);
        bus.set_domains(eth0, wide());
        assert_eq!(applied.put_back(Watched::Switches).whole().unwrap().len(), 1);
        assert_eq!(bus.link(eth0).domains, wide()[..1]);
        applied.undo(&mut no_hook).unwrap();
        assert_eq!(bus.link(eth0).domains, wide());
        assert!(bus.link(link).servers.is_empty() && bus.flushed() == 3);
        // When the device is gone before, nothing of it is left to be undone.
        drop(tun);
        let (tun, applied) = capture(&plan, net.journal());
        drop(tun);
        applied.undo(&mut no_hook).unwrap();
        assert_eq!(bus.link(eth0).domains, wide());
        assert_eq!(fs::read_to_string(file).unwrap(), "nameserver 127.0.0.53\n");
    });
}

fn a_bus_that_hangs_holds_nobody_up() {
    beside_resolved(|net, file, bus| {
        let (_tun, mut applied) = capture(&link_dns(&request(file)), net.journal());
        for mood in [Mood::Silent, Mood::Nonsense, Mood::Refusing] {
            bus.be(mood);
            // It is not taken for missing, and does not keep the rest from being undone.
            until("the watch goes on", || applied.put_back(Watched::Switches).whole().is_ok());
        }
        bus.be(Mood::Silent);
        applied.undo(&mut no_hook).unwrap();
    });
}
