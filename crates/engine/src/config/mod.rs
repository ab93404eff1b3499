//! The configuration: plain data in types that cannot be wrong.
//!
//! [`Config::load`] reads `oneway.toml`, lays the command line's [`Options`] over it and reports every error with
//! its place. An empty file, or none, is a complete configuration. A program may also start from [`Config::default`] and change
//! that: what fits no more then is an error of whatever is asked to use it.

mod dns;
mod document;
mod error;
mod group;
mod limits;
mod outbound;
mod program;
mod reader;
mod rules;
mod settings;
mod sniff;
#[cfg(test)]
mod tests;
mod tls;
mod value;
mod whole;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use oneway_file::limit;

pub use dns::{DnsConfig, DnsUpstream, FakeIpConfig, FakePoolV4, FakePoolV6, NamePattern, SecureUpstream};
pub use error::{ConfigError, ConfigErrors, Origin};
pub use group::{Balance, CheckSpec, CheckUrl, GroupKind, GroupSpec, canonical};
pub use limits::{LimitsConfig, Wait};
pub use oneway_capture::fault::{BadFaultSpec, FaultSpec};
pub use oneway_outbound::Method;
pub use oneway_route::{Safeguard, Without};
pub use outbound::{
    BLOCK, Credentials, DIRECT, OutboundSpec, PROXY, ProxyProtocol, ProxySpec, Secret, Server, ServerHost,
};
pub use program::{CgroupPath, ProgramName};
pub use rules::{DataFile, RuleLine, RuleSetConfig, RulesConfig};
pub use sniff::{Port, SniffConfig};
pub use value::{
    CaptureMode, DnsMode, HostResolver, InterfaceName, InvalidValue, LogFormat, LogLevel, MarkBit, Mtu,
    NetnsName, Prefix, Protect, StackKind, TunAddress, TunFd, Uid,
};

/// The stack that is used unless another one is asked for.
pub const DEFAULT_STACK: StackKind = StackKind::User;

/// A complete configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What is captured, and how.
    pub capture: CaptureConfig,
    /// The TUN device.
    pub tun: TunConfig,
    /// How our own sockets leave.
    pub egress: EgressConfig,
    /// The outbounds by name. `direct` and `block` are always there.
    pub outbounds: BTreeMap<String, OutboundSpec>,
    /// Which flow takes which outbound.
    pub rules: RulesConfig,
    /// What is done with DNS.
    pub dns: DnsConfig,
    /// Whether the first bytes of flows are looked at for a name.
    pub sniff: SniffConfig,
    /// Seconds after which everything is undone, unless it is confirmed before. The program `oneway` does that: an
    /// [`Engine`](crate::Engine) runs until it is stopped, whatever is said here.
    pub confirm: Option<u32>,
    /// How much of some things there may be.
    pub limits: LimitsConfig,
    /// The control socket, if it is not where [`StatePaths`](crate::control::StatePaths) puts it. An engine makes none: that is for
    /// its program to do, by [`ControlServer`](crate::control::ControlServer).
    pub control: Option<PathBuf>,
    /// What is logged. An engine tells everything to `tracing`, and leaves it to the subscriber of its program what becomes of it.
    pub log: LogConfig,
    /// Guards that are left out on purpose. No file can ask for it.
    pub without: Without,
}

/// What is captured, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// How traffic is taken in.
    pub mode: CaptureMode,
    /// Which TCP/IP implementation ends the connections.
    pub stack: StackKind,
    /// Destinations that are captured; empty: all but loopback, link-local, multicast and on-link networks.
    pub include: Vec<Prefix>,
    /// Destinations that are not captured, even if included.
    pub exclude: Vec<Prefix>,
    /// Users whose traffic is not captured.
    pub exclude_uid: Vec<Uid>,
    /// Control groups whose programs' traffic is not captured.
    pub exclude_cgroup: Vec<CgroupPath>,
    /// Programs whose traffic is captured, and leaves directly.
    pub exclude_process: Vec<ProgramName>,
    /// Whether traffic that this host forwards for others is captured too.
    pub forwarded: bool,
    /// Whether IPv6 is captured.
    pub ipv6: bool,
    /// Whether traffic that cannot be captured or carried is refused instead of let through.
    pub strict: bool,
}

/// The TUN device. What is `None` or empty is chosen free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunConfig {
    /// The name of the device to create. Never set together with `fd`.
    pub name: Option<InterfaceName>,
    /// Its addresses, at most one of each family.
    pub addresses: Vec<TunAddress>,
    /// Its MTU.
    pub mtu: Option<Mtu>,
    /// A device that was opened by somebody else, who keeps the descriptor and with it, after the end, the device.
    pub fd: Option<TunFd>,
    /// A file that every packet of the device is recorded in, in the format of `pcap`.
    pub pcap: Option<PathBuf>,
    /// Disturbs the packets of both directions on purpose.
    pub fault: Option<FaultSpec>,
}

/// How our own sockets leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressConfig {
    /// What keeps them out of the capture.
    pub protect: Protect,
    /// The uplink, if it is not left to the operating system.
    pub interface: Option<InterfaceName>,
    /// The bit of the firewall mark, if it is not chosen free.
    pub mark: Option<MarkBit>,
    /// The network namespace that our own sockets are made in.
    pub netns: Option<NetnsName>,
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// How much.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
}

/// What the command line says. `None`, `false` and empty lists leave the word to the file.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "each field is the option of its name, see the table of options")]
pub struct Options {
    pub proxy: Option<ProxySpec>,
    pub capture: Option<CaptureMode>,
    pub stack: Option<StackKind>,
    pub include: Vec<Prefix>,
    pub exclude: Vec<Prefix>,
    pub protect: Option<Protect>,
    pub interface: Option<InterfaceName>,
    pub tun_name: Option<InterfaceName>,
    pub tun_addresses: Vec<TunAddress>,
    pub mtu: Option<Mtu>,
    pub tun_fd: Option<TunFd>,
    pub pcap: Option<PathBuf>,
    pub fault: Option<FaultSpec>,
    pub dns: Option<DnsMode>,
    pub dns_upstream: Vec<DnsUpstream>,
    pub resolver: Option<HostResolver>,
    pub exclude_uid: Vec<Uid>,
    pub exclude_cgroup: Vec<CgroupPath>,
    pub exclude_process: Vec<ProgramName>,
    pub forwarded: bool,
    pub strict: bool,
    pub confirm: Option<u32>,
    pub control: Option<PathBuf>,
    pub api: Option<SocketAddr>,
    pub log_level: Option<LogLevel>,
    pub log_format: Option<LogFormat>,
    pub without: Vec<Safeguard>,
}

/// A configuration and what the user should know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Settings that are accepted but do not do what they say, or nothing at all.
    pub warnings: Vec<ConfigError>,
    /// Where the settings stood that a host can contradict.
    pub origins: Origins,
}

/// Where settings stood; `None` for a default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// The TUN's name.
    pub tun_name: Option<Origin>,
    /// The TUN's addresses.
    pub tun_addresses: Option<Origin>,
    /// The TUN's MTU.
    pub mtu: Option<Origin>,
    /// The descriptor of the TUN.
    pub tun_fd: Option<Origin>,
    /// The packet file.
    pub pcap: Option<Origin>,
    /// The pinned uplink.
    pub interface: Option<Origin>,
    /// What keeps our own sockets out of the capture.
    pub protect: Option<Origin>,
    /// The mark.
    pub mark: Option<Origin>,
    /// The network namespace that our own sockets are made in.
    pub netns: Option<Origin>,
    /// The resolvers to ask.
    pub dns_upstream: Option<Origin>,
    /// What is excluded.
    pub exclude: Option<Origin>,
    /// The control groups that are excluded.
    pub exclude_cgroup: Option<Origin>,
    /// The control socket.
    pub control: Option<Origin>,
    /// Each outbound that was given, by name.
    pub outbounds: BTreeMap<String, Origin>,
}

impl Default for Config {
    /// What an empty file and no options give.
    fn default() -> Self {
        settings::Settings::default().into_config(&mut Vec::new()).0
    }
}

impl Config {
    /// Reads a file, if one is given, and the files of rules that it names, and lays the options over it.
    ///
    /// # Errors
    /// Everything that is wrong, each with file, line and column or with the option's name.
    pub fn load(file: Option<&Path>, options: Options) -> Result<Loaded, ConfigErrors> {
        let Some(file) = file else { return Self::from_toml(Path::new(""), "", options, &read_file) };
        let bytes = oneway_file::read_named(file, limit::CONFIGURATION).map_err(|e| {
            ConfigErrors::from(ConfigError::new(
                None,
                format!("cannot read the configuration {:?}: {e}; check the path and its permissions", file),
            ))
        })?;
        let text = oneway_rule::utf8(&bytes).map_err(|error| {
            let origin = Origin::File { file: file.into(), line: error.line, column: error.column };
            ConfigErrors::from(ConfigError::new(Some(origin), error.message))
        })?;
        Self::from_toml(file, text, options, &read_file)
    }

    /// Parses the text of a configuration file. `file` names it in errors, and `read` is asked for the files of
    /// rules and data that it names, with paths relative to its folder.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(
        file: &Path,
        text: &str,
        options: Options,
        read: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Loaded, ConfigErrors> {
        let (settings, mut errors) = document::read(file, text, read);
        let settings = settings.under(options);
        let origins = settings.origins();
        let lacks_database = settings.rules.lacks_database;
        let (config, warnings) = settings.into_config(&mut errors);
        whole::check(&config, &origins, &mut errors);
        if !errors.is_empty() {
            // Nobody comes to the rules otherwise, before the rest is mended.
            crate::assemble::check_rules(&config, lacks_database, &mut errors);
        }
        match ConfigErrors::collect(errors) {
            Some(errors) => Err(errors),
            None => Ok(Loaded { config, warnings, origins }),
        }
    }
}

impl Config {
    /// Looks for what a program may have got wrong that has made this itself: what types cannot rule out.
    ///
    /// # Errors
    /// Everything that is wrong, but for rules, each without a place.
    pub(crate) fn check(&self) -> Result<(), ConfigErrors> {
        let mut errors = Vec::new();
        whole::check(self, &Origins::default(), &mut errors);
        whole::check_parts(self, &mut errors);
        ConfigErrors::collect(errors).map_or(Ok(()), Err)
    }
}

/// Whether a proxy of this kind can carry these credentials.
pub(crate) fn check_credentials(
    kind: &str,
    username: Option<String>,
    password: Option<String>,
) -> Result<(), String> {
    match outbound::kind_from_word(kind).map_err(|e| e.to_string())? {
        outbound::OutboundKind::Proxy(protocol) => {
            Credentials::new(protocol, username, password).map(|_| ()).map_err(|e| e.to_string())
        }
        _ => Ok(()),
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    oneway_file::read_named(path, limit::DATA)
}
