//! The command line as its users meet it: words, exit codes, JSON; and one instance after another in a network
//! namespace of its own.
//!
//! Needs root, for the namespaces.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "the program under test is a child process")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

const ONEWAY: &str = env!("CARGO_BIN_EXE_oneway");

/// The answer of `oneway` to some words.
fn oneway(words: &[&str]) -> Output {
    Command::new(ONEWAY).args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Asserts that the words fail with one line on stderr and nothing on stdout.
#[track_caller]
fn fails(words: &[&str], code: i32, line: &str) {
    let output = oneway(words);
    assert_eq!(text(&output.stderr), format!("error: {line}\n"), "{words:?}");
    assert_eq!(text(&output.stdout), "", "{words:?}");
    assert_eq!(output.status.code(), Some(code), "{words:?}");
}

/// The one JSON document on stdout.
#[track_caller]
fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("oneway.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    fails(&[], 2, "no command is given; `oneway help` lists them");
    fails(&["rum"], 2, "unrecognized subcommand 'rum'; tip: a similar subcommand exists: 'run'");
    fails(
        &["run", "--stack", "users"],
        2,
        "invalid value 'users' for '--stack <user|system>': \"users\" is no stack; use user or system",
    );
    fails(
        &["plan", "--include", "10.0.0.1/8"],
        2,
        "invalid value '10.0.0.1/8' for '--include <CIDR>': \"10.0.0.1/8\" has host bits set; the prefix is 10.0.0.0/8",
    );
    fails(
        &["run", "--mtu", "1279"],
        2,
        "invalid value '1279' for '--mtu <N>': 1279 is no MTU; use 1280 to 65535",
    );
    for command in ["run", "plan", "check"] {
        fails(
            &[command, "--fault", "loss=101%"],
            2,
            "invalid value 'loss=101%' for '--fault <SPEC>': cannot read the fault \"loss=101%\"; write for example \
             loss=1%,delay=20ms,reorder=2%,duplicate=1%,corrupt=0.1%,seed=7",
        );
    }
    fails(
        &["run", "--confirm", "0"],
        2,
        "invalid value '0' for '--confirm <SECONDS>': \"0\" is no time to confirm in; give a number of seconds, 1 or more",
    );
    fails(&["run", "--stack"], 2, "a value is required for '--stack <user|system>' but none was supplied");
    fails(&["run", "--control"], 2, "a value is required for '--control <PATH>' but none was supplied");
    fails(&["status", "-v", "-q"], 2, "the argument '--verbose...' cannot be used with '--quiet...'");
    let output = oneway(&["run", "--api", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).ends_with(" is not available in this version\n"), "{output:?}");
    for (option, value) in
        [("--exclude-process", "a/b"), ("--exclude-process", ""), ("--exclude-cgroup", "/..")]
    {
        assert_eq!(oneway(&["run", option, value]).status.code(), Some(2), "{option} {value:?}");
    }
    fails(&["exclude"], 2, "the following required arguments were not provided: <CMD>...");
}

#[test]
fn a_wrong_proxy_does_not_show_its_password() {
    fails(
        &["run", "--proxy", "socks9://me:secret@proxy.example:1080"],
        2,
        "--proxy: \"socks9\" is no proxy protocol; use socks5, socks5h, socks4, socks4a, http, https or trojan",
    );
}

#[test]
fn wrong_configuration_names_the_place() {
    let (_folder, path) = file("[capture]\nmode = \"tun\"\nstak = \"user\"\n[tun]\nmtu = 1\n");
    let line = format!(
        "{path}:3:1: unknown key `stak` in [capture]; the keys are mode, stack, include, exclude, exclude-uid, \
         exclude-cgroup, exclude-process, forwarded, ipv6, strict (and 1 more; `oneway check` lists all)"
    );
    for command in ["run", "plan"] {
        fails(&[command, "-c", &path], 2, &line);
    }
    fails(
        &["run", "-c", "/nonexistent.toml"],
        2,
        "cannot read the configuration \"/nonexistent.toml\": No such file or directory (os error 2); check the path \
         and its permissions",
    );
}

#[test]
fn check_lists_every_error() {
    let (_folder, path) = file("[capture]\nstack = 1\n[tun]\nmtu = 1\n");
    let output = oneway(&["check", "-c", &path]);
    assert_eq!(
        text(&output.stdout),
        format!(
            "error: {path}:2:9: capture.stack: expected a string, found an integer\n\
             error: {path}:4:7: tun.mtu: 1 is no MTU; use 1280 to 65535\n2 errors\n"
        )
    );
    assert_eq!(output.status.code(), Some(3));
    let output = oneway(&["check", "--json", "-c", &path]);
    assert_eq!(
        document(&output),
        json!({ "ok": false, "warnings": [], "errors": [
            { "file": path, "line": 2, "column": 9,
              "message": "capture.stack: expected a string, found an integer" },
            { "file": path, "line": 4, "column": 7, "message": "tun.mtu: 1 is no MTU; use 1280 to 65535" },
        ]})
    );
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn check_reads_the_rules_too() {
    let (_folder, path) = file("[rules]\nlist = [\n  \"MATCH,direct\",\n  \"MATCH,nowhere\",\n]\n");
    let output = oneway(&["check", "-c", &path]);
    assert_eq!(
        text(&output.stdout),
        format!(
            "error: {path}:4:3: rule \"MATCH,nowhere\", column 7: there is no outbound named \"nowhere\"\n1 error\n"
        )
    );
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn check_reads_the_rules_whatever_else_is_wrong() {
    let rule = "rule \"MATCH,nowhere\", column 7: there is no outbound named \"nowhere\"";
    for (other, place, why) in [
        ("tun.mtu = 1", "1:11", "tun.mtu: 1 is no MTU; use 1280 to 65535"),
        (
            "tun.pcap = \"/proc/nosuch/x\"",
            "1:12",
            "cannot write packets to \"/proc/nosuch/x\": No such file or directory (os error 2); choose another file with --pcap",
        ),
    ] {
        let (_folder, path) = file(&format!("{other}\nrules.list = [\"MATCH,nowhere\"]\n"));
        let output = oneway(&["check", "-c", &path]);
        let expected = format!("error: {path}:{place}: {why}\nerror: {path}:2:15: {rule}\n2 errors\n");
        assert_eq!(text(&output.stdout), expected);
        assert_eq!(output.status.code(), Some(3));
    }
}

#[test]
fn check_names_the_place_of_a_loop() {
    let here = Namespace::new();
    let config = "[tun]\naddresses = [\"10.88.0.1/24\"]\n[outbound.local]\ntype = \"socks5\"\n\
                  server = \"127.0.0.1:1080\"\n[rules]\nfinal = \"local\"\n";
    let (_folder, path) = file(config);
    let output = here.oneway(&["check", "-c", &path]);
    assert_eq!(
        text(&output.stdout),
        format!(
            "error: {path}:3:11: outbound \"local\": the proxy 127.0.0.1:1080 is a program of this host that \
             does not run yet, and what it sends would be captured and come back to it; start it as `oneway exclude -- \
             PROGRAM …`, and then look again\n1 error\n"
        )
    );
    assert_eq!(output.status.code(), Some(3));
    // A network of this host, of which the configuration knows nothing.
    let network = "ip link add lan0 type veth peer name far0 && ip address add 192.0.2.1/24 dev lan0 && ip link set lan0 up";
    assert!(here.command("sh", &["-c", network]).status().unwrap().success());
    let (_folder, path) = file("[tun]\naddresses = [\"192.0.2.9/28\"]\n");
    let output = here.oneway(&["check", "-c", &path, "--json"]);
    let error = &document(&output)["errors"][0];
    assert_eq!((&error["line"], &error["column"]), (&json!(2), &json!(13)), "{output:?}");
    assert!(error["message"].as_str().unwrap().contains("192.0.2.9/28 overlaps"), "{error}");
}

#[test]
fn why_and_doctor_take_the_options_of_run() {
    let here = Namespace::new();
    let output = here.oneway(&["why", "192.0.2.1", "--exclude-uid", "0", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer = document(&output)["answers"][0].clone();
    assert_eq!((&answer["target"], &answer["captured"]), (&json!("192.0.2.1:443"), &json!(false)));
    let output =
        here.oneway(&["why", "192.0.2.1:123", "--udp", "--proxy", "http://198.51.100.1:8080", "--json"]);
    let answer = document(&output)["answers"][0].clone();
    assert_eq!((&answer["captured"], &answer["outbound"]), (&json!(true), &json!("proxy")));
    assert_eq!(
        (&answer["dials"], &answer["why"]),
        (&json!([]), &json!("http carries no UDP: it is refused"))
    );
    let output = here.oneway(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(document(&output)["verdict"], "proven");
    let before = here.state();
    let text_of = |words: &[&str]| text(&here.oneway(words).stdout).to_owned();
    assert!(text_of(&["doctor"]).ends_with("\nloop-free: proven\n"));
    assert!(text_of(&["why", "192.0.2.1"]).starts_with("target     tcp 192.0.2.1:443\n"));
    assert_eq!(here.state(), before);
    for command in [&["doctor"][..], &["why", "192.0.2.1"]] {
        let output = oneway(&[command, &["--mtu", "1"]].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    fails(&["why"], 2, "the following required arguments were not provided: <DST[:PORT]>");
    fails(&["why", "a.example:http"], 2, "\"http\" is no port; give a number up to 65535");
    fails(
        &["why", "[2001:db8:2::1]:443", "--from", "192.0.2.2"],
        2,
        "\"[2001:db8:2::1]:443\" has no address of IPv4, and nothing is sent from 192.0.2.2 to another one; give both of one \
         family",
    );
}

#[test]
fn check_of_a_good_configuration() {
    let output = oneway(&["check"]);
    assert_eq!((text(&output.stdout), output.status.code()), ("ok\n", Some(0)));
    let (_folder, path) = file("dns.mode = \"real\"\n");
    let output = oneway(&["check", "-c", &path]);
    assert_eq!((text(&output.stdout), output.status.code()), ("ok\n", Some(0)));
}

#[test]
fn errors_are_json_too() {
    let output = oneway(&["run", "--json", "--nonsense"]);
    assert_eq!(
        document(&output),
        json!({ "error": "unexpected argument '--nonsense' found", "exit_code": 2 })
    );
    assert_eq!(text(&output.stderr), "error: unexpected argument '--nonsense' found\n");
    let output = oneway(&["why", "a b", "--json"]);
    assert_eq!((output.status.code(), &document(&output)["exit_code"]), (Some(2), &json!(2)));
}

#[test]
fn a_configuration_of_clash_is_imported() {
    let clash = "proxies:\n  - {name: a b, type: socks5, server: 192.0.2.1, port: 1080, udp: true}\nrules:\n  - MATCH,a b\n";
    let (_folder, path) = file(clash);
    let output = oneway(&["import", &path]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), format!("note: {path}:2:1: the proxy \"a b\" is called \"a-b\"\n"));
    let (_second, imported) = file(text(&output.stdout));
    let checked = oneway(&["check", "-c", &imported]);
    assert_eq!(text(&checked.stdout), "ok\n");
    let document = document(&oneway(&["import", &path, "--json"]));
    assert_eq!(document["notes"][0]["line"], 2);
    fails(
        &["import", "/nonexistent"],
        2,
        "cannot read \"/nonexistent\": No such file or directory (os error 2); \
        check the path, its permissions and that it is a text",
    );
}

/// As clients for Clash write it, with all that one usually has.
const CLASH: &str = "\
mixed-port: 7890
allow-lan: false
mode: rule
log-level: info
ipv6: true
external-controller: 127.0.0.1:9090
profile: {store-selected: true, store-fake-ip: true}
tun: {enable: true, stack: mixed, auto-route: true, dns-hijack: ['any:53']}
dns:
  enable: true
  listen: 0.0.0.0:1053
  ipv6: true
  enhanced-mode: fake-ip
  fake-ip-range: 198.18.0.1/16
  fake-ip-filter: ['*.lan', +.corp.example, 'xbox.*.*.microsoft.com']
  default-nameserver: [192.0.2.53]
  nameserver: [https://dns.example/dns-query, tls://192.0.2.54]
  fallback: [tls://192.0.2.55]
  fallback-filter: {geoip: true, geoip-code: CN}
  nameserver-policy:
    +.corp.example: [192.0.2.56, tcp://192.0.2.57]
sniffer:
  enable: true
  sniff:
    TLS: {ports: [443, 8443]}
    HTTP: {ports: [80, 8080-8082], override-destination: true}
proxies:
  - {name: 'Tokyo 1', type: ss, server: 203.0.113.1, port: 8388, cipher: aes-256-gcm, password: p, udp: true}
  - {name: Osaka, type: trojan, server: 203.0.113.2, port: 443, password: p, sni: o.example, udp: true}
  - {name: Kobe, type: vmess, server: 203.0.113.3, port: 443, uuid: x, alterId: 0, cipher: auto}
proxy-groups:
  - {name: PROXY, type: select, proxies: [Auto, 'Tokyo 1', Osaka, Kobe, DIRECT]}
  - {name: Auto, type: url-test, proxies: ['Tokyo 1', Osaka], url: 'http://www.gstatic.com/generate_204', interval: 300}
rule-providers:
  ads: {type: http, behavior: domain, url: 'https://lists.example/ads.yaml', path: ads.yaml, interval: 86400}
rules:
  - RULE-SET,ads,REJECT
  - DOMAIN-SUFFIX,corp.example,DIRECT
  - IP-CIDR,192.168.0.0/16,DIRECT,no-resolve
  - PROCESS-NAME,ssh,DIRECT
  - MATCH,PROXY
";

#[test]
fn a_whole_configuration_of_clash_is_one_of_ours() {
    let (_folder, path) = file(CLASH);
    let output = oneway(&["import", &path]);
    assert_eq!(output.status.code(), Some(0));
    let notes = text(&output.stderr);
    for (word, line, what) in [
        ("note", 1, "`mixed-port`"),
        ("note", 11, "`dns.listen`"),
        ("note", 18, "`dns.fallback`"),
        ("note", 19, "`dns.fallback-filter`"),
        ("note", 26, "`sniffer.sniff.HTTP.override-destination`"),
        ("note", 28, "the proxy \"Tokyo 1\""),
        ("warning", 30, "the proxy \"Kobe\""),
        ("note", 35, "the rule set \"ads\""),
    ] {
        assert!(notes.contains(&format!("{word}: {path}:{line}:1: {what}")), "{line} {what}\n{notes}");
    }
    let (second, imported) = file(text(&output.stdout));
    fs::write(second.path().join("ads.yaml"), "payload: [+.ads.example]\n").unwrap();
    let checked = oneway(&["check", "-c", &imported]);
    assert_eq!((text(&checked.stdout), text(&checked.stderr)), ("ok\n", ""));
    for line in [
        "mode = \"fake-ip\"",
        "upstream = [\"https://dns.example:443/dns-query\", \"tls://192.0.2.54:853\"]",
        "\"+.corp.example\" = [\"udp://192.0.2.56:53\", \"tcp://192.0.2.57:53\"]",
        "http = [80, 8080, 8081, 8082]",
    ] {
        assert!(text(&output.stdout).contains(line), "{line}\n{}", text(&output.stdout));
    }
}

#[test]
fn a_broken_rule_file_is_named_with_its_place() {
    let (folder, path) = file("rules.files = [\"r.yaml\"]\n");
    let rules = folder.path().join("r.yaml");
    fs::write(&rules, "rules:\n  - DOMAIN,a.example,direct\n  - 'DST-PORT,http,direct'\n").unwrap();
    let output = oneway(&["check", "-c", &path]);
    let error = "\"http\" is not a port such as 443, 80/443 or 8000-8999";
    assert_eq!(text(&output.stdout), format!("error: {}:3:15: {error}\n1 error\n", rules.display()));
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn help_shows_what_is_there_and_nothing_else() {
    let output = oneway(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for command in [
        "run",
        "plan",
        "check",
        "doctor",
        "why",
        "status",
        "flows",
        "stop",
        "confirm",
        "reload",
        "recover",
        "exec",
        "exclude",
        "import",
        "demo",
        "lab",
        "completions",
        "help",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
    assert!(!help.contains("\n  lab-part "), "{help}");
    fails(&["lab", "L99"], 2, "there is no loop \"L99\"; `oneway lab list` lists them");
    assert!(help.len() < 2500, "help does not fit a screen");
    let run = oneway(&["help", "run"]);
    for option in [
        "--config",
        "--proxy",
        "--include",
        "--exclude-uid",
        "--exclude-cgroup",
        "--exclude-process",
        "--forwarded",
        "--tun-fd",
        "--pcap",
        "--fault",
        "--strict",
    ] {
        assert!(text(&run.stdout).contains(option), "{option}");
    }
}

#[test]
fn what_every_command_takes_stands_apart() {
    for command in ["why", "lab", "run", "status"] {
        let help = oneway(&[command, "--help"]);
        let help = text(&help.stdout);
        let (own, every) = help.split_once("\nOptions of every command:\n").unwrap();
        assert!(every.contains("--json") && every.contains("--log-format <text|json>"), "{command}: {help}");
        assert!(!own.contains("--json") && !help.contains("[possible values"), "{command}: {help}");
    }
    let help = oneway(&["lab", "--help"]);
    assert!(text(&help.stdout).split("\nOptions of every command:\n").next().unwrap().contains("--each"));
}

#[test]
fn version() {
    let version = concat!("oneway ", env!("CARGO_PKG_VERSION"));
    assert_eq!(text(&oneway(&["--version"]).stdout), format!("{version}\n"));
    assert_eq!(document(&oneway(&["--version", "--json"])), json!({ "version": version }));
}

#[test]
fn completions_for_each_shell() {
    for (shell, sign) in [("bash", "complete -F"), ("zsh", "#compdef oneway"), ("fish", "complete -c oneway")]
    {
        let output = oneway(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(sign), "{shell}");
        assert!(text(&output.stdout).contains("exclude-uid"), "{shell}");
    }
    assert_eq!(document(&oneway(&["completions", "bash", "--json"]))["shell"], "bash");
}

#[test]
fn completions_offer_the_words_of_an_option() {
    for (shell, offers) in [
        (
            "bash",
            "compgen -W \"auto mark mark-terminal mark-ifgroup bind source-rule host-route host-route-halves netns\"",
        ),
        ("bash", "compgen -W \"user system\""),
        ("bash", "compgen -W \"tun redirect tproxy\""),
        ("bash", "compgen -W \"fake-ip real off\""),
        ("bash", "compgen -W \"auto always off\""),
        ("bash", "compgen -W \"text json\""),
        ("zsh", "(auto mark mark-terminal "),
        ("fish", "-l stack "),
    ] {
        let script = oneway(&["completions", shell]);
        assert!(text(&script.stdout).contains(offers), "{shell} lacks {offers}");
    }
    let script = oneway(&["completions", "zsh"]);
    let (config, mtu) = ("--config=[Configuration file", "--mtu=[MTU");
    for line in text(&script.stdout).lines().filter(|line| line.contains(config) || line.contains(mtu)) {
        assert_eq!(line.contains(":_files'"), line.contains(config), "{line}");
    }
}

#[test]
fn completions_offer_nothing_that_the_help_hides() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = oneway(&["completions", shell]);
        let script = text(&script.stdout);
        for hidden in ["without-guard", "--api", "-l api", "exec-inside", "exec__inside", "lab-part"] {
            assert!(!script.contains(hidden), "{shell} offers {hidden}");
        }
        for shown in ["log-format", "exclude-process", "exclude-cgroup", "watch", "import", "version"] {
            assert!(script.contains(shown), "{shell} lacks {shown}");
        }
    }
}

/// A copy of the program that an ordinary user can start: where the build put it may be out of reach.
fn copy_for_everybody() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("oneway");
    fs::copy(ONEWAY, &program).unwrap();
    let program = program.to_str().unwrap().to_owned();
    (folder, program)
}

#[test]
fn without_privileges_run_says_what_to_grant() {
    let (_folder, program) = copy_for_everybody();
    let mut command = Command::new(&program);
    let output = command.arg("run").env_remove("XDG_RUNTIME_DIR").uid(65534).gid(65534).output().unwrap();
    assert_eq!(
        text(&output.stderr),
        format!(
            "error: cannot capture the traffic of this host: permission denied; run as root or grant CAP_NET_ADMIN, \
             for example with `setcap cap_net_admin+ep {program}`\n"
        )
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_closed_reader_is_no_panic() {
    let mut child =
        Command::new(ONEWAY).arg("--help").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(stderr, "");
    assert!(child.wait().unwrap().code().is_some());
}

/// A file that an answer did not fit into must not look like a whole one.
#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    for words in [&["completions", "bash"][..], &["lab", "list", "--json"], &["--version"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = Command::new(ONEWAY).args(words).stdout(full).output().unwrap();
        assert_eq!(
            text(&output.stderr),
            "error: cannot write the answer to stdout: No space left on device (os error 28); check where it leads, and its \
             disk\n"
        );
        assert_eq!(output.status.code(), Some(1), "{words:?}");
    }
}

/// A network namespace that lives as long as this.
struct Namespace {
    holder: Child,
}

impl Namespace {
    fn new() -> Self {
        // Says when it is inside, and then waits for its stdin to close.
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo inside && read -r _"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "inside\n", "cannot make a network namespace; run as root");
        let new = Self { holder };
        // The kernel gives a number again; what an instance left that was killed in an earlier namespace is not about
        // this one.
        for extension in ["journal", "lock", "sock", "fake-ip"] {
            let _ = fs::remove_file(format!("/run/oneway-{}.{extension}", new.number()));
        }
        new
    }

    /// The path that stands for it, and its number.
    fn number(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(self.path()).unwrap().ino()
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program).args(words);
        command
    }

    fn oneway(&self, words: &[&str]) -> Output {
        self.command(ONEWAY, words).output().unwrap()
    }

    /// Everything that `run` may change here.
    fn state(&self) -> String {
        let words = "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; ip address; \
                     sysctl -a --pattern 'rp_filter|src_valid_mark' 2>/dev/null; ls /run | grep -- -$1. ; true";
        let script = words.replace("$1", &self.number().to_string());
        let output = self.command("sh", &["-c", &script]).output().unwrap();
        text(&output.stdout).to_owned()
    }

    /// Starts `oneway run` and waits until it is ready.
    fn run(&self, words: &[&str]) -> Running {
        Running::start(&mut self.command(ONEWAY, &[&["run"], words].concat()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// An instance; killed if the test ends early.
struct Running {
    child: Child,
    ready: String,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.contains("ready: "), "{ready:?} {:?}", child.wait_with_output());
        Self { child, ready }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for its end, at most the two seconds that a stop may take.
    fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "still running");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has ended, which is all that is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_second_instance_is_refused_and_the_first_goes_on() {
    let here = Namespace::new();
    let before = here.state();
    let mut first = here.run(&[]);
    let during = here.state();
    let pid = first.child.id();
    for words in [&["run"][..], &["run", "--control", "/run/elsewhere.sock"]] {
        let second = here.oneway(words);
        assert_eq!(
            text(&second.stderr),
            format!("error: oneway is already running here (pid {pid}); stop it with `oneway stop`\n")
        );
        assert_eq!(second.status.code(), Some(1));
        assert!(!Path::new("/run/elsewhere.sock").exists());
    }
    assert_eq!(here.state(), during);
    let recovered = here.oneway(&["recover"]);
    assert_eq!(text(&recovered.stdout), format!("nothing to recover: oneway is running here (pid {pid})\n"));
    let recovered = document(&here.oneway(&["recover", "--json"]));
    assert_eq!(recovered, json!({ "recovered": false, "running": pid }));
    assert_eq!(here.state(), during);

    let status = document(&here.oneway(&["status", "--json"]));
    assert_eq!((&status["pid"], &status["loops"]["verdict"]), (&json!(pid), &json!("proven")));
    assert_eq!(document(&here.oneway(&["flows", "--json"])), json!({ "flows": [] }));

    let stopped = here.oneway(&["stop"]);
    assert_eq!(text(&stopped.stdout), "stopped; every change to this host is undone\n", "{stopped:?}");
    assert_eq!(first.end(), Some(0));
    assert_eq!(here.state(), before);
}

/// It is neither one that was killed nor none at all.
#[test]
fn one_with_another_control_socket_is_not_taken_for_a_killed_one() {
    let here = Namespace::new();
    let before = here.state();
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = folder.path().join("elsewhere.sock");
    let control = ["--control", elsewhere.to_str().unwrap()];
    let mut running = here.run(&control);
    let during = here.state();
    let usual = PathBuf::from(format!("/run/oneway-{}.sock", here.number()));
    let wrong = folder.path().join("wrong.sock");
    let pid = running.child.id();
    for command in [&["status"][..], &["stop"], &["flows"], &["reload"], &["doctor"], &["why", "192.0.2.1"]] {
        for (socket, options) in [(&usual, &[][..]), (&wrong, &["--control", wrong.to_str().unwrap()])] {
            let refused = here.oneway(&[command, options].concat());
            assert_eq!(
                text(&refused.stderr),
                format!(
                    "error: oneway runs here (pid {pid}), but does not answer at {socket:?}; if it was started with \
                     --control, give the same path with --control\n"
                ),
                "{command:?}"
            );
            assert_eq!((text(&refused.stdout), refused.status.code()), ("", Some(1)), "{command:?}");
        }
    }
    assert_eq!(here.state(), during);
    let status = here.oneway(&[&["status", "--json"], &control[..]].concat());
    assert_eq!(document(&status)["pid"], pid);
    assert_eq!(here.oneway(&[&["stop"], &control[..]].concat()).status.code(), Some(0));
    assert_eq!(running.end(), Some(0));
    assert_eq!(here.state(), before);
}

#[test]
fn each_namespace_has_its_own_instance() {
    let (one, other) = (Namespace::new(), Namespace::new());
    let (_first, second) = (one.run(&[]), other.run(&["--json"]));
    let ready: Value = serde_json::from_str(&second.ready).unwrap();
    assert_eq!(ready["control"], format!("/run/oneway-{}.sock", other.number()));
    assert_eq!(document(&other.oneway(&["status", "--json"]))["pid"], second.child.id());
    for namespace in [&one, &other] {
        assert_eq!(namespace.oneway(&["stop"]).status.code(), Some(0));
        assert!(!Path::new(&format!("/run/oneway-{}.sock", namespace.number())).exists());
    }
}

#[test]
fn signals_stop_and_undo() {
    let here = Namespace::new();
    let before = here.state();
    let stray = ["USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "XFSZ", "STKFLT", "34", "50", "64"];
    for signals in [
        &["TERM"][..],
        &["INT"],
        &["QUIT"],
        &["XCPU"],
        &["PWR"],
        &["HUP", "TERM"],
        &[&stray[..], &["TERM"]].concat(),
        &["TERM", "HUP", "INT"],
    ] {
        let mut running = here.run(&["-q"]);
        for signal in signals {
            running.signal(signal);
        }
        assert_eq!(running.end(), Some(0), "{signals:?}");
        assert_eq!(here.state(), before, "{signals:?}");
    }
}

#[test]
fn what_a_killed_instance_left_is_no_obstacle() {
    let here = Namespace::new();
    let before = here.state();
    for start_again in [true, false] {
        let mut killed = here.run(&[]);
        killed.signal("KILL");
        assert_eq!(killed.end(), None);
        let status = here.oneway(&["status"]);
        assert_eq!(
            text(&status.stderr),
            "error: oneway is not running here, but one that was killed left changes behind; undo them with `oneway \
             recover`\n"
        );
        if start_again {
            let mut again = here.run(&[]);
            again.signal("TERM");
            assert_eq!(again.end(), Some(0));
        } else {
            let recovered = here.oneway(&["recover"]);
            assert!(text(&recovered.stdout).starts_with("undone: "), "{recovered:?}");
        }
        assert_eq!(here.state(), before);
    }
    let idle = here.oneway(&["recover"]);
    assert_eq!((text(&idle.stdout), idle.status.code()), ("nothing to undo\n", Some(0)));
}

#[test]
fn one_capability_is_enough_and_root_still_finds_it() {
    let (_folder, program) = copy_for_everybody();
    let here = Namespace::new();
    let before = here.state();
    // Nobody else's number, so that the folder is this test's alone.
    let user = (3_000_000_000 + u64::from(std::process::id())).to_string();
    let folder = PathBuf::from(format!("/tmp/oneway-{user}"));
    // The device as most distributions have it, open to everybody, seen by this one process.
    let script = "set -e; mknod $0.tun c 10 200; chmod 666 $0.tun; mount --bind $0.tun /dev/net/tun
        exec setpriv --reuid $1 --regid $1 --clear-groups --inh-caps=-all,+net_admin \
            --ambient-caps=-all,+net_admin --bounding-set=-all,+net_admin $0 run";
    let mut command = here.command("unshare", &["--mount", "sh", "-c", script, &program, &user]);
    let mut running = Running::start(command.env_remove("XDG_RUNTIME_DIR"));
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o700);
    let pid = running.child.id();
    assert_eq!(document(&here.oneway(&["status", "--json"]))["pid"], pid);
    let stopped = here.oneway(&["stop"]);
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    assert_eq!(running.end(), Some(0));
    assert_eq!(here.state(), before);
    assert!(!folder.exists(), "{folder:?} is left behind");
}

/// Where `/run` cannot be written it is said what follows from that, and nothing is believed of what another user has made.
#[test]
fn a_run_that_cannot_be_written_is_named() {
    let here = Namespace::new();
    let before = here.state();
    let script = "set -e; mount -t tmpfs tmpfs /tmp; mount --bind /run /run; mount -o remount,bind,ro /run
        if [ $1 != 0 ]; then mkdir -m 700 /tmp/oneway-0; chown $1 /tmp/oneway-0; fi
        shift; exec \"$0\" \"$@\"";
    let command = |words: &[&str]| {
        let mut command =
            here.command("unshare", &[&["--mount", "sh", "-c", script, ONEWAY], words].concat());
        command.env_remove("XDG_RUNTIME_DIR");
        command
    };
    let mut running = Running::start(&mut command(&["0", "run"]));
    running.signal("TERM");
    assert_eq!(running.end(), Some(0));
    let mut log = String::new();
    running.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let warning = "the files of this instance are in \"/tmp/oneway-0\", as /run cannot be written (Read-only file system";
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains(warning)), "{log}");
    for word in ["run", "status", "stop", "recover"] {
        let refused = command(&["12345", word]).output().unwrap();
        let why = "the folder \"/tmp/oneway-0\" is not safe: it belongs to another user";
        assert_eq!(refused.status.code(), Some(1), "{word}: {refused:?}");
        assert!(text(&refused.stderr).contains(why), "{word}: {refused:?}");
    }
    assert_eq!(here.state(), before);
    // Where it can, there is nothing to say.
    let mut running = here.run(&[]);
    running.signal("TERM");
    assert_eq!(running.end(), Some(0));
    let mut log = String::new();
    running.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(!log.contains("the files of this instance"), "{log}");
}

#[test]
fn plan_changes_nothing_and_is_json_too() {
    let here = Namespace::new();
    let before = here.state();
    let plan = here.oneway(&["plan"]);
    assert!(text(&plan.stdout).contains("ip rule add "), "{plan:?}");
    assert!(document(&here.oneway(&["plan", "--json"]))["steps"].is_array());
    assert_eq!(here.state(), before);
}

/// A device, a network or an interface that this host has, or has not, is a matter of the configuration.
#[test]
fn what_this_host_contradicts_is_wrong_configuration() {
    let here = Namespace::new();
    let script =
        "ip link add d0 type veth peer name d1 && ip link set d0 up && ip address add 192.0.2.1/24 dev d0";
    assert!(here.command("sh", &["-c", script]).status().unwrap().success());
    let before = here.state();
    for (options, line) in [
        (["--interface", "nope0"], "there is no device \"nope0\" to pin the uplink to; see --interface"),
        (
            ["--tun", "d0"],
            "there is already a device \"d0\" that is not a TUN; choose another name with --tun",
        ),
        (
            ["--tun-address", "192.0.2.9/28"],
            "the TUN address 192.0.2.9/28 overlaps 192.0.2.1/24 of d0; choose another with --tun-address, or leave it out",
        ),
    ] {
        for command in ["run", "plan", "doctor"] {
            let refused = here.oneway(&[&[command][..], &options].concat());
            let error = format!("error: cannot plan the capture: {line}\n");
            assert!(text(&refused.stderr).ends_with(&error), "{command} {options:?}: {refused:?}");
            assert_eq!(refused.status.code(), Some(2), "{command} {options:?}");
            assert_eq!(here.state(), before, "{command} {options:?}");
        }
    }
}

/// What `run` refuses for the configuration alone, `check` has found, and says where it stands.
#[test]
fn check_finds_what_run_refuses() {
    let here = Namespace::new();
    let before = here.state();
    for (key, place, why) in [
        ("egress.netns = \"nosuch\"", "1:16", "cannot open the network namespace nosuch: "),
        ("tun.fd = 99", "1:10", "descriptor 99 is not a TUN device with IFF_NO_PI: "),
        ("tun.pcap = \"/proc/nosuch/x\"", "1:12", "cannot write packets to \"/proc/nosuch/x\": "),
        ("tun.pcap = \"/dev/null\"", "1:12", "cannot write packets to \"/dev/null\": "),
        (
            "control = \"/nosuch/dir/x.sock\"",
            "1:11",
            "cannot make the control socket \"/nosuch/dir/x.sock\": ",
        ),
        ("control = \"/dev/null\"", "1:11", "cannot make the control socket \"/dev/null\": "),
    ] {
        let (_folder, path) = file(key);
        let checked = here.oneway(&["check", "-c", &path]);
        let said = text(&checked.stdout);
        assert_eq!(checked.status.code(), Some(3), "{key}: {said}");
        assert!(said.starts_with(&format!("error: {path}:{place}: ")) && said.contains(why), "{key}: {said}");
        let refused = here.oneway(&["run", "-c", &path]);
        assert_eq!(refused.status.code(), Some(2), "{key}: {refused:?}");
        assert!(text(&refused.stderr).contains(why), "{key}: {refused:?}");
        assert_eq!(here.state(), before, "{key}");
    }
}

/// One file that cannot be made is one error, whichever of the two processes meets it.
#[test]
fn exec_says_once_what_is_wrong() {
    let here = Namespace::new();
    let refused = here.oneway(&["exec", "--pcap", "/proc/nosuch/x", "--", "true"]);
    let said = text(&refused.stderr);
    assert!(said.starts_with("error: cannot write packets to \"/proc/nosuch/x\": "), "{said}");
    assert_eq!((said.lines().count(), refused.status.code()), (1, Some(2)), "{said}");
}

#[test]
fn systemd_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    is_told(&Namespace::new(), &UnixDatagram::bind(&path).unwrap(), path.as_os_str());
}

/// A name that begins with `@` is that of an abstract socket (sd_notify(3)).
#[test]
fn systemd_is_told_at_an_abstract_socket() {
    let here = Namespace::new();
    let name = format!("oneway-notify-{}", std::process::id());
    // Such names belong to a network namespace.
    let namespace = fs::File::open(here.path()).unwrap();
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let bind = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        UnixDatagram::bind_addr(&address).unwrap()
    };
    let socket = std::thread::spawn(bind).join().unwrap();
    is_told(&here, &socket, format!("@{name}").as_ref());
}

fn is_told(here: &Namespace, socket: &UnixDatagram, name: &OsStr) {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let told = || {
        let mut message = [0; 1024];
        let length = socket.recv(&mut message).unwrap();
        text(&message[..length]).to_owned()
    };
    let mut child = here
        .command(ONEWAY, &["run", "-qq"])
        .env("NOTIFY_SOCKET", name)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(told().starts_with("READY=1\nSTATUS="));
    assert_eq!(here.oneway(&["reload"]).status.code(), Some(0));
    let reloading = told();
    let since =
        reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").map(|since| since.trim().parse::<u64>());
    assert!(matches!(since, Some(Ok(1..))), "{reloading}");
    assert!(told().starts_with("READY=1\nSTATUS="));
    assert_eq!(here.oneway(&["stop"]).status.code(), Some(0));
    assert_eq!(told(), "STOPPING=1\nSTATUS=undoing the changes to this host\n");
    assert!(child.wait().unwrap().success());
}

#[test]
fn where_nothing_runs_commands_say_so() {
    let here = Namespace::new();
    let socket = format!("/run/oneway-{}.sock", here.number());
    for command in ["status", "flows", "reload", "stop"] {
        let output = here.oneway(&[command]);
        assert_eq!(
            text(&output.stderr),
            format!(
                "error: oneway is not running here: nothing answers at {socket:?}; start it with `oneway run`\n"
            )
        );
        assert_eq!(output.status.code(), Some(1));
    }
}
