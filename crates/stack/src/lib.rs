//! Packets become flows.
//!
//! Free of I/O and of the clock: packets and the time are arguments, so that every behaviour is a deterministic test.

#![forbid(unsafe_code)]

pub mod fragment;
pub mod nat;
pub mod offload;
pub mod tcp;
