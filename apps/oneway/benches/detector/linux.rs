//! Connections of one byte each way from 16 threads (`crr`), and one stream up (`up`), in namespaces: both programs run for
//! a moment in each round, the one that begins changes, and what counts is the median of the ratios of the rounds.
#![allow(clippy::disallowed_methods, reason = "the load is another program")]
#![allow(clippy::print_stdout, reason = "a benchmark says what it has found")]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oneway_lab::program::Program;
use oneway_lab::servers::origin::port;
use oneway_lab::topology::{Simple, address};
use oneway_lab::{Oneway, Topology};

/// The program, unless PROGRAM in the environment names another build of it.
const PROGRAM: &str = env!("CARGO_BIN_EXE_oneway");
/// Rounds, unless ROUNDS in the environment says otherwise.
const ROUNDS: usize = 10;
const LOOK: Duration = Duration::from_millis(1500);
const THREADS: usize = 16;

/// What one program did in one round.
#[derive(Clone, Copy, Default)]
struct Figures {
    /// Connections in a second.
    crr: f64,
    /// Processor time of the program for a connection, in microseconds.
    crr_cpu: f64,
    /// Gbit/s.
    up: f64,
    /// Processor time of the program for a GiB, in seconds.
    up_cpu: f64,
}

pub(crate) fn measure() -> Result<(), Box<dyn Error>> {
    oneway_lab::enter()?;
    let program = std::env::var("PROGRAM").unwrap_or_else(|_| PROGRAM.to_owned());
    if std::env::args().any(|word| word == "--instructions") {
        return instructions(&program);
    }
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let mut all: [Vec<Figures>; 2] = Default::default();
    for round in 0..rounds {
        for turn in 0..2 {
            let without = (round + turn) % 2;
            let figures = one(&program, without == 1)?;
            if let Some(list) = all.get_mut(without) {
                list.push(figures);
            }
        }
    }
    let [with, without] = &all;
    println!("median of {rounds} rounds        with detector   without   with / without");
    let row = |name: &str, of: fn(&Figures) -> f64| {
        let ratios = with.iter().zip(without).map(|(a, b)| of(a) / of(b));
        let (a, b) = (median(with.iter().map(of)), median(without.iter().map(of)));
        println!("{name:<30} {a:>10.2} {b:>9.2} {:>16.3}", median(ratios));
    };
    row("crr, connections/s", |f| f.crr);
    row("crr, CPU µs/connection", |f| f.crr_cpu);
    row("up, Gbit/s", |f| f.up);
    row("up, CPU s/GiB", |f| f.up_cpu);
    Ok(())
}

/// The instructions of the look itself among all of the program, the kernel's left out, as callgrind counts them: the same on a
/// busy machine as on a quiet one.
fn instructions(program: &str) -> Result<(), Box<dyn Error>> {
    const CONNECTIONS: u64 = 1200;
    let lab = Topology::simple()?;
    let file = std::env::temp_dir().join(format!("oneway-callgrind-{}", std::process::id()));
    let file = file.to_str().ok_or("the folder of temporary files has no name")?;
    let out = format!("--callgrind-out-file={file}");
    let words = ["--tool=callgrind", &out, program, "run"];
    let valgrind = Program::new(&lab.host, "/usr/bin/valgrind", words);
    let mut oneway = valgrind.ready("ready:", Duration::from_secs(60)).start()?;
    lab.host.run(|| (0..CONNECTIONS).try_for_each(|_| exchange()))??;
    oneway.stop(Duration::from_secs(30))?;
    let words = ["--tree=caller", "--inclusive=yes", "--threshold=100", file];
    let mut annotate = Program::new(&lab.host, "/usr/bin/callgrind_annotate", words).start()?;
    annotate.wait(Duration::from_secs(60))?;
    std::fs::remove_file(file)?;
    let table = annotate.stdout();
    let first =
        |line: &str| line.split_whitespace().next().and_then(|n| n.replace(',', "").parse::<u64>().ok());
    let find =
        |all: &[&str]| table.lines().find(|line| all.iter().all(|text| line.contains(text))).and_then(first);
    let total = find(&["PROGRAM TOTALS"]).ok_or("callgrind counted nothing")?;
    let look = find(&["=> ", "::returned ("]).ok_or("callgrind does not know the look")?;
    println!("{CONNECTIONS} connections: {total} instructions of the program");
    println!(
        "the look: {} for a connection, {:.2} %",
        look / CONNECTIONS,
        look as f64 / total as f64 * 100.0
    );
    Ok(())
}

/// A connection with one byte each way.
fn exchange() -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address::ORIGIN.v4_port(port::ECHO))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn one(program: &str, without: bool) -> Result<Figures, Box<dyn Error>> {
    let lab = Topology::simple()?;
    let words: &[&str] = if without { &["run", "--without-guard", "detector"] } else { &["run"] };
    let mut oneway = Oneway::start(&lab.host, program, words)?;
    let mut figures = Figures::default();
    let (count, took, cpu) = during(&lab, &oneway, THREADS, |count| {
        exchange()?;
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })?;
    figures.crr = count / took;
    figures.crr_cpu = cpu / count * 1e6;
    let (bytes, took, cpu) = during(&lab, &oneway, 1, |count| {
        let to: SocketAddr = address::ORIGIN.v4_port(port::DISCARD);
        let mut stream = TcpStream::connect(to)?;
        let chunk = vec![7; 1 << 17];
        let end = Instant::now() + LOOK;
        while Instant::now() < end {
            stream.write_all(&chunk)?;
            count.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    })?;
    figures.up = bytes * 8.0 / took / 1e9;
    figures.up_cpu = cpu / bytes * f64::from(1 << 30);
    oneway.stop(Duration::from_secs(5))?;
    Ok(figures)
}

/// Does something again and again from several threads on the host. Returns the count, the seconds that it took, and those of
/// processor time that the program had.
fn during(
    lab: &Simple,
    oneway: &Oneway,
    threads: usize,
    work: impl Fn(&AtomicU64) -> std::io::Result<()> + Sync,
) -> Result<(f64, f64, f64), Box<dyn Error>> {
    let count = AtomicU64::new(0);
    let (cpu, begin) = (oneway.cpu_time()?, Instant::now());
    let done: Vec<std::io::Result<()>> = thread::scope(|scope| {
        let again = || {
            lab.host.run(|| {
                while begin.elapsed() < LOOK {
                    work(&count)?;
                }
                Ok(())
            })
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(again)).collect();
        let ended = running.into_iter().map(|thread| thread.join());
        ended
            .map(|end| match end {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => Err(std::io::Error::other(error)),
                Err(_) => Err(std::io::Error::other("a thread panicked")),
            })
            .collect()
    });
    done.into_iter().collect::<std::io::Result<()>>()?;
    let (took, cpu) = (begin.elapsed().as_secs_f64(), oneway.cpu_time()? - cpu);
    Ok((count.load(Ordering::Relaxed) as f64, took, cpu.as_secs_f64()))
}
