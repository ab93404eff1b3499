//! A bus with a systemd-resolved on it, both played: it takes what org.freedesktop.resolve1(5) says of one link's servers,
//! and refuses calls whose types are others. That the real one takes the same is not shown by it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;

/// Where it listens: the program under test is this process.
static SOCKET: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    (dir, path)
});

/// Has this process find the bus; while it has one thread.
#[allow(unsafe_code, reason = "the environment is set")]
pub fn announce() {
    // SAFETY: no other thread is there that could read it.
    unsafe { std::env::set_var("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", SOCKET.1.display())) };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Helpful,
    /// It takes connections and says nothing.
    Silent,
    /// It says what is no message.
    Nonsense,
    /// It answers every call with an error.
    Refusing,
}

#[derive(Debug, Clone, Default)]
pub struct Link {
    pub servers: Vec<Vec<u8>>,
    pub domains: Vec<(String, bool)>,
    pub default_route: bool,
    pub modes: BTreeMap<String, String>,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    links: BTreeMap<u32, Link>,
    flushed: usize,
}

pub struct Bus(Arc<Mutex<State>>);

impl Bus {
    /// Nobody else's bus is there meanwhile.
    pub fn alone(work: impl FnOnce()) {
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        work();
    }

    pub fn start(mood: Mood) -> Self {
        let _ = std::fs::remove_file(&SOCKET.1);
        let listener = UnixListener::bind(&SOCKET.1).unwrap();
        let state = Arc::new(Mutex::new(State { mood, links: BTreeMap::new(), flushed: 0 }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Self(state)
    }

    pub fn be(&self, mood: Mood) {
        self.0.lock().unwrap().mood = mood;
    }

    pub fn link(&self, index: u32) -> Link {
        self.0.lock().unwrap().links.get(&index).cloned().unwrap_or_default()
    }

    pub fn forget(&self, index: u32) {
        self.0.lock().unwrap().links.remove(&index);
    }

    pub fn set_domains(&self, index: u32, domains: Vec<(String, bool)>) {
        self.0.lock().unwrap().links.entry(index).or_default().domains = domains;
    }

    pub fn flushed(&self) -> usize {
        self.0.lock().unwrap().flushed
    }
}

/// What is read and written from a place that only goes forward.
#[derive(Default)]
struct Bytes(Vec<u8>, usize);

impl Bytes {
    fn pad(&mut self, to: usize) {
        self.1 = self.1.div_ceil(to) * to;
    }

    fn number(&mut self) -> u32 {
        self.pad(4);
        self.1 += 4;
        u32::from_le_bytes(self.0[self.1 - 4..self.1].try_into().unwrap())
    }

    fn some(&mut self, length: usize) -> Vec<u8> {
        self.1 += length;
        self.0[self.1 - length..self.1].to_vec()
    }

    fn text(&mut self) -> String {
        let length = self.number() as usize;
        let text = self.some(length);
        assert_eq!(self.some(1), [0]);
        String::from_utf8(text).unwrap()
    }

    fn short(&mut self) -> String {
        let length = self.some(1)[0].into();
        let text = self.some(length);
        assert_eq!(self.some(1), [0]);
        String::from_utf8(text).unwrap()
    }

    fn put_pad(&mut self, to: usize) {
        while !self.0.len().is_multiple_of(to) {
            self.0.push(0);
        }
    }

    fn put_number(&mut self, number: u32) {
        self.put_pad(4);
        self.0.extend(number.to_le_bytes());
    }

    fn put_text(&mut self, text: &str) {
        self.put_number(text.len() as u32);
        self.0.extend(text.bytes());
        self.0.push(0);
    }

    fn put_short(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.bytes());
        self.0.push(0);
    }
}

struct Call {
    serial: u32,
    path: String,
    member: String,
    types: String,
    body: Bytes,
}

fn serve(mut stream: UnixStream, state: &Mutex<State>) -> Option<()> {
    let mood = state.lock().unwrap().mood;
    match mood {
        Mood::Silent => {
            // Until the other end has had enough.
            while stream.read(&mut [0; 64]).ok()? > 0 {}
            return None;
        }
        Mood::Nonsense => {
            stream.write_all(b"OK 00\r\nnonsense, and much of it, with no end in sight").ok()?;
            while stream.read(&mut [0; 64]).ok()? > 0 {}
            return None;
        }
        Mood::Helpful | Mood::Refusing => {}
    }
    let uid = rustix::process::geteuid().as_raw().to_string();
    let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
    assert_eq!(line(&mut stream)?, format!("\0AUTH EXTERNAL {hex}"));
    stream.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n").ok()?;
    assert_eq!(line(&mut stream)?, "BEGIN");
    let mut is_first = true;
    loop {
        let mut call = call(&mut stream)?;
        assert_eq!(call.member == "Hello", is_first, "{}", call.member);
        if std::mem::take(&mut is_first) {
            // As the real one does, unasked.
            stream.write_all(&message(4, 7, 0, "s", |body| body.put_text("a signal"))).ok()?;
            stream.write_all(&message(2, 8, call.serial, "s", |body| body.put_text(":1.1"))).ok()?;
            continue;
        }
        let answer = match mood {
            Mood::Refusing => Err("org.freedesktop.DBus.Error.AccessDenied"),
            _ => answer(&mut call, &mut state.lock().unwrap()),
        };
        let bytes = match answer {
            Ok((types, body)) => message(2, 9, call.serial, types, |out| out.0.extend(body.0)),
            Err(error) => message(3, 9, call.serial, "s", |out| out.put_text(error)),
        };
        stream.write_all(&bytes).ok()?;
    }
}

fn line(stream: &mut UnixStream) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        line.extend(byte);
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).ok()
}

fn call(stream: &mut UnixStream) -> Option<Call> {
    let mut head = vec![0; 16];
    stream.read_exact(&mut head).ok()?;
    assert_eq!(head[..4], [b'l', 1, 2, 1]);
    let mut head = Bytes(head, 4);
    let (body, serial, fields) = (head.number() as usize, head.number(), head.number() as usize);
    let mut rest = vec![0; fields.div_ceil(8) * 8];
    stream.read_exact(&mut rest).ok()?;
    let mut found = BTreeMap::new();
    let mut rest = Bytes(rest, 0);
    while rest.1 < fields {
        rest.pad(8);
        let number = rest.some(1)[0];
        let value = match rest.short().as_str() {
            "s" | "o" => rest.text(),
            "g" => rest.short(),
            other => panic!("a field of type {other}"),
        };
        found.insert(number, value);
    }
    let mut bytes = vec![0; body];
    stream.read_exact(&mut bytes).ok()?;
    let mut take = |number| found.remove(&number).unwrap_or_default();
    Some(Call { serial, path: take(1), member: take(3), types: take(8), body: Bytes(bytes, 0) })
}

fn message(kind: u8, serial: u32, answers: u32, types: &str, fill: impl FnOnce(&mut Bytes)) -> Vec<u8> {
    let mut body = Bytes::default();
    fill(&mut body);
    let mut out = Bytes(vec![b'l', kind, 1, 1], 0);
    out.put_number(body.0.len() as u32);
    out.put_number(serial);
    let mut fields = Bytes::default();
    fields.0.push(5);
    fields.put_short("u");
    fields.put_number(answers);
    if kind == 3 {
        fields.put_pad(8);
        fields.0.push(4);
        fields.put_short("s");
        fields.put_text("org.freedesktop.DBus.Error.Failed");
    }
    if !types.is_empty() {
        fields.put_pad(8);
        fields.0.push(8);
        fields.put_short("g");
        fields.put_short(types);
    }
    out.put_number(fields.0.len() as u32);
    out.0.extend(fields.0);
    out.put_pad(8);
    out.0.extend(body.0);
    out.0
}

type Answer = Result<(&'static str, Bytes), &'static str>;

fn answer(call: &mut Call, state: &mut State) -> Answer {
    let nothing = || Ok(("", Bytes::default()));
    let body = &mut call.body;
    match (call.member.as_str(), call.types.as_str()) {
        ("FlushCaches", "") => state.flushed += 1,
        ("SetLinkDNS", "ia(iay)") => {
            let link = state.links.entry(body.number()).or_default();
            let end = body.number() as usize;
            body.pad(8);
            let end = body.1 + end;
            link.servers.clear();
            while body.1 < end {
                body.pad(8);
                assert!([2, 10].contains(&body.number()));
                let length = body.number() as usize;
                link.servers.push(body.some(length));
            }
        }
        ("SetLinkDomains", "ia(sb)") => {
            let link = state.links.entry(body.number()).or_default();
            let end = body.number() as usize;
            body.pad(8);
            let end = body.1 + end;
            link.domains.clear();
            while body.1 < end {
                body.pad(8);
                link.domains.push((body.text(), body.number() == 1));
            }
        }
        ("SetLinkDefaultRoute", "ib") => {
            let index = body.number();
            state.links.entry(index).or_default().default_route = body.number() == 1;
        }
        (set @ ("SetLinkDNSSEC" | "SetLinkDNSOverTLS" | "SetLinkMulticastDNS" | "SetLinkLLMNR"), "is") => {
            let link = state.links.entry(body.number()).or_default();
            link.modes.insert(set.replace("SetLink", ""), body.text());
        }
        ("RevertLink", "i") => drop(state.links.remove(&body.number())),
        ("GetLink", "i") => {
            let mut path = Bytes::default();
            path.put_text(&format!("/org/freedesktop/resolve1/link/_{}", body.number()));
            return Ok(("o", path));
        }
        ("Get", "ss") => {
            assert_eq!(body.text(), "org.freedesktop.resolve1.Link");
            let index = call.path.rsplit('_').next().unwrap().parse().unwrap();
            let link = state.links.get(&index).cloned().unwrap_or_default();
            let (mut out, mut list) = (Bytes::default(), Bytes::default());
            let kind = match body.text().as_str() {
                "DNS" => {
                    for server in &link.servers {
                        list.put_pad(8);
                        list.put_number(2);
                        list.put_number(server.len() as u32);
                        list.0.extend(server);
                    }
                    "a(iay)"
                }
                "Domains" => {
                    for (name, routes) in &link.domains {
                        list.put_pad(8);
                        list.put_text(name);
                        list.put_number((*routes).into());
                    }
                    "a(sb)"
                }
                other => panic!("property {other}"),
            };
            out.put_short(kind);
            out.put_number(list.0.len() as u32);
            out.put_pad(8);
            out.0.extend(list.0);
            return Ok(("v", out));
        }
        _ => return Err("org.freedesktop.DBus.Error.UnknownMethod"),
    }
    nothing()
}
