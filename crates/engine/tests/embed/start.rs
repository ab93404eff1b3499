//! How an engine begins, and what is left if it does not.

use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};

use oneway::control::WhyQuestion;
use oneway::{Engine, Plan, doctor, plan, why};
use oneway_lab::harness::TestResult;
use oneway_lab::topology::address;
use oneway_lab::{NetNs, Snapshot, Topology};

use crate::common::{config, in_a_runtime, through, until_alone, when_it_says};

pub fn everything_works_inside_a_runtime() -> TestResult {
    let lab = Topology::simple()?;
    let beyond = NetNs::new("beyond")?;
    let before = Snapshot::take(&lab.host)?;
    let question = WhyQuestion {
        addr: address::ORIGIN.v4_port(80),
        host: Some("origin.example".to_owned()),
        udp: false,
        uid: 0,
        from: None,
    };
    // Names of proxies are asked for at another moment where sockets are made in another namespace.
    let elsewhere = format!("[egress]\nprotect = \"netns\"\nnetns = \"{}\"\n", beyond.path().display());
    let more = "[outbound.p]\ntype = \"socks5\"\nserver = \"localhost:1080\"\n\
                [rules]\nlist = [\"IP-CIDR,10.0.0.0/8,p\"]\n";
    for egress in ["", &elsewhere] {
        let text = format!("[dns]\nmode = \"off\"\n{egress}");
        let (first, second) = (config(&text)?, config(&format!("{text}{more}"))?);
        lab.host.run(|| {
            in_a_runtime(|| {
                let _: Plan = plan(&second)?;
                doctor(&second)?;
                why(&second, &question)?;
                let engine = Engine::start(&first)?;
                engine.reload(&second)?;
                engine.doctor()?;
                engine.why(&question)?;
                engine.stop()?;
                drop(Engine::start(&second)?);
                Ok(())
            })
        })??;
        before.expect_same(&lab.host)?;
    }
    Ok(())
}

pub fn a_panic_of_the_caller_undoes_everything() -> TestResult {
    let lab = Topology::simple()?;
    let before = Snapshot::take(&lab.host)?;
    // It is captured itself, and that is said when everything else is.
    let proxy = lab.host.run(|| TcpListener::bind("127.0.0.1:0"))??;
    let config = config(&through(proxy.local_addr()?))?;
    for said in ["device is open", "goes in a circle"] {
        let panicked = lab.host.run(|| {
            let start = AssertUnwindSafe(|| drop(Engine::start(&config)));
            when_it_says(said, || panic!("on purpose"), || catch_unwind(start)).is_err()
        })?;
        assert!(panicked, "{said}");
        // The device is gone, too: nobody holds it any more.
        before.expect_same(&lab.host)?;
        lab.host.run(until_alone)??;
        lab.host.run(|| Engine::start(&config)?.stop())??;
        before.expect_same(&lab.host)?;
    }
    Ok(())
}
