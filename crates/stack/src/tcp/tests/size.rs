//! What one connection costs.

use super::super::*;

/// A connection without data is this and nothing on the heap, whatever it has carried before.
#[test]
fn a_connection_is_small() {
    let size = size_of::<Connection<Box<[u8]>>>();
    assert!(size <= 600, "{size} bytes");
}

#[test]
fn an_idle_connection_owns_no_buffer() {
    use super::bench::*;
    let mut bench = Bench::open_with(config(), with_sack(), true);
    for _ in 0..20 {
        bench.write(20_000);
        let ahead = bench.seg().seq(bench.seq + 10).len(3000);
        bench.say(ahead);
        bench.data(3010);
        bench.ack = bench.conn.outstanding().1;
        while !bench.conn.all_acknowledged() {
            bench.say(bench.seg());
            bench.ack = bench.conn.outstanding().1;
        }
    }
    bench.conn.receive(|bytes| bytes.len());
    assert_eq!(bench.conn.held(), 0);
    assert_eq!((bench.conn.rcv.capacity(), bench.conn.board.capacity() <= 4), (0, true));
    assert!(bench.conn.queue.capacity() <= 4);
}
