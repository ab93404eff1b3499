//! A connection whose name is looked for in what its client sends first.
//!
//! The client has been told that it is connected, by the outbound that its address leads to. What it sends is kept in the
//! connection's own buffer, and nothing of it goes on before it is known where to: to that outbound, or to the one that its
//! name leads to. What the server sends meanwhile is passed on, and ends this.

use std::rc::Rc;
use std::sync::Arc;

use oneway_sniff::{MOST, Sniffed};
use oneway_stack::tcp::{State, Time};

use super::buffers::Chunk;
use super::flow::{Flow, Open, Stage};
use super::upstream::{Held, Upstream};
use crate::worker::Worker;
use crate::worker::sniff::{Nameless, Renamed};

/// What is known so far.
#[derive(Debug)]
pub(in crate::worker) struct Naming {
    nameless: Arc<Nameless>,
    /// From the client's first byte on.
    pub(super) deadline: Option<Time>,
    /// The name is known, and its outbound is being connected.
    asked: bool,
}

impl Naming {
    pub(super) fn new(nameless: Nameless) -> Self {
        Self { nameless: Arc::new(nameless), deadline: None, asked: false }
    }
}

impl Worker {
    /// Looks at what the client has sent. True when it may go on to the outbound that there is.
    pub(super) fn look_for_name(self: &Rc<Self>, now: Time, flow: &Rc<Flow>, open: &mut Open) -> bool {
        let Some(naming) = &mut open.naming else { return false };
        if naming.asked {
            return false;
        }
        let mut found = Sniffed::More;
        let received = open.conn.received();
        if received > 0 {
            open.conn.receive(|bytes| {
                found = naming.nameless.look(bytes);
                0
            });
        }
        let is_over = open.read > 0
            || received >= MOST
            || !matches!(open.conn.state(), State::SynReceived | State::Established)
            || naming.deadline.is_some_and(|at| at <= now);
        match found {
            Sniffed::Name(name) if open.read == 0 => {
                naming.asked = true;
                naming.deadline = None;
                let nameless = Arc::clone(&naming.nameless);
                if let Some(upstream) = &mut open.upstream {
                    upstream.hold(Held::Both);
                }
                let (worker, flow) = (Rc::clone(self), Rc::clone(flow));
                tokio::task::spawn_local(async move {
                    let renamed = worker.by_name(&nameless, name).await;
                    worker.renamed(&flow, renamed);
                });
                false
            }
            Sniffed::More if !is_over => {
                if received > 0 && naming.deadline.is_none() {
                    naming.deadline = Some(now + naming.nameless.timeout());
                }
                false
            }
            _ => {
                open.naming = None;
                if let Some(upstream) = &mut open.upstream {
                    upstream.hold(Held::No);
                }
                true
            }
        }
    }

    /// Lets a connection go on by the outbound that its name leads to.
    fn renamed(self: &Rc<Self>, flow: &Rc<Flow>, renamed: Option<Renamed>) {
        if let Stage::Open(open) = &mut *flow.stage.borrow_mut() {
            open.naming = None;
            match renamed {
                None => open.give_up(),
                Some(Renamed { flow, connected }) => {
                    open.flow = flow;
                    if let Some(connected) = connected
                        && open.upstream.is_some()
                    {
                        open.read = connected.early.len() as u64;
                        if !connected.early.is_empty() {
                            open.conn.send(Chunk::Owned(connected.early.into_boxed_slice()));
                        }
                        let old = open.upstream.replace(Upstream::new(connected.stream));
                        old.into_iter().for_each(Upstream::reset);
                    }
                    if let Some(upstream) = &mut open.upstream {
                        upstream.hold(Held::No);
                    }
                }
            }
        }
        self.drive(self.now(), flow);
    }
}
