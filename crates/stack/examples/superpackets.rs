//! `superpackets upload|download COUNT`: carries so many superpackets through one connection, for counting instructions
//! (`benches/instructions`).

#[path = "../benches/peer.rs"]
mod peer;

fn main() {
    let mut words = std::env::args().skip(1);
    let (Some(way), Some(Ok(count))) = (words.next(), words.next().map(|word| word.parse::<u32>())) else {
        eprintln!("superpackets upload|download COUNT");
        std::process::exit(2);
    };
    let mut peer = peer::Peer::new();
    let mut bytes = 0;
    for _ in 0..count {
        bytes += if way == "upload" { peer.upload() } else { peer.download() };
    }
    eprintln!("{bytes} bytes");
}
