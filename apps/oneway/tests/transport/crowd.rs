//! Many at once, and fewer descriptors than they need.

use std::net::{IpAddr, SocketAddr};

use oneway_lab::client::{Outcome, Ping, parallel, wait_until};
use oneway_lab::harness::TestResult;
use oneway_lab::program::Program;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Simple, Topology, address};
use oneway_lab::{LabError, Oneway, Snapshot};

use crate::common::{ONEWAY, SECOND, ask, lab, proxy, run_words, stack};

pub fn parallel_streams_all_complete() -> TestResult {
    const STREAMS: usize = 512;
    const LEN: usize = 100_000;
    let (lab, _oneway) = lab(Some("socks5"), &[])?;
    for to in address::ORIGIN.ports(port::ECHO) {
        let load = lab.host.client().tcp_load(to, STREAMS, STREAMS, LEN)?;
        assert_eq!(
            (load.completed, load.failed, load.bytes),
            (STREAMS as u64, 0, (STREAMS * LEN) as u64),
            "{to}: {load:?}"
        );
    }
    Ok(())
}

/// 1,024 descriptors: what is too much is refused at once, what was there lives on, and nothing spins.
pub fn too_few_descriptors_refuse_the_new_and_keep_the_old() -> TestResult {
    let lab = Topology::simple()?;
    let options = ["run", "--stack", stack(), "--proxy", &proxy("socks5")];
    let mut oneway =
        Program::new(&lab.host, ONEWAY, options).file_limit(1024).ready("ready:", 10 * SECOND).start()?;
    let client = lab.host.client();
    let to = address::ORIGIN.v4_port(port::ECHO);
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..1500 {
        let dial = client.tcp(to, 5 * SECOND)?;
        match dial.outcome {
            Outcome::Done => held.extend(dial.stream),
            Outcome::Refused => {
                assert!(dial.took < SECOND, "refused after {:?}", dial.took);
                refused += 1;
            }
            other => return Err(format!("{other:?} after {} connections", held.len()).into()),
        }
        if refused == 50 {
            break;
        }
    }
    // What is at the limit is refused by it, and not by a descriptor that there is not.
    assert!(oneway.fd_count()? < 1000, "{} descriptors of 1,024", oneway.fd_count()?);
    assert!(held.len() > 300, "only {} connections with 1,024 descriptors", held.len());
    assert_eq!(refused, 50, "{} connections and no refusal", held.len());

    // Full, and with nothing to do, it does nothing.
    let spent = oneway.cpu_time()?;
    let begin = std::time::Instant::now();
    let mut last = spent;
    wait_until(5 * SECOND, "two seconds have gone by", || {
        last = oneway.cpu_time().unwrap_or(last);
        begin.elapsed() >= 2 * SECOND
    })?;
    assert!(last - spent < SECOND / 10, "{:?} of work in two idle seconds", last - spent);

    for stream in &mut held {
        use std::io::{Read, Write};
        stream.write_all(b"still")?;
        let mut back = [0; 5];
        stream.read_exact(&mut back)?;
        assert_eq!(&back, b"still");
    }
    drop(held);
    wait_until(10 * SECOND, "there is room again", || {
        client.tcp(to, SECOND).is_ok_and(|dial| dial.outcome == Outcome::Done)
    })?;
    assert!(oneway.alive());
    assert!(oneway.stderr().len() < 64 << 10, "{} bytes of log", oneway.stderr().len());
    let status = ask(&lab.host, "status")?;
    let told = status.pointer("/counters/tcp/refused").and_then(serde_json::Value::as_u64);
    assert!(told.is_some_and(|told| told >= 50), "status says so: {told:?}");
    Ok(())
}

/// So many dials to nowhere are more than places, with [`few`] descriptors.
const TO_NOWHERE: usize = 300;

/// The program with 256 descriptors.
fn few(options: &[&str]) -> Result<(Simple, Oneway), LabError> {
    let lab = Topology::simple()?;
    let oneway = Program::new(&lab.host, ONEWAY, run_words(options))
        .file_limit(256)
        .ready("ready:", 10 * SECOND)
        .start()?;
    Ok((lab, oneway))
}

/// With even fewer nothing is begun, of which something would have to be undone.
pub fn with_too_few_descriptors_nothing_starts() -> TestResult {
    let lab = Topology::simple()?;
    let before = Snapshot::take(&lab.host)?;
    for files in [32, 255] {
        let words = ["run", "--stack", stack()];
        let mut running = Program::new(&lab.host, ONEWAY, words).file_limit(files).start()?;
        assert_eq!(running.wait(10 * SECOND)?.code(), Some(1), "{}", running.stderr());
        let said = format!("{files} files may be open, and it takes 256; raise the limit");
        assert!(running.stderr().contains(&said), "{}", running.stderr());
        before.expect_same(&lab.host)?;
    }
    Ok(())
}

pub fn one_source_does_not_take_all_places() -> TestResult {
    let (lab, _oneway) = few(&[])?;
    let client = lab.host.client();
    let limited = || {
        let status = ask(&lab.host, "status").unwrap_or_default();
        status.pointer("/counters/tcp/refused").and_then(serde_json::Value::as_u64).is_some_and(|n| n > 0)
    };
    std::thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            parallel(TO_NOWHERE, |_| {
                client.tcp(address::BLACK_HOLE.v4_port(80), 8 * SECOND).map(|dial| dial.outcome)
            })
        });
        wait_until(5 * SECOND, "its places are all taken", limited)?;
        for _ in 0..20 {
            // The other family's address is another source.
            let reply = client.http_get(address::ORIGIN.v6_port(port::HTTP), "/", 5 * SECOND)?;
            assert_eq!(reply.status, 200);
        }
        let outcomes = crowd.join().map_err(|_| "the crowd panicked")?;
        let refused = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Outcome::Refused))).count();
        assert!((1..TO_NOWHERE).contains(&refused), "{refused} refused");
        Ok(())
    })
}

/// A host that serves others has a quarter left for them, whatever one of them does; alone it has all for itself.
pub fn one_source_does_not_take_all_sessions() -> TestResult {
    const SESSIONS: usize = 48;
    const PINGS: usize = 8;
    for (options, left) in [(&["--forwarded"][..], true), (&[], false)] {
        let (lab, _oneway) = few(options)?;
        let share = |all: usize| if left { all / 4 * 3 } else { all };
        let exchange = |n: usize, to: SocketAddr| {
            let from =
                SocketAddr::new(address::HOST_UP1.both()[usize::from(to.is_ipv6())], 20_000 + n as u16);
            lab.host.client().source_port(from).udp(to, b"x", 5 * SECOND).map(|exchange| exchange.outcome)
        };
        let ping = |n: usize, to: IpAddr| {
            let answer = lab.host.client().ping_as(to, 7000 + n as u16, 5 * SECOND);
            answer.map(|answer| matches!(answer, Ping::Reply { .. }))
        };
        let [v4, v6] = address::ORIGIN.ports(port::ECHO);
        let outcomes = (0..SESSIONS + 5).map(|n| exchange(n, v4)).collect::<Result<Vec<_>, _>>()?;
        let done = outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
        assert_eq!(done, share(SESSIONS), "{options:?}: {outcomes:?}");
        let replies = (0..PINGS + 2).map(|n| ping(n, v4.ip())).collect::<Result<Vec<_>, _>>()?;
        assert_eq!(replies.iter().filter(|is_reply| **is_reply).count(), share(PINGS), "{options:?}");
        // The other family's address is another source.
        assert_eq!(exchange(100, v6)? == Outcome::Done, left, "{options:?}");
        assert_eq!(ping(100, v6.ip())?, left, "{options:?}");
    }
    Ok(())
}

/// The kernel asks a destination that never answers for two minutes; nobody is kept out for that long on account of a client
/// that waits no more.
pub fn places_of_clients_that_gave_up_are_free_again() -> TestResult {
    let (lab, _oneway) = few(&[])?;
    let client = lab.host.client();
    let outcomes = parallel(TO_NOWHERE, |_| {
        client.tcp(address::BLACK_HOLE.v4_port(80), 2 * SECOND).map(|dial| dial.outcome)
    });
    let count =
        |wanted| outcomes.iter().filter(|outcome| outcome.as_ref().is_ok_and(|o| *o == wanted)).count();
    let (refused, silent) = (count(Outcome::Refused), count(Outcome::TimedOut));
    assert_eq!(refused + silent, TO_NOWHERE, "{outcomes:?}");
    assert!(refused > 0, "places for all {silent}");
    wait_until(30 * SECOND, "there is room again", || {
        client
            .http_get(address::ORIGIN.v4_port(port::HTTP), "/", 5 * SECOND)
            .is_ok_and(|reply| reply.status == 200)
    })?;
    Ok(())
}
