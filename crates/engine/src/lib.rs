//! The engine of oneway as a library: everything but the command line.
//!
//! [`Engine::start`] captures and returns; [`Engine::stop`] undoes. [`plan`] says beforehand what would be changed,
//! [`check`] which loops a configuration would make, [`doctor`] and [`why`] that nothing comes back.
//!
//! ```no_run
//! use oneway::Engine;
//! use oneway::config::{Config, Options};
//!
//! let loaded = Config::load(Some("oneway.toml".as_ref()), Options::default())?;
//! let engine = Engine::start(&loaded.config)?;
//! println!("{}", engine.ready_line());
//! // `None` once another thread has called `stop`.
//! if let Some(why) = engine.wait_until_failed() {
//!     eprintln!("{why}");
//! }
//! engine.stop()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a program should know that has an engine inside
//!
//! **Calls block.** They may be made on any thread, one of a tokio runtime too, which then does nothing else meanwhile: use
//! `spawn_blocking` there. [`Engine::start`] takes some tenths of a second, and as long as it takes to look up the proxies' names;
//! [`Engine::stop`], and dropping the engine, up to a second for the live flows to hear of it, and some tenths for the undo.
//! [`Engine::reload`] may take as long as names do, and up to 10 s for the host and 5 s to look at the flows. [`plan`], [`doctor`] and
//! [`why`] ask the kernel hundreds of questions on a host with many routes: up to some seconds. [`Engine::status`],
//! [`Engine::flows`] and [`Engine::stats`] take milliseconds.
//!
//! **Rights.** `CAP_NET_ADMIN`; for pings `CAP_NET_RAW` too, where `net.ipv4.ping_group_range` does not let the user make them;
//! `CAP_SYS_ADMIN` where sockets are to be made in another namespace. A device that is handed over ready
//! ([`TunConfig::fd`](config::TunConfig::fd)) takes none.
//!
//! **The network namespace** is that of the thread that starts the engine, and stays it: threads that it starts are there. Whoever
//! stops or asks an engine may be elsewhere; it takes `CAP_SYS_ADMIN` to ask from there, and nothing to stop. [`plan`], [`doctor`],
//! [`why`], [`check`] and [`recover`] are about that of the calling thread. There is one engine in a namespace at a time.
//!
//! **The end.** Call [`Engine::stop`] or drop the engine. A process that ends otherwise (`exit`, a signal, `abort`) leaves behind
//! what it has changed: traffic goes as without it then, or is refused with `strict`, and the host's resolver settings may lead to
//! nobody, until [`recover`] or the next start undoes it. After a failure ([`Engine::wait_until_failed`]) the host stays captured
//! until the engine is stopped, and with `strict` it stays shut after that ([`EngineError::LeftShut`]).
//!
//! **What it does to its process.** There are as many worker threads as processors, 16 at most, one that watches over the host, and
//! two for another namespace; `SIGPIPE` is blocked on them and left as it is elsewhere. The soft limit of open files
//! (`RLIMIT_NOFILE`) is raised to the hard one, and stays there. The first start sets a panic hook, which calls the one of before and
//! ends an engine whose thread has panicked; a hook that is set later takes its place, and the reason is then in the log alone.
//! It takes panics that unwind. Everything is logged by `tracing`, and nothing is printed.

#![forbid(unsafe_code)]

pub mod config;
pub mod control;
pub mod import;

mod error;

// These know no operating system and are compiled on each, so that they stay so; used where there is a capture.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod addresses;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod assemble;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod blocking;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod cancel;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod circle;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod dispatch;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod exclude;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod group;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod guard;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod limits;
mod reloaded;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod stats;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no capture on this system yet"))]
mod watched;

#[cfg(target_os = "linux")]
pub mod apart;
#[cfg(target_os = "linux")]
mod dns;
#[cfg(target_os = "linux")]
mod explain;
#[cfg(target_os = "linux")]
mod lifecycle;
#[cfg(not(target_os = "linux"))]
#[path = "unsupported.rs"]
mod lifecycle;
#[cfg(target_os = "linux")]
mod status;
#[cfg(target_os = "linux")]
mod worker;

pub use cancel::Cancel;
pub use error::EngineError;
pub use exclude::exclude_this_process;
#[cfg(target_os = "linux")]
pub use explain::{check, doctor, why};
pub use lifecycle::{Engine, plan, recover};
#[cfg(not(target_os = "linux"))]
pub use lifecycle::{check, doctor, why};
pub use oneway_capture::tun::TunError;
pub use oneway_egress::EgressError;
pub use oneway_outbound::DialError;
pub use oneway_route::{Plan, PlanError, RouteError};
pub use reloaded::Reloaded;
pub use stats::StatsSnapshot;
