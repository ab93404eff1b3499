//! Settings as they were given, by the file and by the command line, and how the two become a [`Config`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oneway_tls::Authorities;

use super::dns::{DnsConfig, DnsUpstream, FakeIpConfig, FakeIpSettings, NamePattern};
use super::error::{ConfigError, Origin};
use super::group::canonical;
use super::limits::{LimitsConfig, Wait};
use super::outbound::{BLOCK, DIRECT, OutboundSpec, PROXY, ProxySpec};
use super::program::{CgroupPath, ProgramName};
use super::rules::RuleSettings;
use super::sniff::SniffConfig;
use super::value::{
    CaptureMode, DnsMode, HostResolver, InterfaceName, LogFormat, LogLevel, MarkBit, Mtu, NetnsName, Prefix,
    Protect, StackKind, TunAddress, TunFd, Uid,
};
use super::{
    CaptureConfig, Config, DEFAULT_STACK, EgressConfig, FaultSpec, LogConfig, Options, Origins, TunConfig,
    Without,
};

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

impl<T> Located<T> {
    pub(super) fn map<U>(self, with: impl FnOnce(T) -> U) -> Located<U> {
        Located { value: with(self.value), origin: self.origin }
    }
}

type Set<T> = Option<Located<T>>;

/// Everything that can be set, from one source.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) mode: Set<CaptureMode>,
    pub(super) stack: Set<StackKind>,
    pub(super) include: Set<Vec<Prefix>>,
    pub(super) exclude: Set<Vec<Prefix>>,
    pub(super) exclude_uid: Set<Vec<Uid>>,
    pub(super) exclude_cgroup: Set<Vec<CgroupPath>>,
    pub(super) exclude_process: Set<Vec<ProgramName>>,
    pub(super) forwarded: Set<bool>,
    pub(super) ipv6: Set<bool>,
    pub(super) strict: Set<bool>,
    pub(super) tun_name: Set<InterfaceName>,
    pub(super) tun_addresses: Set<Vec<TunAddress>>,
    pub(super) mtu: Set<Mtu>,
    pub(super) tun_fd: Set<TunFd>,
    pub(super) pcap: Set<PathBuf>,
    pub(super) fault: Set<FaultSpec>,
    pub(super) protect: Set<Protect>,
    pub(super) interface: Set<InterfaceName>,
    pub(super) mark: Set<MarkBit>,
    pub(super) netns: Set<NetnsName>,
    pub(super) dns_mode: Set<DnsMode>,
    pub(super) dns_upstream: Set<Vec<DnsUpstream>>,
    pub(super) dns_resolver: Set<HostResolver>,
    pub(super) dns_ca: Set<PathBuf>,
    pub(super) dns_skip_verify: Set<bool>,
    pub(super) dns_domains: Vec<(NamePattern, Vec<DnsUpstream>)>,
    pub(super) fake_ip: FakeIpSettings,
    pub(super) sniff: SniffConfig,
    pub(super) half_closed: Set<Wait>,
    pub(super) proxy: Set<ProxySpec>,
    pub(super) outbounds: BTreeMap<String, Located<OutboundSpec>>,
    pub(super) rules: RuleSettings,
    pub(super) final_outbound: Set<String>,
    pub(super) confirm: Set<u32>,
    pub(super) control: Set<PathBuf>,
    /// That there is one.
    pub(super) api: Set<()>,
    pub(super) log_level: Set<LogLevel>,
    pub(super) log_format: Set<LogFormat>,
    pub(super) without: Without,
}

impl From<Options> for Settings {
    fn from(options: Options) -> Self {
        fn one<T>(value: Option<T>, name: &'static str) -> Set<T> {
            value.map(|value| Located { value, origin: Origin::Option(name) })
        }
        fn many<T>(values: Vec<T>, name: &'static str) -> Set<Vec<T>> {
            one((!values.is_empty()).then_some(values), name)
        }
        fn flag(given: bool, name: &'static str) -> Set<bool> {
            one(given.then_some(true), name)
        }
        Self {
            mode: one(options.capture, "--capture"),
            stack: one(options.stack, "--stack"),
            include: many(options.include, "--include"),
            exclude: many(options.exclude, "--exclude"),
            exclude_uid: many(options.exclude_uid, "--exclude-uid"),
            exclude_cgroup: many(options.exclude_cgroup, "--exclude-cgroup"),
            exclude_process: many(options.exclude_process, "--exclude-process"),
            forwarded: flag(options.forwarded, "--forwarded"),
            ipv6: None,
            strict: flag(options.strict, "--strict"),
            tun_name: one(options.tun_name, "--tun"),
            tun_addresses: many(options.tun_addresses, "--tun-address"),
            mtu: one(options.mtu, "--mtu"),
            tun_fd: one(options.tun_fd, "--tun-fd"),
            pcap: one(options.pcap, "--pcap"),
            fault: one(options.fault, "--fault"),
            protect: one(options.protect, "--protect"),
            interface: one(options.interface, "--interface"),
            mark: None,
            netns: None,
            dns_mode: one(options.dns, "--dns"),
            dns_upstream: many(options.dns_upstream, "--dns-upstream"),
            dns_resolver: one(options.resolver, "--resolver"),
            dns_ca: None,
            dns_skip_verify: None,
            dns_domains: Vec::new(),
            fake_ip: FakeIpSettings::default(),
            sniff: SniffConfig::default(),
            half_closed: None,
            proxy: one(options.proxy, "--proxy"),
            outbounds: BTreeMap::new(),
            rules: RuleSettings::default(),
            final_outbound: None,
            confirm: one(options.confirm, "--confirm"),
            control: one(options.control, "--control"),
            api: one(options.api.map(drop), "--api"),
            log_level: one(options.log_level, "-v"),
            log_format: one(options.log_format, "--log-format"),
            without: options.without.into_iter().collect(),
        }
    }
}

impl Settings {
    /// Lays the command line over the file: what an option says replaces what the file says, lists as a whole.
    pub(super) fn under(mut self, options: Options) -> Self {
        let over = Self::from(options);
        if over.proxy.is_some() {
            self.outbounds.remove(PROXY);
            self.final_outbound = None;
        }
        Self {
            mode: over.mode.or(self.mode),
            stack: over.stack.or(self.stack),
            include: over.include.or(self.include),
            exclude: over.exclude.or(self.exclude),
            exclude_uid: over.exclude_uid.or(self.exclude_uid),
            exclude_cgroup: over.exclude_cgroup.or(self.exclude_cgroup),
            exclude_process: over.exclude_process.or(self.exclude_process),
            forwarded: over.forwarded.or(self.forwarded),
            strict: over.strict.or(self.strict),
            tun_name: over.tun_name.or(self.tun_name),
            tun_addresses: over.tun_addresses.or(self.tun_addresses),
            mtu: over.mtu.or(self.mtu),
            tun_fd: over.tun_fd.or(self.tun_fd),
            pcap: over.pcap.or(self.pcap),
            fault: over.fault.or(self.fault),
            protect: over.protect.or(self.protect),
            interface: over.interface.or(self.interface),
            dns_mode: over.dns_mode.or(self.dns_mode),
            dns_upstream: over.dns_upstream.or(self.dns_upstream),
            dns_resolver: over.dns_resolver.or(self.dns_resolver),
            proxy: over.proxy.or(self.proxy),
            confirm: over.confirm.or(self.confirm),
            control: over.control.or(self.control),
            api: over.api.or(self.api),
            log_level: over.log_level.or(self.log_level),
            log_format: over.log_format.or(self.log_format),
            without: over.without,
            ..self
        }
    }

    /// Where the settings stood.
    pub(super) fn origins(&self) -> Origins {
        fn of<T>(set: &Set<T>) -> Option<Origin> {
            set.as_ref().map(|set| set.origin.clone())
        }
        let mut outbounds: BTreeMap<_, _> =
            self.outbounds.iter().map(|(name, set)| (name.clone(), set.origin.clone())).collect();
        outbounds.extend(of(&self.proxy).map(|origin| (PROXY.to_owned(), origin)));
        Origins {
            tun_name: of(&self.tun_name),
            tun_addresses: of(&self.tun_addresses),
            mtu: of(&self.mtu),
            tun_fd: of(&self.tun_fd),
            pcap: of(&self.pcap),
            interface: of(&self.interface),
            protect: of(&self.protect),
            mark: of(&self.mark),
            netns: of(&self.netns),
            dns_upstream: of(&self.dns_upstream),
            exclude: of(&self.exclude),
            exclude_cgroup: of(&self.exclude_cgroup),
            control: of(&self.control),
            outbounds,
        }
    }

    /// Fills in the defaults. Returns the configuration, which is of use only if no error was recorded, and what the user should
    /// know about it.
    pub(super) fn into_config(mut self, errors: &mut Vec<ConfigError>) -> (Config, Vec<ConfigError>) {
        self.refuse_later_versions(errors);
        if let Some(Located { value: 0, origin }) = &self.confirm {
            let message = "confirm: nobody can confirm in 0 seconds; give at least 1";
            errors.push(ConfigError::new(Some(origin.clone()), message));
        }
        let mut warnings = Vec::new();
        let (outbounds, final_outbound) = self.resolve_outbounds(errors, &mut warnings);
        let dns = self.dns(&outbounds, errors);
        if let Some(Located { value, origin }) = &self.include
            && value.is_empty()
        {
            let message =
                "capture.include: an empty list captures nothing; leave the key out to capture everything";
            errors.push(ConfigError::new(Some(origin.clone()), message));
        }
        let config = Config {
            capture: CaptureConfig {
                mode: value_or(self.mode, CaptureMode::Tun),
                stack: value_or(self.stack, DEFAULT_STACK),
                include: self.include.map(|set| set.value).unwrap_or_default(),
                exclude: self.exclude.map(|set| set.value).unwrap_or_default(),
                exclude_uid: self.exclude_uid.map(|set| set.value).unwrap_or_default(),
                exclude_cgroup: self.exclude_cgroup.map(|set| set.value).unwrap_or_default(),
                exclude_process: self.exclude_process.map(|set| set.value).unwrap_or_default(),
                forwarded: value_or(self.forwarded, false),
                ipv6: value_or(self.ipv6, true),
                strict: value_or(self.strict, false),
            },
            tun: TunConfig {
                name: self.tun_name.map(|set| set.value),
                addresses: self.tun_addresses.map(|set| set.value).unwrap_or_default(),
                mtu: self.mtu.map(|set| set.value),
                fd: self.tun_fd.map(|set| set.value),
                pcap: self.pcap.map(|set| set.value),
                fault: self.fault.map(|set| set.value),
            },
            egress: EgressConfig {
                protect: value_or(self.protect, Protect::Auto),
                interface: self.interface.map(|set| set.value),
                mark: self.mark.map(|set| set.value),
                netns: self.netns.map(|set| set.value),
            },
            outbounds,
            rules: self.rules.into_config(final_outbound),
            dns,
            sniff: self.sniff,
            limits: LimitsConfig { half_closed: self.half_closed.map(|set| set.value) },
            confirm: self.confirm.map(|set| set.value),
            control: self.control.map(|set| set.value),
            log: LogConfig {
                level: value_or(self.log_level, LogLevel::Info),
                format: value_or(self.log_format, LogFormat::Text),
            },
            without: self.without,
        };
        (config, warnings)
    }

    /// What is understood but cannot be done yet is refused here, in one place, and not half done.
    fn refuse_later_versions(&self, errors: &mut Vec<ConfigError>) {
        let mut refuse = |origin: &Origin, what: &str| {
            let message = format!("{what} is not available in this version");
            errors.push(ConfigError::new(Some(origin.clone()), message));
        };
        if let Some(set) = &self.api {
            refuse(&set.origin, "the HTTP API");
        }
    }

    /// Fake addresses are for proxies, which resolve names themselves; without one, names keep their addresses.
    fn dns(
        &mut self,
        outbounds: &BTreeMap<String, OutboundSpec>,
        errors: &mut Vec<ConfigError>,
    ) -> DnsConfig {
        let proxied = outbounds.values().any(|outbound| matches!(outbound, OutboundSpec::Proxy(_)));
        let default = if proxied { DnsMode::FakeIp } else { DnsMode::Real };
        let mode = self.dns_mode.as_ref().map_or(default, |set| set.value);
        let authorities = self.dns_ca.as_ref().and_then(|Located { value, origin }| {
            let wrong = |error| ConfigError::new(Some(origin.clone()), format!("dns.ca: {error}"));
            Authorities::read(value).map_err(|error| errors.push(wrong(error))).ok()
        });
        DnsConfig {
            mode,
            upstream: self.dns_upstream.take().map(|set| set.value).unwrap_or_default(),
            domains: std::mem::take(&mut self.dns_domains),
            ca: self.dns_ca.take().map(|set| set.value),
            authorities,
            skip_verify: self.dns_skip_verify.take().is_some_and(|set| set.value),
            resolver: self.dns_resolver.take().map_or(HostResolver::Auto, |set| set.value),
            fake_ip: FakeIpConfig::from(std::mem::take(&mut self.fake_ip)),
        }
    }

    /// Adds the outbounds that always exist and finds out which one is final.
    fn resolve_outbounds(
        &mut self,
        errors: &mut Vec<ConfigError>,
        warnings: &mut Vec<ConfigError>,
    ) -> (BTreeMap<String, OutboundSpec>, String) {
        let mut default_final = DIRECT;
        if let Some(Located { value, origin }) = self.proxy.take() {
            if self.outbounds.contains_key(PROXY) {
                let message = "proxy: [outbound.proxy] defines this outbound already; give one of the two";
                errors.push(ConfigError::new(Some(origin.clone()), message));
            }
            self.outbounds.insert(PROXY.to_owned(), Located { value: OutboundSpec::Proxy(value), origin });
            default_final = PROXY;
        }
        let given = std::mem::take(&mut self.outbounds);
        let is_member = |name: &str| {
            given.values().any(|set| match &set.value {
                OutboundSpec::Group(group) => group.members.iter().any(|member| member == name),
                _ => false,
            })
        };
        let unmatched = match self.final_outbound.take() {
            None => default_final.to_owned(),
            Some(Located { value, origin }) => {
                if !given.contains_key(&value) && value != DIRECT && value != BLOCK {
                    let known = [DIRECT, BLOCK].into_iter().chain(given.keys().map(String::as_str));
                    let known = known.collect::<Vec<_>>().join(", ");
                    let message = format!("rules.final: no outbound is named {value:?}; there are {known}");
                    errors.push(ConfigError::new(Some(origin), message));
                }
                value
            }
        };
        // Nothing is left for the other then. One that is not defined is named where the rule is parsed.
        let matched = self.rules.matched_by_all().and_then(|name| match given.contains_key(&name) {
            true => Some(name),
            false => canonical(&name).map(str::to_owned),
        });
        let final_outbound = matched.unwrap_or(unmatched);
        for (name, outbound) in &given {
            if *name != final_outbound && !self.rules.mention(name) && !is_member(name) {
                let message = format!("no rule leads to the outbound {name:?}, and it is not the final one");
                warnings.push(ConfigError::new(Some(outbound.origin.clone()), message));
            }
        }
        let mut outbounds: BTreeMap<_, _> = given.into_iter().map(|(name, set)| (name, set.value)).collect();
        outbounds.insert(DIRECT.to_owned(), OutboundSpec::Direct);
        outbounds.insert(BLOCK.to_owned(), OutboundSpec::Block);
        (outbounds, final_outbound)
    }
}

fn value_or<T>(set: Set<T>, default: T) -> T {
    set.map_or(default, |set| set.value)
}

/// Resolves a path of the configuration against the folder of its file.
pub(super) fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
}
