//! Networks that nest, compiled to disjoint ranges that know the networks around them.
//!
//! Two networks either nest or do not meet, so they form a forest. Between their borders the innermost
//! network is constant: a binary search finds it, and the chain of its ancestors holds all rules that apply.
//! Each node carries the first rule among itself and its ancestors, which is the answer: of most flows the address is
//! known from the beginning. Where it was found out for a rule in the middle, rules before that one that did not ask
//! for it (`no-resolve`) do not count. For this each node has the first rule that would ask, and a list of the others;
//! the chain of ancestors is walked only through nodes that have such.

/// An address as a number.
pub(crate) trait Bits: Copy + Ord {
    /// The topmost 16 bits.
    fn top(self) -> usize;
    /// The next address; none after the last.
    fn next(self) -> Option<Self>;
}

impl Bits for u32 {
    fn top(self) -> usize {
        (self >> 16) as usize
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Bits for u128 {
    fn top(self) -> usize {
        (self >> 112) as usize
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// One rule's network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<A> {
    pub(crate) first: A,
    pub(crate) last: A,
    /// Its position in the list of all rules.
    pub(crate) order: u32,
    /// Whether it would have a name resolved.
    pub(crate) resolve: bool,
}

/// "None" among orders and nodes.
const NONE: u32 = u32::MAX;

/// From this many ranges on, 256 KiB of index are worth it.
const INDEXED: usize = 1024;

/// One network; all rules on it.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// The first rule of this network and those around it.
    first: u32,
    /// The first of them that would have a name resolved.
    resolving: u32,
    /// The nearest network around this one that has rules with `no-resolve`.
    up: u32,
    /// This network's rules with `no-resolve`: a range of `Cidrs::no_resolve`.
    begin: u32,
    end: u32,
}

/// The networks of one family.
#[derive(Clone, Debug)]
pub(crate) struct Cidrs<A> {
    /// Where each range begins, ascending.
    starts: Vec<A>,
    /// The innermost network of the range, or [`NONE`].
    inner: Vec<u32>,
    nodes: Vec<Node>,
    no_resolve: Vec<u32>,
    /// For each value of the topmost 16 bits the number of ranges that begin below it. Saves most steps of the
    /// search, and the cache misses that go with them. Empty if there are few ranges.
    top: Vec<u32>,
}

impl<A: Bits> Cidrs<A> {
    pub(crate) fn new(mut entries: Vec<Entry<A>>) -> Self {
        // Outer before inner, and one network's rules in their order.
        entries.sort_unstable_by(|a, b| {
            a.first.cmp(&b.first).then(b.last.cmp(&a.last)).then(a.order.cmp(&b.order))
        });
        let mut cidrs = Self {
            starts: Vec::new(),
            inner: Vec::new(),
            nodes: Vec::new(),
            no_resolve: Vec::new(),
            top: Vec::new(),
        };
        // The networks that are open at this point, outermost first, with their last addresses.
        let mut open: Vec<(A, u32)> = Vec::new();
        for group in entries.chunk_by(|a, b| a.first == b.first && a.last == b.last) {
            let (first, last) = (group[0].first, group[0].last);
            cidrs.close(&mut open, Some(first));
            let parent = open.last().map_or(NONE, |(_, node)| *node);
            let node = cidrs.add_node(parent, group);
            open.push((last, node));
            cidrs.begin_range(first, node);
        }
        cidrs.close(&mut open, None);
        cidrs.starts.shrink_to_fit();
        cidrs.inner.shrink_to_fit();
        cidrs.nodes.shrink_to_fit();
        cidrs.index();
        cidrs
    }

    /// The position of the first rule that applies to `addr`. If the address was found out for the rule at `asked_at`,
    /// rules with `no-resolve` before that one do not apply.
    pub(crate) fn find(&self, addr: A, asked_at: u32) -> Option<u32> {
        let (from, to) = match (self.top.get(addr.top()), self.top.get(addr.top() + 1)) {
            (Some(from), Some(to)) => (*from as usize, *to as usize),
            _ => (0, self.starts.len()),
        };
        let at = from + self.starts.get(from..to)?.partition_point(|start| *start <= addr);
        let mut node = *self.inner.get(at.checked_sub(1)?)?;
        let Node { first, resolving, .. } = *self.nodes.get(node as usize)?;
        if first >= asked_at {
            return (first != NONE).then_some(first);
        }
        let mut best = resolving;
        while let Some(Node { up, begin, end, .. }) = self.nodes.get(node as usize) {
            let rules = self.no_resolve.get(*begin as usize..*end as usize).unwrap_or_default();
            // Ascending, as all rules of one network are.
            let late = rules.partition_point(|order| *order < asked_at);
            best = best.min(rules.get(late).copied().unwrap_or(NONE));
            node = *up;
        }
        (best != NONE).then_some(best)
    }

    /// Whether there are no networks.
    pub(crate) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// How many bytes it takes.
    pub(crate) fn memory(&self) -> usize {
        size_of::<A>() * self.starts.capacity()
            + size_of::<Node>() * self.nodes.capacity()
            + size_of::<u32>() * (self.inner.capacity() + self.no_resolve.capacity() + self.top.capacity())
    }

    /// Closes the open networks that end before `next` begins: after each, the one around it goes on.
    fn close(&mut self, open: &mut Vec<(A, u32)>, next: Option<A>) {
        while let Some((last, _)) = open.last().copied()
            && next.is_none_or(|next| last < next)
        {
            open.pop();
            if let Some(after) = last.next() {
                let around = open.last().map_or(NONE, |(_, node)| *node);
                self.begin_range(after, around);
            }
        }
    }

    fn begin_range(&mut self, start: A, node: u32) {
        // Of several that begin at one address the last counts: the network around those that end there, or
        // the innermost of those that begin there.
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.inner.pop();
        }
        self.starts.push(start);
        self.inner.push(node);
    }

    fn add_node(&mut self, parent: u32, group: &[Entry<A>]) -> u32 {
        let around = self.nodes.get(parent as usize).copied();
        let smallest = |of: &mut dyn Iterator<Item = &Entry<A>>, around: Option<u32>| {
            of.map(|entry| entry.order).min().unwrap_or(NONE).min(around.unwrap_or(NONE))
        };
        let first = smallest(&mut group.iter(), around.map(|node| node.first));
        let resolving =
            smallest(&mut group.iter().filter(|entry| entry.resolve), around.map(|node| node.resolving));
        let up = match around {
            Some(around) if around.begin == around.end => around.up,
            _ => parent,
        };
        let begin = self.no_resolve.len() as u32;
        // Those behind one that resolves are never reached.
        let reached = group.iter().filter(|entry| !entry.resolve && entry.order < resolving);
        self.no_resolve.extend(reached.map(|entry| entry.order));
        let end = self.no_resolve.len() as u32;
        self.nodes.push(Node { first, resolving, up, begin, end });
        (self.nodes.len() - 1) as u32
    }

    fn index(&mut self) {
        if self.starts.len() < INDEXED {
            return;
        }
        self.top = vec![0; (1 << 16) + 1];
        for start in &self.starts {
            self.top[start.top() + 1] += 1;
        }
        let mut sum = 0;
        for count in &mut self.top {
            sum += *count;
            *count = sum;
        }
    }
}
