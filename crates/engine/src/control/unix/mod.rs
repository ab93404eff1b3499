//! The control socket as a Unix stream socket.

mod client;
mod connect;
mod server;
#[cfg(test)]
mod tests;

pub use client::ControlClient;
pub use server::ControlServer;
