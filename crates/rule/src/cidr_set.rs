//! Networks that nest, compiled to disjoint ranges that know the networks around them.
//!
//! Two networks either nest or do not meet, so they form a forest. Between their borders the innermost
//! network is constant: a binary search finds it, and the chain of its ancestors holds all rules that apply.
//! Each node carries the first rule without conditions among itself and its ancestors, so that the chain is
//! walked only through nodes that have conditional rules.

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
    /// Whether it has to be asked if it applies.
    pub(crate) conditional: bool,
}

/// "None" among orders and nodes.
const NONE: u32 = u32::MAX;

/// From this many ranges on, 256 KiB of index are worth it.
const INDEXED: usize = 1024;

/// One network; all rules on it.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// The first unconditional rule of this network and those around it.
    sure: u32,
    /// The nearest network around this one that has conditional rules.
    up: u32,
    /// This network's conditional rules: a range of `Cidrs::conditional`.
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
    conditional: Vec<u32>,
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
            conditional: Vec::new(),
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
        cidrs.index();
        cidrs
    }

    /// The position of the first rule that applies to `addr`, asking `admits` for those with conditions.
    pub(crate) fn find(&self, addr: A, admits: impl Fn(u32) -> bool) -> Option<u32> {
        let (from, to) = match (self.top.get(addr.top()), self.top.get(addr.top() + 1)) {
            (Some(from), Some(to)) => (*from as usize, *to as usize),
            _ => (0, self.starts.len()),
        };
        let at = from + self.starts.get(from..to)?.partition_point(|start| *start <= addr);
        let mut node = *self.inner.get(at.checked_sub(1)?)?;
        let mut best = self.nodes.get(node as usize)?.sure;
        while let Some(Node { up, begin, end, .. }) = self.nodes.get(node as usize) {
            let rules = self.conditional.get(*begin as usize..*end as usize).unwrap_or_default();
            if let Some(found) = rules.iter().take_while(|order| **order < best).find(|order| admits(**order))
            {
                best = *found;
            }
            node = *up;
        }
        (best != NONE).then_some(best)
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
        let own = group.iter().find(|entry| !entry.conditional).map_or(NONE, |entry| entry.order);
        let sure = own.min(around.map_or(NONE, |around| around.sure));
        let up = match around {
            Some(around) if around.begin == around.end => around.up,
            _ => parent,
        };
        let begin = self.conditional.len() as u32;
        // Those behind the sure rule are never reached.
        self.conditional.extend(
            group.iter().filter(|entry| entry.conditional && entry.order < sure).map(|entry| entry.order),
        );
        let end = self.conditional.len() as u32;
        self.nodes.push(Node { sure, up, begin, end });
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
