//! Files that are none, or that are too long, wherever a user names one or the program looks for one by itself: said in
//! one line, at once, and without taking the machine's memory.
//!
//! Needs root, for the namespaces.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "the program under test is a child process")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const ONEWAY: &str = env!("CARGO_BIN_EXE_oneway");

/// Nothing here takes a second; whoever waits for ever is found all the same.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends it when it takes too long.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Waits until it captures.
    fn ready(&mut self) {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("ready: "), "{line:?}");
    }

    /// Ends it as a user does.
    fn stopped(self) -> Output {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
        let output = self.output();
        assert!(output.status.success(), "{output:?}");
        output
    }

    fn output(mut self) -> Output {
        let deadline = Instant::now() + PATIENCE;
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "still running");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut output = Output { status: self.0.wait().unwrap(), stdout: Vec::new(), stderr: Vec::new() };
        std::io::Read::read_to_end(&mut self.0.stdout.take().unwrap(), &mut output.stdout).unwrap();
        std::io::Read::read_to_end(&mut self.0.stderr.take().unwrap(), &mut output.stderr).unwrap();
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A shell that may use as much memory as the program needs without the files.
fn shell(script: &str, words: &[&str]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("ulimit -v 2000000; {script}"), ONEWAY]).args(words);
    command
}

fn oneway(words: &[&str]) -> Output {
    Running::start(&mut shell("exec \"$0\" \"$@\"", words)).output()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What is no file, or no file that can be read whole, and what is said of it.
fn bad(folder: &Path) -> Vec<(PathBuf, &'static str)> {
    let fifo = folder.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let huge = folder.join("huge");
    fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    vec![
        ("/dev/zero".into(), "it is a device and no file"),
        (fifo, "it is a FIFO and no file"),
        (folder.to_owned(), "it is a directory and no file"),
        (huge, " MiB, which is the limit"),
    ]
}

#[track_caller]
fn refused(words: &[&str], what: &str, file: &Path, why: &str) {
    let output = oneway(words);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("error: "), "{said}");
    for part in [what, &*file.to_string_lossy(), why, "; "] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    assert_eq!(text(&output.stdout), "", "{words:?}");
}

#[test]
fn every_key_that_names_a_file_refuses_what_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("oneway.toml");
    for (file, why) in bad(folder.path()) {
        let named = file.to_str().unwrap();
        refused(&["plan", "-c", named], "cannot read the configuration", &file, why);
        refused(&["run", "-c", named], "cannot read the configuration", &file, why);
        refused(&["check", "-c", named], "cannot read the configuration", &file, why);
        refused(&["import", named], "cannot read", &file, why);
        let tls = "type = \"trojan\"\nserver = \"192.0.2.1:443\"\npassword = \"x\"";
        for (what, text) in [
            ("rules.files", format!("[rules]\nfiles = [{named:?}]")),
            ("rules.geoip", format!("[rules]\ngeoip = {named:?}")),
            ("rules.asn", format!("[rules]\nasn = {named:?}")),
            ("rules.geosite", format!("[rules]\ngeosite = {named:?}")),
            (
                "rule-set.s.path",
                format!("[rule-set.s]\npath = {named:?}\nbehavior = \"domain\"\nformat = \"text\""),
            ),
            ("dns.ca", format!("[dns]\nca = {named:?}")),
            ("[outbound.t]", format!("[outbound.t]\n{tls}\nca = {named:?}")),
        ] {
            fs::write(&configuration, text).unwrap();
            refused(&["plan", "-c", configuration.to_str().unwrap()], what, &file, why);
        }
    }
}

/// A file in the folder, with this text.
fn written(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_authorities_that_the_environment_names_are_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = &written(&folder, "oneway.toml", "[dns]\nmode = \"real\"\nupstream = [\"tls://192.0.2.53\"]");
    for (file, why) in bad(folder.path()) {
        let script = "SSL_CERT_FILE=$2 exec unshare --net \"$0\" run -c \"$1\"";
        let mut running = Running::start(&mut shell(script, &[path, file.to_str().unwrap()]));
        running.ready();
        let output = running.stopped();
        // It goes on without this resolver, and never in the clear.
        let said = text(&output.stderr);
        for part in ["SSL_CERT_FILE", &*file.to_string_lossy(), why] {
            assert!(said.contains(part), "{part:?} in {said}");
        }
    }
}

/// Runs `check` in a shell, whose words are its script's.
fn checked(script: &str, words: &[&str], stdin: Option<&str>) -> Output {
    let mut command = shell(script, words);
    command.stdin(Stdio::piped());
    let mut running = Running::start(&mut command);
    let mut input = running.0.stdin.take().unwrap();
    if let Some(text) = stdin {
        input.write_all(text.as_bytes()).unwrap();
    }
    drop(input);
    running.output()
}

#[test]
fn a_shell_may_give_the_configuration_by_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = &*written(&folder, "written.toml", "[rules]\nfinal = \"block\"");
    let rules = &*written(&folder, "rules.txt", "MATCH,block\n");
    for (script, words, stdin) in [
        ("exec \"$0\" check -c <(cat \"$1\")", vec![path], None),
        ("exec \"$0\" check -c /dev/stdin", vec![], Some("[rules]\nfinal = \"block\"")),
        ("exec \"$0\" check -c /dev/stdin < \"$1\"", vec![path], None),
        ("exec \"$0\" check -c /dev/null", vec![], None),
        (
            "exec \"$0\" check -c <(printf '[rules]\\nfiles = [\"/dev/fd/5\"]') 5< <(cat \"$1\")",
            vec![rules],
            None,
        ),
        ("exec \"$0\" import /dev/stdin", vec![], Some("rules: ['MATCH,DIRECT']\n")),
    ] {
        let output = checked(script, &words, stdin);
        assert!(output.status.success(), "{script}: {output:?}");
    }
    // What comes by it is read: what is wrong there is found.
    let output = checked("exec \"$0\" plan -c <(echo nonsense = 1)", &[], None);
    assert!(text(&output.stderr).contains("unknown key `nonsense`"), "{output:?}");
    for (script, why) in [
        ("exec \"$0\" plan -c <(cat /dev/zero)", "it has more than 64 MiB"),
        ("exec \"$0\" plan -c /dev/stdin < /dev/zero", "it has more than 64 MiB"),
        ("exec \"$0\" plan -c <(false)", "nothing came by the pipe"),
    ] {
        let output = checked(script, &[], None);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).contains(why), "{script}: {output:?}");
    }
}

/// A host whose own files, and those that an instance has left, are no files.
const ODD_HOST: &str = "set -e
    ip link set lo up
    mkfifo \"$1/fifo\"
    truncate --size 1T \"$1/huge\"
    mount --bind /dev/zero /etc/hosts
    mount --bind \"$1/$2\" /etc/resolv.conf
    mount --bind \"$1/huge\" /etc/nsswitch.conf
    mount -t tmpfs none /run
    stem=/run/oneway-$(stat --dereference --format %i /proc/self/ns/net)
    mkfifo $stem.selected $stem.fake-ip $stem.selected.new $stem.fake-ip.new
    [ \"$3\" = - ] || mkfifo $stem.$3
    exec \"$0\" run --dns fake-ip";

fn on_odd_host(resolv_conf: &str, besides: &str) -> (tempfile::TempDir, Running) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "bash", "-c", ODD_HOST, ONEWAY]);
    command.arg(folder.path()).args([resolv_conf, besides]);
    let running = Running::start(&mut command);
    (folder, running)
}

#[test]
fn odd_files_of_the_host_do_not_keep_it_from_starting() {
    for resolv_conf in ["fifo", "huge"] {
        let (_folder, mut running) = on_odd_host(resolv_conf, "-");
        running.ready();
        running.stopped();
    }
}

#[test]
fn a_journal_that_is_no_file_is_named() {
    let (_folder, running) = on_odd_host("fifo", "journal");
    let output = running.output();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains(".journal") && said.contains("it is a FIFO and no file; "), "{said}");
}
