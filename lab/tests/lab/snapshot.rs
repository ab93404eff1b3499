//! The textual snapshot.

use std::time::Duration;

use oneway_lab::client::Outcome;
use oneway_lab::harness::TestResult;
use oneway_lab::nft;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::address;
use oneway_lab::{NetNs, Route, Rule, Snapshot, Topology};

pub fn equal_when_nothing_changed() -> TestResult {
    let lab = Topology::standard()?;
    lab.masquerade_container()?;
    let before = Snapshot::take(&lab.host)?;
    for to in address::ORIGIN.ports(port::ECHO) {
        for client in [lab.host.client(), lab.container.client()] {
            assert_eq!(client.udp(to, b"x", Duration::from_secs(1))?.outcome, Outcome::Done);
            assert_eq!(client.tcp_load(to, 20, 5, 100)?.completed, 20);
        }
    }
    before.expect_same(&lab.host)?;
    for word in
        ["link ", "address ", "route ", "rule ", "nft table", "nft rule", "sysctl ipv4/ip_forward = 1"]
    {
        assert!(before.lines().iter().any(|line| line.starts_with(word)), "no {word}:\n{before}");
    }
    Ok(())
}

pub fn tells_what_changed() -> TestResult {
    let lab = Topology::standard()?;
    let before = Snapshot::take(&lab.host)?;
    let expect = |sign: &str, words: &[&str]| -> TestResult {
        let error = before.expect_same(&lab.host).expect_err("a change").to_string();
        let found =
            error.lines().any(|line| line.starts_with(sign) && words.iter().all(|word| line.contains(word)));
        if found { Ok(()) } else { Err(format!("no line {sign} with {words:?} in:\n{error}").into()) }
    };
    let table = 4711;
    let rule = Rule { ipv6: true, priority: 77, mark: Some((1, 3)), table, ..Rule::default() };
    lab.host.add_rule(&rule)?;
    expect("+", &["rule IPv6", "priority 77", "mark 0x1", "mask 0x3", "table 4711"])?;
    lab.host.delete_rule(&rule)?;
    before.expect_same(&lab.host)?;

    let route = Route::to("2001:db8:ffff::/48".parse()?).by(address::R1_LAN.v6.into()).table(table).metric(9);
    lab.host.add_route(&route)?;
    expect("+", &["route IPv6", "to 2001:db8:ffff::", "via 2001:db8:1::1", "table 4711", "metric 9"])?;
    lab.host.delete_route(&route)?;
    before.expect_same(&lab.host)?;

    lab.host.set_sysctl("ipv4/conf/all/rp_filter", "2")?;
    expect("-", &["sysctl ipv4/conf/all/rp_filter = 0"])?;
    expect("+", &["sysctl ipv4/conf/all/rp_filter = 2"])?;
    lab.host.set_sysctl("ipv4/conf/all/rp_filter", "0")?;
    before.expect_same(&lab.host)?;

    lab.masquerade_container()?;
    expect("+", &["nft table", "lab-nat"])?;
    let tables = nft::tables(&lab.host)?;
    assert_eq!(tables.iter().map(|table| table.family).collect::<Vec<_>>(), [2, 10]);
    tables.iter().try_for_each(|table| nft::delete_table(&lab.host, table))?;
    before.expect_same(&lab.host)?;

    let other = NetNs::new("other")?;
    lab.host.veth("extra", &other, "extra")?;
    expect("+", &["link", "name extra", "kind veth"])?;
    lab.host.delete_link("extra")?;
    before.expect_same(&lab.host)?;

    lab.host.set_mtu("up1", 1400)?;
    expect("-", &["link", "name up1", "mtu 1500"])?;
    lab.host.delete_address("up1", ipnet::IpNet::new(address::HOST_UP1.v4.into(), 26)?)?;
    expect("-", &["address", "local 192.0.2.2"])?;
    Ok(())
}
