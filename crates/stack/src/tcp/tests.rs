//! Conversations of two connections over a link that loses, repeats, delays and corrupts, by a virtual clock.

mod link;
mod long;
mod transfer;
