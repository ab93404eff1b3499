//! The program, directly, in namespaces: connections of one byte each way that then stay, half of them over IPv6, held by a
//! process of their own, since each end of each needs a descriptor.
#![allow(clippy::disallowed_methods, reason = "the load is another program")]
#![allow(clippy::print_stdout, reason = "a benchmark says what it has found")]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oneway_lab::Topology;
use oneway_lab::program::Program;
use oneway_lab::servers::origin::{Origin, port};
use oneway_lab::topology::address;
use tokio::signal::unix::{SignalKind, signal};

/// The program, unless PROGRAM in the environment names another build of it.
const PROGRAM: &str = env!("CARGO_BIN_EXE_oneway");
/// How many connections, unless the command line says otherwise.
const COUNTS: [usize; 3] = [1_000, 5_000, 14_000];
/// What the program has carried before its memory is looked at, so that what it sets up once is not counted.
const BEFORE: usize = 200;
const THREADS: usize = 32;
/// Addresses of each family that are connected to: where half of the local ports are taken towards one, the kernel looks through
/// all of them for each that is still free (`__inet_hash_connect` in net/ipv4/inet_hashtables.c).
const ORIGINS: usize = 8;
/// Connections that are made and closed beside those that stay.
const BESIDE: usize = 5_000;
/// Every so many of those that stay must still carry a byte in the end.
const ASKED: usize = 50;
/// Descriptors that a process needs besides those of connections.
const SPARE: u64 = 500;

pub(crate) fn measure() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [word, count] = words.as_slice()
        && word == "--hold"
    {
        return hold(count.parse()?);
    }
    oneway_lab::enter()?;
    let program = std::env::var("PROGRAM").unwrap_or_else(|_| PROGRAM.to_owned());
    let counts = match words.iter().map(|word| word.parse()).collect::<Result<Vec<usize>, _>>()? {
        none if none.is_empty() => COUNTS.to_vec(),
        counts => counts,
    };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    if let Some(count) = counts.iter().find(|&&count| count as u64 + SPARE > limit) {
        return Err(format!(
            "{count} connections need {} descriptors, and a process may have {limit}: raise the limit (ulimit -n)",
            *count as u64 + SPARE
        )
        .into());
    }
    println!(
        "connections   opened in, s   CPU for each, µs   memory for each, KiB   connections/s beside them"
    );
    for count in counts {
        let found = one(&program, count)?;
        println!(
            "{count:>11} {:>14.2} {:>18.0} {:>22.2} {:>27.0}",
            found.took, found.cpu, found.memory, found.beside
        );
    }
    Ok(())
}

struct Found {
    /// Seconds until all were open.
    took: f64,
    /// Microseconds of the program for a connection.
    cpu: f64,
    /// KiB of its resident memory.
    memory: f64,
    /// Connections a second while they are there.
    beside: f64,
}

fn one(program: &str, count: usize) -> Result<Found, Box<dyn Error>> {
    let lab = Topology::simple()?;
    let addresses: Vec<IpAddr> = (0..2 * ORIGINS).map(origin).collect();
    for &address in &addresses {
        lab.net.add_address("lo", address.into())?;
    }
    let _origins = Origin::start(&lab.net, &addresses)?;
    // Namespaces of thousands of connections are still being taken down.
    let mut oneway =
        Program::new(&lab.host, program, ["run"]).ready("ready:", Duration::from_secs(120)).start()?;
    let descriptors = oneway.fd_count()?;
    lab.host.run(|| (0..BEFORE).try_for_each(|n| exchange(n).map(drop)))??;
    let (cpu, memory) = (oneway.cpu_time()?, oneway.rss()?);

    let me = std::env::current_exe()?;
    let words = ["--hold".to_owned(), count.to_string()];
    let mut held = Program::new(&lab.host, me, words).ready("held ", Duration::from_secs(1800)).start()?;
    let took = held.ready_line().trim_start_matches("held in ").trim_end_matches(" s").parse()?;
    let cpu = (oneway.cpu_time()? - cpu).as_secs_f64() / count as f64 * 1e6;
    let memory = (oneway.rss()? as f64 - memory as f64) / count as f64 / 1024.0;
    let more = oneway.fd_count()?.saturating_sub(descriptors);
    // It may have closed one of its own meanwhile.
    if more + 10 < count {
        return Err(
            format!("{count} connections are held, and the program has {more} descriptors more").into()
        );
    }
    let load = lab.host.client().tcp_load(address::ORIGIN.v4_port(port::ECHO), BESIDE, THREADS, 1)?;
    if load.failed > 0 {
        return Err(format!("{} of {BESIDE} connections beside them failed", load.failed).into());
    }
    let beside = load.completed as f64 / load.took.as_secs_f64();
    // It asks some of its connections for a byte each before it ends.
    let (status, _) = held.stop(Duration::from_secs(600))?;
    if !status.success() {
        return Err(format!("the connections did not stay: {}", held.stderr()).into());
    }
    oneway.stop(Duration::from_secs(120))?;
    Ok(Found { took, cpu, memory, beside })
}

/// Where the connection of this number goes.
fn origin(n: usize) -> IpAddr {
    let host = 10 + (n / 2 % ORIGINS) as u8;
    if n.is_multiple_of(2) {
        Ipv4Addr::new(203, 0, 113, host).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, host.into()).into()
    }
}

/// A connection that has carried one byte each way.
fn exchange(n: usize) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect((origin(n), port::ECHO))?;
    again(&mut stream)?;
    Ok(stream)
}

fn again(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

/// The process that has the connections: opens them, says so, and at SIGTERM asks some of them for a byte again.
fn hold(count: usize) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // From now on the signal does not end this process.
    let mut end = runtime.block_on(async { signal(SignalKind::terminate()) })?;
    let (begin, next) = (Instant::now(), AtomicUsize::new(0));
    let all = thread::scope(|scope| {
        let open = || {
            let mut mine = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok(mine);
                }
                mine.push(exchange(n)?);
            }
        };
        let running: Vec<_> = (0..THREADS).map(|_| scope.spawn(open)).collect();
        running.into_iter().map(|thread| thread.join()).collect::<Vec<thread::Result<std::io::Result<_>>>>()
    });
    let mut streams = Vec::with_capacity(count);
    for mine in all {
        streams.extend(mine.map_err(|_| "a thread panicked")??);
    }
    println!("held in {} s", begin.elapsed().as_secs_f64());
    runtime.block_on(end.recv());
    streams.iter_mut().step_by(ASKED).try_for_each(again)?;
    Ok(())
}
