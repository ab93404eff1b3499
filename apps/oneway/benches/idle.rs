//! What many idle connections take: time and memory for each, and what they cost those that come after them.

#[cfg(target_os = "linux")]
#[path = "idle/linux.rs"]
mod os;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    os::measure()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
