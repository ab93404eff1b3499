//! When the resolver settings are changed, and when they are left alone.

use super::*;
use crate::resolver::{Before, LinkDomains, Place, Resolver};

fn resolver(text: &str) -> Resolver {
    Resolver {
        path: "/etc/resolv.conf".into(),
        before: Before::File { text: text.into(), mode: 0o644, uid: 0, gid: 0 },
        text: text.into(),
        resolved: false,
        everything: Vec::new(),
        fixed: None,
        place: Place { boot: "0f0f".into(), netns: 42 },
        upstream: true,
        always: false,
    }
}

fn request(resolver: Resolver) -> Request {
    Request { resolver: Some(resolver), ..Request::default() }
}

fn changed(request: &Request) -> Option<Step> {
    let plan = plan(request, &host()).unwrap();
    let step = plan.steps.iter().find(|step| Some(&step.change) == plan.resolver()).cloned();
    // It comes last, when there is somebody who answers; and whatever is decided is said.
    let about = |change: &Change| matches!(change, Change::LinkDomains(_));
    let last = plan.steps.iter().rfind(|step| !about(&step.change));
    assert!(step.is_none() || last == step.as_ref());
    assert!(step.is_some() || plan.notes.iter().any(|note| note.contains("left alone")), "{:?}", plan.notes);
    step
}

fn why(request: &Request) -> String {
    changed(request).map(|step| step.why).unwrap_or_default()
}

#[test]
fn nothing_is_changed_where_queries_are_captured() {
    let plan = golden("resolver_captured", &request(resolver("nameserver 198.51.100.53\n")), &host());
    assert_eq!(plan.resolver(), None);
    let both = resolver("nameserver 198.51.100.53\nnameserver 2001:db8:f::53\n");
    assert_eq!(changed(&request(both)), None);
    // `--strict` captures DNS wherever it goes.
    let on_link = resolver("nameserver 192.0.2.1\n");
    assert_eq!(changed(&Request { strict: true, ..request(on_link) }), None);
}

#[test]
fn what_goes_past_the_capture_is_changed() {
    let on_link = resolver("search example\nnameserver 192.0.2.1\n");
    let plan = golden("resolver_on_link", &request(on_link), &host());
    assert_eq!(plan.steps.last().map(|step| step.phase), Some(Phase::Capture));
    for (text, reason) in [
        ("", "no server is named"),
        ("nameserver fe80::1%eth0\n", "one link alone"),
        ("nameserver 127.0.0.1\n", "a program of this host"),
        ("nameserver 198.51.100.53\nnameserver 192.0.2.1\n", "asked directly"),
        ("nameserver 10.162.0.7\n", "the TUN's own network"),
    ] {
        let why = why(&request(resolver(text)));
        assert!(why.contains(reason), "{text:?}: {why:?}");
    }
    // What is switched off is not captured.
    let v6 = Request { ipv6: false, ..request(resolver("nameserver 2001:db8:f::53\n")) };
    assert!(why(&v6).contains("asked directly"));
    // Each server of ours has a route of its own then, and whoever asks it takes that.
    let servers = vec!["198.51.100.53".parse().unwrap()];
    let by_route =
        Request { protect: Protect::HostRoute, servers, ..request(resolver("nameserver 198.51.100.53\n")) };
    assert!(why(&by_route).contains("asked directly"));
}

#[test]
fn systemd_resolved_is_told_of_a_link() {
    let domains = vec![("example".to_owned(), false), (".".to_owned(), true)];
    let everything = vec![LinkDomains { name: "eth0".into(), domains }];
    let resolved = Resolver { resolved: true, everything, ..resolver("nameserver 127.0.0.53\n") };
    let plan = golden("resolver_resolved", &request(resolved), &host());
    let Some(Change::LinkDns { name, nameserver }) = plan.resolver() else { panic!("{plan:?}") };
    assert_eq!((name.as_str(), nameserver.to_string().as_str()), ("oneway0", "10.162.0.254"));
}

#[test]
fn what_the_user_has_chosen_stays() {
    let on_link = || resolver("nameserver 192.0.2.1\n");
    let excluded = Request { exclude: nets(["192.0.2.0/24"]), ..request(on_link()) };
    assert_eq!(changed(&excluded), None);
    let included = Request { include: nets(["203.0.113.0/24"]), ..request(on_link()) };
    assert_eq!(changed(&included), None);
    // Without the settings there is no word of them.
    let silent = plan(&Request::default(), &host()).unwrap();
    assert!(silent.resolver().is_none() && !silent.text().contains("resolv"));
}

#[test]
fn what_cannot_be_changed_is_named() {
    let fixed = |always| Resolver {
        fixed: Some("/etc/resolv.conf is immutable; clear that with `chattr -i /etc/resolv.conf`".into()),
        always,
        ..resolver("nameserver 192.0.2.1\n")
    };
    golden("resolver_immutable", &request(fixed(false)), &host());
    let refused = plan(&request(fixed(true)), &host()).unwrap_err().to_string();
    assert!(refused.contains("--resolver always") && refused.contains("chattr -i"), "{refused}");
    let nobody = Resolver { upstream: false, ..resolver("nameserver 127.0.0.1\n") };
    assert_eq!(changed(&request(nobody)), None);
    let asked_for = Resolver { always: true, ..resolver("nameserver 198.51.100.53\n") };
    assert!(changed(&request(asked_for)).is_some());
}

#[test]
fn a_plan_made_again_keeps_what_comes_back() {
    let first = plan(&request(resolver("nameserver 192.0.2.1\n")), &host()).unwrap();
    let later = request(resolver("nameserver 192.0.2.9\n"));
    assert_eq!(plan_again(&later, &first, &host()).unwrap().resolver(), first.resolver());
}
