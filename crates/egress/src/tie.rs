//! What a flow and the tunnel behind it tell each other beyond their bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::Notify;

#[derive(Debug, Default)]
struct State {
    /// The tunnel has failed: the end of its bytes is not the end of the stream.
    cut: AtomicBool,
    /// What carries the tunnel has failed.
    failed: AtomicBool,
    failing: Notify,
    /// The flow was reset.
    reset: AtomicBool,
    /// The flow's end is closed.
    gone: Notify,
}

/// The flow's end. Dropped, it says that the flow is over.
#[derive(Debug)]
pub struct FlowEnd(Arc<State>);

/// The tunnel's end.
#[derive(Debug)]
pub struct TunnelEnd(Arc<State>);

pub(crate) fn tie() -> (FlowEnd, TunnelEnd) {
    let state = Arc::<State>::default();
    (FlowEnd(Arc::clone(&state)), TunnelEnd(state))
}

impl FlowEnd {
    /// Whether the tunnel has failed. To be asked at the end of what it delivered.
    pub fn is_cut(&self) -> bool {
        self.0.cut.load(Relaxed)
    }

    /// Waits until what carries the tunnel has failed, for a flow that takes nothing of what was delivered. For one waiter at
    /// a time.
    pub fn failed(&self) -> impl Future<Output = ()> + Send + 'static {
        let state = Arc::clone(&self.0);
        async move {
            while !state.failed.load(Relaxed) {
                state.failing.notified().await;
            }
        }
    }

    /// Has the far end see a reset.
    pub fn reset(&self) {
        self.0.reset.store(true, Relaxed);
    }
}

impl Drop for FlowEnd {
    fn drop(&mut self) {
        self.0.gone.notify_one();
    }
}

impl TunnelEnd {
    /// Has the flow see a reset behind what was delivered. To be called before its socket is closed.
    pub fn cut(&self) {
        self.0.cut.store(true, Relaxed);
    }

    /// Tells a flow that takes nothing that a reset waits for it. More may be delivered to one that does.
    pub fn fail(&self) {
        self.0.failed.store(true, Relaxed);
        self.0.failing.notify_one();
    }

    /// Whether the flow was reset; for certain once it is gone.
    pub fn was_reset(&self) -> bool {
        self.0.reset.load(Relaxed)
    }

    /// Waits until the flow is over. For one waiter.
    pub async fn gone(&self) {
        self.0.gone.notified().await;
    }
}
