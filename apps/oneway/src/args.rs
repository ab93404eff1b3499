//! Commands and options, as clap sees them.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, ArgAction, Args, Parser, Subcommand, ValueHint};
use oneway::config::{
    CaptureMode, CgroupPath, ConfigError, DnsMode, DnsUpstream, FaultSpec, HostResolver, InterfaceName,
    LogFormat, LogLevel, Mtu, Options, Origin, Prefix, ProgramName, Protect, Safeguard, StackKind,
    TunAddress, TunFd, Uid,
};

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "oneway", version, about = "A transparent proxy that cannot loop", max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log more: each flow, and given twice what libraries say of themselves
    #[arg(short = 'v', long = "verbose", global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log less: warnings, and given twice failures alone
    #[arg(short = 'q', long = "quiet", global = true, action = ArgAction::Count, conflicts_with = "verbose")]
    quiet: u8,
    /// Form of the log lines on stderr [default: text]
    #[arg(long, global = true, value_name = "text|json")]
    #[arg(value_parser = words::<LogFormat>(LogFormat::WORDS), hide_possible_values = true)]
    log_format: Option<LogFormat>,
    /// Control socket [default: /run/oneway.sock, or one for each network namespace]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) control: Option<PathBuf>,
}

impl Global {
    /// The same for a command whose standard error is that of another program: it says what is wrong, unless it is asked for
    /// more.
    pub(crate) fn quiet_by_default(&self) -> Self {
        let quiet = if self.verbose == 0 { self.quiet.max(1) } else { 0 };
        Self { quiet, ..self.clone() }
    }

    fn log_level(&self) -> Option<LogLevel> {
        match (self.verbose, self.quiet) {
            (0, 0) => None,
            (1, _) => Some(LogLevel::Debug),
            (2.., _) => Some(LogLevel::Trace),
            (0, 1) => Some(LogLevel::Warn),
            (0, 2..) => Some(LogLevel::Error),
        }
    }
}

/// The commands. Those that other commands start are hidden.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Capture and forward until SIGINT or SIGTERM, then undo every change to this host
    Run(CaptureArgs),
    /// Print every change that `run` would make to this host, and its undo; change nothing
    Plan(CaptureArgs),
    /// Read the configuration and report every error, with file, line and column, and every loop that it would cause
    Check(CaptureArgs),
    /// Say of each way out whether it is free of loops: of the running instance, or of what `run` would do
    Doctor(CaptureArgs),
    /// Say what becomes of a packet, by which rules, and why it cannot come back
    Why(WhyArgs),
    /// Show how the running instance is doing
    Status,
    /// List the flows of the running instance
    Flows {
        /// Repeat every second
        #[arg(long)]
        watch: bool,
    },
    /// Stop the running instance and undo its changes
    Stop,
    /// Keep what `run --confirm` set up
    Confirm,
    /// Read the configuration again, and reset the flows alone that it does not allow any more
    Reload,
    /// Tell a group of type `select` which of its members new flows take
    Select {
        /// The group
        #[arg(value_hint = ValueHint::Other)]
        group: String,
        /// One of its members
        #[arg(value_hint = ValueHint::Other)]
        member: String,
    },
    /// Undo what a killed instance left behind
    Recover,
    /// Run a program of which everything is captured, in a network namespace of its own
    Exec {
        #[command(flatten)]
        capture: CaptureArgs,
        /// The program and its arguments
        #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        #[arg(help_heading = "Arguments", value_hint = ValueHint::CommandWithArguments)]
        command: Vec<OsString>,
    },
    /// What `exec` starts: becomes the program inside
    #[command(hide = true)]
    ExecInside {
        channel: i32,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Run a program whose own traffic is never captured: a proxy on this host, say
    Exclude {
        /// The program and its arguments
        #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        #[arg(value_hint = ValueHint::CommandWithArguments)]
        command: Vec<OsString>,
    },
    /// Show the main job in throw-away network namespaces
    Demo,
    /// Print the configuration that a configuration of Clash or mihomo amounts to, and list what it lacks
    Import {
        /// The configuration of Clash
        #[arg(value_name = "CLASH.YAML", value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Print a completion script
    Completions {
        /// The shell to complete in
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Show each kind of routing loop in throw-away network namespaces, first unguarded and then guarded
    Lab(LabArgs),
    /// What `lab` starts: a SOCKS server in a process of its own
    #[command(hide = true)]
    LabPart {
        #[arg(required = true)]
        listen: Vec<SocketAddr>,
    },
}

/// The packet that `why` is asked about.
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Address or name, and a port [default port: 443]
    #[arg(value_name = "DST[:PORT]", value_hint = ValueHint::Hostname)]
    pub(crate) destination: String,
    /// A datagram instead of a TCP connection
    #[arg(long)]
    pub(crate) udp: bool,
    /// Sent by this user [default: you]
    #[arg(long, value_name = "N", value_hint = ValueHint::Other)]
    pub(crate) uid: Option<Uid>,
    /// Sent from this address: of this host, or of a client that it forwards for
    #[arg(long, value_name = "IP", value_hint = ValueHint::Other)]
    pub(crate) from: Option<IpAddr>,
    #[command(flatten)]
    pub(crate) capture: CaptureArgs,
}

/// Which loops `lab` plays.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    /// `list`, or the loops to play [default: all]
    #[arg(value_name = "list|ID", value_hint = ValueHint::Other)]
    pub(crate) ids: Vec<String>,
    /// Leave out also each guard alone, to see that the next one stops the loop
    #[arg(long)]
    pub(crate) each: bool,
}

/// Options that say what to capture and how it leaves. Each is also a key of the configuration, which it overrides.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Capture and egress")]
pub(crate) struct CaptureArgs {
    /// Configuration file [default: none, everything at its default]
    #[arg(short = 'c', long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Send through this proxy what no rule decides: socks5://, socks4://, http:// or https://[user:password@]host:port,
    /// or trojan://password@host:port
    #[arg(long, value_name = "URL", value_hint = ValueHint::Other)]
    proxy: Option<String>,
    /// How traffic is taken in [default: tun]
    #[arg(long, value_name = "tun|redirect|tproxy")]
    #[arg(value_parser = words::<CaptureMode>(CaptureMode::WORDS), hide_possible_values = true)]
    capture: Option<CaptureMode>,
    /// Which TCP/IP ends the captured connections [default: user]
    #[arg(long, value_name = "user|system")]
    #[arg(value_parser = words::<StackKind>(StackKind::WORDS), hide_possible_values = true)]
    stack: Option<StackKind>,
    /// Capture only these destinations; repeatable
    #[arg(long, value_name = "CIDR", value_hint = ValueHint::Other)]
    include: Vec<Prefix>,
    /// Do not capture these destinations, even if included; repeatable
    #[arg(long, value_name = "CIDR", value_hint = ValueHint::Other)]
    exclude: Vec<Prefix>,
    /// What keeps our own sockets out of the capture: auto, mark, mark-terminal, mark-ifgroup, bind, source-rule,
    /// host-route, host-route-halves or netns [default: auto]
    #[arg(long, value_name = "STRATEGY")]
    #[arg(value_parser = words::<Protect>(Protect::WORDS), hide_possible_values = true)]
    protect: Option<Protect>,
    /// Uplink [default: the choice of the operating system, followed as it changes]
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    interface: Option<InterfaceName>,
    /// Name of the TUN device [default: a free one]
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    tun: Option<InterfaceName>,
    /// Address of the TUN device, one of each family; repeatable [default: free ones]
    #[arg(long, value_name = "CIDR", value_hint = ValueHint::Other)]
    tun_address: Vec<TunAddress>,
    /// MTU of the TUN device, 1280 to 65535
    #[arg(long, value_name = "N", value_hint = ValueHint::Other)]
    mtu: Option<Mtu>,
    /// Descriptor of a TUN device that is handed over
    #[arg(long, value_name = "FD", value_hint = ValueHint::Other)]
    tun_fd: Option<TunFd>,
    /// Record every packet of the device in this file, for tcpdump and Wireshark
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pcap: Option<PathBuf>,
    /// Disturb packets on purpose: loss=1%,delay=20ms,reorder=2%,duplicate=1%,corrupt=0.1%,seed=7
    #[arg(long, value_name = "SPEC", value_hint = ValueHint::Other)]
    fault: Option<FaultSpec>,
    /// What DNS queries are answered with [default: fake-ip with a proxy, else real]
    #[arg(long, value_name = "fake-ip|real|off")]
    #[arg(value_parser = words::<DnsMode>(DnsMode::WORDS), hide_possible_values = true)]
    dns: Option<DnsMode>,
    /// Resolver to ask: system, or udp://, tcp://, tls://, https:// or quic:// and an address; repeatable [default: the one
    /// that was asked, then the system's]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Other)]
    dns_upstream: Vec<DnsUpstream>,
    /// Whether this host's programs are told to ask here (resolv.conf, systemd-resolved) [default: auto, where the capture
    /// does not see what they ask]
    #[arg(long, value_name = "auto|always|off")]
    #[arg(value_parser = words::<HostResolver>(HostResolver::WORDS), hide_possible_values = true)]
    resolver: Option<HostResolver>,
    /// Do not capture the traffic of this user; repeatable
    #[arg(long, value_name = "N", value_hint = ValueHint::Other)]
    exclude_uid: Vec<Uid>,
    /// Do not capture the traffic of the programs in this control group (version 2); repeatable
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath)]
    exclude_cgroup: Vec<CgroupPath>,
    /// Send the traffic of this program directly, past rules and proxies; repeatable
    #[arg(long, value_name = "NAME", value_hint = ValueHint::CommandName)]
    exclude_process: Vec<ProgramName>,
    /// Capture traffic that this host forwards for containers and LAN clients too
    #[arg(long)]
    forwarded: bool,
    /// Refuse traffic that cannot be captured or carried instead of letting it through
    #[arg(long)]
    strict: bool,
    /// Undo everything after so long, unless `oneway confirm` comes before
    #[arg(long, value_name = "SECONDS", value_parser = confirm_seconds, value_hint = ValueHint::Other)]
    confirm: Option<u32>,
    #[arg(long, value_name = "ADDR:PORT", hide = true)]
    api: Option<SocketAddr>,
    /// Leave out a guard on purpose; repeatable. For `lab` and tests alone: nothing is proven of what runs so
    #[arg(long, value_name = "GUARD", hide = true)]
    without_guard: Vec<Safeguard>,
}

/// See [`words`].
#[derive(Clone)]
struct Words<T> {
    words: &'static [&'static str],
    of: PhantomData<T>,
}

impl<T> TypedValueParser for Words<T>
where
    T: FromStr<Err: Error + Send + Sync> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        TypedValueParser::parse_ref(&|word: &str| word.parse::<T>(), command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.words.iter().map(PossibleValue::new)))
    }
}

/// Reads one of these words, which completions offer. Unlike with a list of clap's own, what is wrong is said as it is of the
/// same word in a configuration.
fn words<T>(words: &'static [&'static str]) -> Words<T> {
    Words { words, of: PhantomData }
}

fn confirm_seconds(text: &str) -> Result<u32, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
    seconds.ok_or_else(|| format!("{text:?} is no time to confirm in; give a number of seconds, 1 or more"))
}

impl CaptureArgs {
    /// The options as the configuration takes them.
    pub(crate) fn options(self, global: &Global) -> Result<Options, ConfigError> {
        // Not parsed by clap, whose error would repeat the password.
        let proxy = self.proxy.map(|url| url.parse()).transpose();
        let proxy =
            proxy.map_err(|why| ConfigError::new(Some(Origin::Option("--proxy")), format!("{why}")))?;
        Ok(Options {
            proxy,
            capture: self.capture,
            stack: self.stack,
            include: self.include,
            exclude: self.exclude,
            protect: self.protect,
            interface: self.interface,
            tun_name: self.tun,
            tun_addresses: self.tun_address,
            mtu: self.mtu,
            tun_fd: self.tun_fd,
            pcap: self.pcap,
            fault: self.fault,
            dns: self.dns,
            dns_upstream: self.dns_upstream,
            resolver: self.resolver,
            exclude_uid: self.exclude_uid,
            exclude_cgroup: self.exclude_cgroup,
            exclude_process: self.exclude_process,
            forwarded: self.forwarded,
            strict: self.strict,
            confirm: self.confirm,
            control: global.control.clone(),
            api: self.api,
            log_level: global.log_level(),
            log_format: global.log_format,
            without: self.without_guard,
        })
    }
}
