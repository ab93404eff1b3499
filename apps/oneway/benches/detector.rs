//! What the look for our own packets costs: the same program with it and without, in turns.

#[cfg(target_os = "linux")]
#[path = "detector/linux.rs"]
mod os;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    os::measure()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
