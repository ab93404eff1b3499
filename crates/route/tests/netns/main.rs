//! The kernel's behaviour, and that of this crate on it, in network namespaces made for the test.
//!
//! Without root the whole program first moves into a user namespace of its own. Where even that is not
//! allowed the tests fail: a test of the kernel that did not run is no success.
#![allow(clippy::unwrap_used, reason = "these are tests, though not of the built-in harness")]

#[cfg(target_os = "linux")]
mod answers;
#[cfg(target_os = "linux")]
mod bus;
#[cfg(target_os = "linux")]
mod crash;
#[cfg(target_os = "linux")]
mod drift;
#[cfg(target_os = "linux")]
mod facts;
#[cfg(target_os = "linux")]
mod full;
#[cfg(target_os = "linux")]
mod host;
#[cfg(target_os = "linux")]
mod large;
#[cfg(target_os = "linux")]
mod model;
#[cfg(target_os = "linux")]
mod namespace;
#[cfg(target_os = "linux")]
mod nexthop;
#[cfg(target_os = "linux")]
mod resolver;
#[cfg(target_os = "linux")]
mod roundtrip;
#[cfg(target_os = "linux")]
mod wire;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    bus::announce();
    if let Some(code) = crash::child() {
        return code;
    }
    namespace::become_root();
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = [
        roundtrip::trials(),
        drift::trials(),
        facts::trials(),
        answers::trials(),
        crash::trials(),
        model::trials(),
        large::trials(),
        full::trials(),
        nexthop::trials(),
        resolver::trials(),
    ]
    .concat_all();
    libtest_mimic::run(&arguments, trials).exit_code()
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
trait ConcatAll {
    fn concat_all(self) -> Vec<libtest_mimic::Trial>;
}

#[cfg(target_os = "linux")]
impl<const N: usize> ConcatAll for [Vec<libtest_mimic::Trial>; N] {
    fn concat_all(self) -> Vec<libtest_mimic::Trial> {
        self.into_iter().flatten().collect()
    }
}

/// Makes trials of functions; a panic is the failure.
#[cfg(target_os = "linux")]
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        pub fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$(libtest_mimic::Trial::test(
                concat!(module_path!(), "::", stringify!($name)).trim_start_matches("netns::"),
                || { $name(); Ok(()) },
            )),*]
        }
    };
}
#[cfg(target_os = "linux")]
use trials;
