//! Answers of upstreams, for as long as they may be kept.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use lru::LruCache;

use crate::message::Key;

/// Answers kept, and their bytes as they came. In memory a byte takes up to 24: a string of one byte, as TXT records may be
/// made of, is two that come.
const MOST: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
const MOST_BYTES: usize = 1 << 20;
/// A longer answer is not kept.
const LARGEST: usize = 8 * 1024;

/// RFC 1035 allows 68 years; a day is enough to be mistaken for (RFC 8767, 4).
const LONGEST: u32 = 24 * 3600;
/// RFC 2308, 5: one to three hours work well. Programs that wait for a name to appear are better off with less.
const LONGEST_NEGATIVE: u32 = 300;
/// RFC 9520, 3.2: failures are kept for at least a second.
const FAILURE: u32 = 1;

/// So long after its end an answer is given at once, while it is asked for anew: it was good a moment ago …
const JUST_ENDED: Duration = Duration::from_secs(60);
/// … and so long where nobody answers (RFC 8767, 5: one to three days).
const STALE: Duration = Duration::from_secs(24 * 3600);
/// What who asks may keep an answer beyond its end for: until the new one is there …
const RENEWED_TTL: u32 = 1;
/// … and where nobody answers (RFC 8767, 4).
const STALE_TTL: u32 = 30;
/// When nobody has answered just now, nobody is asked: the failure recheck timer of RFC 8767, 5, which has 30 s. A link that
/// is back is noticed sooner so.
const RECHECK: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Cache {
    answers: LruCache<Key, Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    answer: Arc<Message>,
    since: Instant,
    ttl: u32,
    bytes: usize,
    /// It has records of the type that was asked for.
    is_positive: bool,
    /// When the question for a newer one failed.
    failed: Option<Instant>,
}

/// An answer beyond its end.
#[derive(Debug)]
pub(crate) struct Stale {
    pub(crate) answer: Message,
    /// It is to be given at once.
    pub(crate) at_once: bool,
    /// It is to be asked for anew.
    pub(crate) anew: bool,
}

impl Kept {
    /// How old it is when it ends.
    fn end(&self) -> Duration {
        Duration::from_secs(self.ttl.into())
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { answers: LruCache::new(MOST), bytes: 0 }
    }
}

impl Cache {
    /// An answer, its records as much older as it is.
    pub(crate) fn get(&mut self, key: &Key, now: Instant) -> Option<Message> {
        let kept = self.answers.get(key)?;
        let age = now.saturating_duration_since(kept.since);
        if age >= kept.end() {
            if !kept.is_positive || age >= kept.end() + STALE {
                self.forget(key);
            }
            return None;
        }
        let mut answer = Message::clone(&kept.answer);
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for record in records(&mut answer) {
            record.decrement_ttl(age);
        }
        Some(answer)
    }

    /// An answer beyond its end, if it is a name's that there was.
    pub(crate) fn stale(&mut self, key: &Key, now: Instant) -> Option<Stale> {
        let kept = self.answers.get(key).filter(|kept| kept.is_positive)?;
        let beyond = now.saturating_duration_since(kept.since).checked_sub(kept.end())?;
        if beyond >= STALE {
            return None;
        }
        let failed = kept.failed.is_some_and(|at| now.saturating_duration_since(at) < RECHECK);
        let at_once = failed || kept.failed.is_none() && beyond < JUST_ENDED;
        let mut answer = Message::clone(&kept.answer);
        let ttl = if kept.failed.is_some() { STALE_TTL } else { RENEWED_TTL };
        records(&mut answer).for_each(|record| record.ttl = ttl);
        Some(Stale { answer, at_once, anew: !failed })
    }

    /// Forgets an answer.
    pub(crate) fn forget(&mut self, key: &Key) {
        if let Some(kept) = self.answers.pop(key) {
            self.bytes -= kept.bytes;
        }
    }

    /// Keeps an answer, if it may be kept.
    pub(crate) fn put(&mut self, key: Key, answer: &Arc<Message>, now: Instant) {
        let Some(ttl) = lifetime(&key, answer).filter(|ttl| *ttl > 0) else { return };
        let Some(bytes) = answer.to_vec().ok().map(|bytes| bytes.len()).filter(|bytes| *bytes <= LARGEST)
        else {
            return;
        };
        // What was known is better than that nobody answers.
        if answer.metadata.response_code == ResponseCode::ServFail
            && let Some(known) = self.answers.peek_mut(&key).filter(|kept| kept.is_positive)
            && now.saturating_duration_since(known.since) < known.end() + STALE
        {
            known.failed = Some(now);
            return;
        }
        let is_positive = is_positive(&key, answer);
        let kept = Kept { answer: Arc::clone(answer), since: now, ttl, bytes, is_positive, failed: None };
        self.bytes += bytes;
        if let Some((_, former)) = self.answers.push(key, kept) {
            self.bytes -= former.bytes;
        }
        while self.bytes > MOST_BYTES
            && let Some((_, oldest)) = self.answers.pop_lru()
        {
            self.bytes -= oldest.bytes;
        }
    }
}

/// Every record of a message.
fn records(message: &mut Message) -> impl Iterator<Item = &mut Record> {
    message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals)
}

/// Whether an answer has what was asked for, and not only that it would be elsewhere (RFC 2308, 2.2).
fn is_positive(key: &Key, answer: &Message) -> bool {
    let asked = key.kind();
    answer.metadata.response_code == ResponseCode::NoError
        && answer.answers.iter().any(|record| asked == RecordType::ANY || record.record_type() == asked)
}

/// For how many seconds an answer may be kept.
fn lifetime(key: &Key, answer: &Message) -> Option<u32> {
    let shortest = || answer.answers.iter().map(ttl).min();
    match answer.metadata.response_code {
        ResponseCode::NoError if is_positive(key, answer) => shortest().map(|ttl| ttl.min(LONGEST)),
        // RFC 2308, 5: for as long as the SOA record says, and not at all without one.
        ResponseCode::NoError | ResponseCode::NXDomain => answer.authorities.iter().find_map(|record| {
            let RData::SOA(soa) = &record.data else { return None };
            let negative = ttl(record).min(soa.minimum).min(LONGEST_NEGATIVE);
            Some(negative.min(shortest().unwrap_or(u32::MAX)))
        }),
        ResponseCode::ServFail => Some(FAILURE),
        _ => None,
    }
}

/// A record's time to live: one that is no positive number is none (RFC 2181, 8).
fn ttl(record: &Record) -> u32 {
    if record.ttl > i32::MAX.cast_unsigned() { 0 } else { record.ttl }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{OpCode, Query};
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, CNAME, SOA, TXT};

    use super::*;
    use crate::message::Asked;

    fn name(n: usize) -> Name {
        Name::from_ascii(format!("{n}.example.")).unwrap()
    }

    fn key(n: usize) -> Key {
        Asked::own(name(n), RecordType::A).key()
    }

    fn answer(n: usize, ttls: &[u32]) -> Arc<Message> {
        let mut message = Message::response(1, OpCode::Query);
        message.add_query(Query::query(name(n), RecordType::A));
        for ttl in ttls {
            message.add_answer(Record::from_rdata(name(n), *ttl, RData::A(A::new(192, 0, 2, 1))));
        }
        Arc::new(message)
    }

    fn negative(code: ResponseCode, soa: Option<(u32, u32)>) -> Arc<Message> {
        let mut message = Message::response(1, OpCode::Query);
        message.metadata.response_code = code;
        if let Some((ttl, minimum)) = soa {
            let data = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
            message.add_authority(Record::from_rdata(Name::root(), ttl, RData::SOA(data)));
        }
        Arc::new(message)
    }

    #[test]
    fn an_answer_ages_and_ends_with_its_shortest_record() {
        let (mut cache, begin) = (Cache::default(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        cache.put(key(1), &answer(1, &[60, 10]), begin);
        let ttls = |message: Message| message.answers.iter().map(|record| record.ttl).collect::<Vec<_>>();
        assert_eq!(cache.get(&key(1), after(4)).map(ttls), Some(vec![56, 6]));
        assert_eq!(cache.get(&key(1), after(9)).map(ttls), Some(vec![51, 1]));
        assert!(cache.get(&key(1), after(10)).is_none());
        assert!(cache.get(&key(1), after(10 + 24 * 3600)).is_none());
        assert!(cache.get(&key(1), begin).is_none(), "it is gone for good");
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn an_answer_beyond_its_end_is_better_than_none() {
        let (mut cache, begin) = (Cache::default(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        let stale = |cache: &mut Cache, at| {
            let stale = cache.stale(&key(1), after(at))?;
            Some((stale.answer.answers[0].ttl, stale.at_once, stale.anew))
        };
        cache.put(key(1), &answer(1, &[10]), begin);
        assert_eq!(stale(&mut cache, 9), None, "it is fresh");
        assert_eq!(stale(&mut cache, 10), Some((1, true, true)));
        assert_eq!(stale(&mut cache, 69), Some((1, true, true)));
        assert_eq!(stale(&mut cache, 70), Some((1, false, true)), "only where nobody answers");
        cache.put(key(1), &negative(ResponseCode::ServFail, None), after(80));
        assert!(cache.get(&key(1), after(80)).is_none());
        assert_eq!(stale(&mut cache, 80), Some((30, true, false)), "nobody answered just now");
        assert_eq!(stale(&mut cache, 85), Some((30, false, true)));
        assert_eq!(stale(&mut cache, 10 + 24 * 3600), None);
        cache.put(key(1), &answer(1, &[10]), after(90));
        assert_eq!(stale(&mut cache, 100), Some((1, true, true)), "it was renewed");
        cache.put(key(1), &negative(ResponseCode::NXDomain, Some((60, 60))), after(110));
        assert_eq!(stale(&mut cache, 110), None, "there is no such name any more");
        assert!(cache.get(&key(1), after(110)).is_some());
        assert_eq!(stale(&mut cache, 200), None, "nor is that kept beyond its end");
    }

    #[test]
    fn negative_answers_live_as_long_as_their_soa_record_says() {
        for (code, soa, ttl) in [
            (ResponseCode::NXDomain, Some((60, 30)), Some(30)),
            (ResponseCode::NoError, Some((20, 30)), Some(20)),
            (ResponseCode::NXDomain, Some((9000, 9000)), Some(300)),
            (ResponseCode::NXDomain, None, None),
            (ResponseCode::NoError, None, None),
            (ResponseCode::ServFail, None, Some(1)),
            (ResponseCode::Refused, None, None),
        ] {
            assert_eq!(lifetime(&key(1), &negative(code, soa)), ttl, "{code}");
        }
        let positive = |ttl| lifetime(&key(1), &answer(1, &[ttl]));
        assert_eq!((positive(i32::MAX as u32), positive(u32::MAX)), (Some(LONGEST), Some(0)));
    }

    #[test]
    fn nothing_is_kept_that_must_not_be() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(key(1), &answer(1, &[60, 0]), now);
        cache.put(key(2), &answer(2, &[60; LARGEST / 16]), now);
        assert!(cache.get(&key(1), now).is_none() && cache.get(&key(2), now).is_none());
    }

    /// That a name has another one, and that one no address.
    #[test]
    fn an_alias_alone_is_a_negative_answer() {
        let mut message = Message::clone(&negative(ResponseCode::NoError, Some((60, 60))));
        let alias = RData::CNAME(CNAME(name(2)));
        message.add_answer(Record::from_rdata(name(1), 86_400, alias));
        assert_eq!(lifetime(&key(1), &message), Some(60));
        let (mut cache, begin) = (Cache::default(), Instant::now());
        cache.put(key(1), &Arc::new(message), begin);
        let after = begin + Duration::from_secs(61);
        assert!(cache.get(&key(1), begin).is_some());
        assert!(cache.get(&key(1), after).is_none() && cache.stale(&key(1), after).is_none());
    }

    #[test]
    fn it_does_not_grow_beyond_its_limits() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for n in 0..3 * MOST.get() {
            cache.put(key(n), &answer(n, &[60; 20]), now);
            cache.put(key(n), &answer(n, &[60; 10]), now);
        }
        assert!(cache.answers.len() <= MOST.get() && cache.bytes <= MOST_BYTES);
        let counted: usize = cache.answers.iter().map(|(_, kept)| kept.bytes).sum();
        assert_eq!(cache.bytes, counted);
        assert!(cache.get(&key(3 * MOST.get() - 1), now).is_some());
        assert!(cache.get(&key(0), now).is_none());
    }

    /// Who asks for what makes much of few bytes.
    #[test]
    fn what_takes_much_memory_counts_as_much() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let strings = |n: usize| vec!["x".to_owned(); n];
        let text = |n, count| {
            let mut message = Message::response(1, OpCode::Query);
            message.add_query(Query::query(name(n), RecordType::TXT));
            message.add_answer(Record::from_rdata(name(n), 60, RData::TXT(TXT::new(strings(count)))));
            Arc::new(message)
        };
        let key = |n| Asked::own(name(n), RecordType::TXT).key();
        for n in 0..MOST.get() {
            cache.put(key(n), &text(n, 4000), now);
        }
        let kept: usize = cache.answers.len() * 4000;
        assert!((1..MOST_BYTES).contains(&kept), "{kept} strings");
        cache.put(key(0), &text(0, 8000), now);
        assert!(cache.get(&key(0), now).is_none());
    }
}
