//! TCP against its specifications, against a peer that is played, and against itself over a link that loses, repeats,
//! delays and corrupts, by a virtual clock.

mod bench;
mod link;
mod long;
mod model;
mod must;
mod size;
mod transfer;

/// How many seeds to try: `ONEWAY_SEEDS` times as many as usual.
fn seeds(usual: u64) -> u64 {
    let times = std::env::var("ONEWAY_SEEDS").ok().and_then(|times| times.parse().ok());
    usual * times.unwrap_or(1)
}
