//! The layout of `oneway.toml`: which keys each section has and what they hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oneway_outbound::Method;
use toml::de::DeTable;

use super::dns::{DnsUpstream, FakeIpSettings, NamePattern, wrong_domain};
use super::error::ConfigError;
use super::limits::Wait;
use super::outbound::{
    self, BLOCK, Credentials, DIRECT, OutboundKind, OutboundSpec, PROXY, ProxyProtocol, ProxySpec, Server,
    kind_from_word,
};
use super::reader::{FromToml, Number, Reader, Section, Text};
use super::rules::{self, ReadFile};
use super::settings::{Located, Settings, beside};
use super::sniff::SniffConfig;
use super::value::either;

/// Reads a whole file. If its syntax is wrong only that is reported: what follows would be guesswork.
pub(super) fn read(file: &Path, text: &str, read_file: ReadFile<'_>) -> (Settings, Vec<ConfigError>) {
    let mut reader = Reader::new(file, text);
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() && crate::import::is_clash(file, text) {
        let message = "this looks like a configuration of Clash; `oneway import` prints the one of ours that it amounts to";
        reader.error(&(0..0), message);
        return (Settings::default(), reader.errors);
    }
    if !syntax_errors.is_empty() {
        for error in &syntax_errors {
            reader.error(&error.span().unwrap_or(0..0), error.message());
        }
        return (Settings::default(), reader.errors);
    }
    let mut settings = Settings::default();
    let mut root = Section::root(document.get_ref());
    settings.proxy = text_at(&mut root, "proxy", &mut reader);
    settings.confirm = root.read("confirm", &mut reader);
    settings.control = root.read::<Located<String>>("control", &mut reader).map(|set| set.map(PathBuf::from));
    if let Some(section) = root.section("capture", &mut reader) {
        capture(section, &mut settings, &mut reader);
    }
    if let Some(section) = root.section("tun", &mut reader) {
        tun(section, &mut settings, &mut reader, file);
    }
    if let Some(section) = root.section("egress", &mut reader) {
        egress(section, &mut settings, &mut reader);
    }
    if let Some(section) = root.section("dns", &mut reader) {
        dns(section, &mut settings, &mut reader, file);
    }
    if let Some(section) = root.section("sniff", &mut reader) {
        sniff(section, &mut settings, &mut reader);
    }
    if let Some(section) = root.section("limits", &mut reader) {
        limits(section, &mut settings, &mut reader);
    }
    if let Some(section) = root.section("outbound", &mut reader) {
        settings.outbounds = outbounds(&section, &mut reader, file);
    }
    if let (None, Some(wrong)) = (&settings.proxy, root.raw("proxy")) {
        let origin = reader.origin(&wrong.span());
        let stands_in = Located { value: OutboundSpec::Block, origin };
        settings.outbounds.entry(PROXY.to_owned()).or_insert(stands_in);
    }
    if let Some(section) = root.section("rules", &mut reader) {
        rules::rules(section, &mut settings, &mut reader, file, read_file);
    }
    if let Some(section) = root.section("rule-set", &mut reader) {
        settings.rules.sets = rules::rule_sets(&section, &mut reader, file, read_file);
    }
    if let Some(section) = root.section("sub-rules", &mut reader) {
        settings.rules.subs = rules::sub_rules(&section, &mut reader);
    }
    settings.api = root.later("api").map(|span| Located { value: (), origin: reader.origin(&span) });
    if let Some(section) = root.section("log", &mut reader) {
        log(section, &mut settings, &mut reader);
    }
    root.finish(&mut reader);
    (settings, reader.errors)
}

fn capture(mut section: Section<'_, '_>, settings: &mut Settings, reader: &mut Reader<'_>) {
    settings.mode = text_at(&mut section, "mode", reader);
    settings.stack = text_at(&mut section, "stack", reader);
    settings.include = texts_at(&mut section, "include", reader);
    settings.exclude = texts_at(&mut section, "exclude", reader);
    settings.exclude_uid = section
        .read::<Located<Vec<Number<_>>>>("exclude-uid", reader)
        .map(|set| set.map(|uids| uids.into_iter().map(|uid| uid.0).collect()));
    settings.exclude_cgroup = texts_at(&mut section, "exclude-cgroup", reader);
    settings.exclude_process = texts_at(&mut section, "exclude-process", reader);
    settings.forwarded = section.read("forwarded", reader);
    settings.ipv6 = section.read("ipv6", reader);
    settings.strict = section.read("strict", reader);
    section.finish(reader);
}

fn tun(mut section: Section<'_, '_>, settings: &mut Settings, reader: &mut Reader<'_>, file: &Path) {
    settings.tun_name = text_at(&mut section, "name", reader);
    settings.tun_addresses = texts_at(&mut section, "addresses", reader);
    settings.mtu = number_at(&mut section, "mtu", reader);
    settings.tun_fd = number_at(&mut section, "fd", reader);
    settings.pcap =
        section.read::<Located<String>>("pcap", reader).map(|set| set.map(|path| beside(file, &path)));
    settings.fault = text_at(&mut section, "fault", reader);
    section.finish(reader);
}

fn egress(mut section: Section<'_, '_>, settings: &mut Settings, reader: &mut Reader<'_>) {
    settings.protect = text_at(&mut section, "protect", reader);
    settings.interface = text_at(&mut section, "interface", reader);
    settings.mark = number_at(&mut section, "mark", reader);
    settings.netns = text_at(&mut section, "netns", reader);
    section.finish(reader);
}

fn dns(mut section: Section<'_, '_>, settings: &mut Settings, reader: &mut Reader<'_>, file: &Path) {
    settings.dns_mode = text_at(&mut section, "mode", reader);
    settings.dns_upstream = texts_at(&mut section, "upstream", reader);
    settings.dns_resolver = text_at(&mut section, "resolver", reader);
    settings.dns_ca =
        section.read::<Located<String>>("ca", reader).map(|set| set.map(|path| beside(file, &path)));
    settings.dns_skip_verify = section.read("skip-verify", reader);
    if let Some(domains) = section.section("domains", reader) {
        dns_domains(&domains, settings, reader);
    }
    if let Some(mut fake_ip) = section.section("fake-ip", reader) {
        settings.fake_ip = FakeIpSettings {
            v4: fake_ip.read::<Text<_>>("v4", reader).map(|text| text.0),
            v6: fake_ip.read::<Text<_>>("v6", reader).map(|text| text.0),
            persist: fake_ip.read("persist", reader),
            exclude: texts_at(&mut fake_ip, "exclude", reader).map(|set| set.value).unwrap_or_default(),
        };
        fake_ip.finish(reader);
    }
    section.finish(reader);
}

/// Which resolvers are asked for some names.
fn dns_domains(section: &Section<'_, '_>, settings: &mut Settings, reader: &mut Reader<'_>) {
    for (pattern, span, upstreams) in section.lists::<Vec<Text<DnsUpstream>>>(reader) {
        let Some(upstreams) = upstreams else { continue };
        let upstreams: Vec<DnsUpstream> = upstreams.into_iter().map(|text| text.0).collect();
        match (pattern.parse::<NamePattern>(), wrong_domain(&pattern, &upstreams)) {
            (Err(why), _) => reader.error(&span, format!("dns.domains: {why}")),
            (Ok(_), Some(why)) => reader.error(&span, format!("dns.domains: {why}")),
            (Ok(pattern), None) => settings.dns_domains.push((pattern, upstreams)),
        }
    }
    settings.dns_domains.sort_by_key(|(pattern, _)| std::cmp::Reverse(narrowness(pattern.as_str())));
}

/// How narrow a pattern of names is: first by its labels, then `a.example`, `.a.example`, `+.a.example`, `*.example`. The narrowest that fits is the one that counts, wherever it stands: a table has no order.
fn narrowness(pattern: &str) -> (usize, usize) {
    let (name, kind) = match (pattern.strip_prefix("+."), pattern.strip_prefix('.')) {
        (Some(name), _) => (name, 1),
        (None, Some(name)) => (name, 2),
        (None, None) if pattern.split('.').any(|label| label.contains('*')) => (pattern, 0),
        (None, None) => (pattern, 3),
    };
    (name.split('.').count(), kind)
}

fn sniff(mut section: Section<'_, '_>, settings: &mut Settings, reader: &mut Reader<'_>) {
    let defaults = SniffConfig::default();
    settings.sniff = SniffConfig {
        enable: section.read("enable", reader).unwrap_or(defaults.enable),
        timeout: text_at::<Wait>(&mut section, "timeout", reader)
            .map_or(defaults.timeout, |set| set.value.get()),
        tls: number_list(&mut section, "tls", reader).unwrap_or(defaults.tls),
        http: number_list(&mut section, "http", reader).unwrap_or(defaults.http),
        quic: number_list(&mut section, "quic", reader).unwrap_or(defaults.quic),
    };
    section.finish(reader);
}

fn limits(mut section: Section<'_, '_>, settings: &mut Settings, reader: &mut Reader<'_>) {
    settings.half_closed = text_at(&mut section, "half-closed", reader);
    section.finish(reader);
}

fn outbounds(
    section: &Section<'_, '_>,
    reader: &mut Reader<'_>,
    file: &Path,
) -> BTreeMap<String, Located<OutboundSpec>> {
    let mut outbounds = BTreeMap::new();
    for (name, span, section) in section.each(reader) {
        if name == DIRECT || name == BLOCK {
            reader.error(&span, format!("the outbound `{name}` always exists and cannot be redefined"));
        } else if !rules::is_name(&name) {
            reader.error(
                &span,
                format!("{name:?} is no name for an outbound; rules need it without commas and blanks"),
            );
        } else {
            let origin = reader.origin(&span);
            // Whoever refers to one that is wrong is not wrong for that.
            let value = one_outbound(section, &span, reader, file).unwrap_or(OutboundSpec::Block);
            outbounds.insert(name, Located { value, origin });
        }
    }
    outbounds
}

fn one_outbound(
    mut section: Section<'_, '_>,
    span: &std::ops::Range<usize>,
    reader: &mut Reader<'_>,
    file: &Path,
) -> Option<OutboundSpec> {
    let Some(kind_value) = section.raw("type") else {
        reader.error(span, format!("[{}] has no `type`; use {}", section.name(), either(&outbound::types())));
        return None;
    };
    let word: String = section.read("type", reader)?;
    let kind = match kind_from_word(&word) {
        Ok(kind) => kind,
        // The other keys of an unknown type cannot be told right from wrong.
        Err(why) => {
            reader.error(&kind_value.span(), format!("{}.type: {why}", section.name()));
            return None;
        }
    };
    let spec = match kind {
        OutboundKind::Direct => Some(OutboundSpec::Direct),
        OutboundKind::Block => Some(OutboundSpec::Block),
        OutboundKind::Group(word) => {
            super::group::read(word, &mut section, span, reader).map(OutboundSpec::Group)
        }
        OutboundKind::Proxy(protocol) => {
            let missing = section.raw("server").is_none();
            if missing {
                reader.error(span, format!("[{}] has no `server`; add HOST:PORT", section.name()));
            }
            let server = section.read::<Text<Server>>("server", reader);
            let has_users = !matches!(protocol, ProxyProtocol::Trojan | ProxyProtocol::Shadowsocks);
            let username = if has_users { section.read("username", reader) } else { None };
            let password: Option<String> = section.read("password", reader);
            let method = match protocol {
                ProxyProtocol::Shadowsocks => shadowsocks(&mut section, span, password.as_deref(), reader),
                _ => None,
            };
            // The other protocols have nothing that could go ahead.
            let pipeline =
                protocol != ProxyProtocol::Socks5 || section.read("pipeline", reader).unwrap_or(true);
            let tls = super::tls::read(protocol, &mut section, span, reader, file);
            match Credentials::new(protocol, username, password) {
                Ok(credentials) => server.map(|server| {
                    let server = server.0;
                    OutboundSpec::Proxy(ProxySpec { protocol, server, credentials, pipeline, tls, method })
                }),
                Err(why) => {
                    reader.error(span, format!("[{}] {why}", section.name()));
                    None
                }
            }
        }
    };
    section.finish(reader);
    spec
}

/// The cipher of a Shadowsocks server, for which the password must be one.
fn shadowsocks(
    section: &mut Section<'_, '_>,
    span: &std::ops::Range<usize>,
    password: Option<&str>,
    reader: &mut Reader<'_>,
) -> Option<Method> {
    if section.raw("method").is_none() {
        let known = Method::ALL.map(Method::as_str);
        reader.error(span, format!("[{}] has no `method`; use {}", section.name(), either(&known)));
        return None;
    }
    let method = section.read::<Text<Method>>("method", reader)?.0;
    if let Err(why) = password.map_or(Ok(()), |password| method.check(password)) {
        reader.error(span, format!("[{}] {why}", section.name()));
    }
    Some(method)
}

fn log(mut section: Section<'_, '_>, settings: &mut Settings, reader: &mut Reader<'_>) {
    settings.log_level = text_at(&mut section, "level", reader);
    settings.log_format = text_at(&mut section, "format", reader);
    section.finish(reader);
}

/// Reads a value that is written as a string.
fn text_at<T>(section: &mut Section<'_, '_>, key: &'static str, reader: &mut Reader<'_>) -> Option<Located<T>>
where
    Text<T>: FromToml,
{
    section.read::<Located<Text<T>>>(key, reader).map(|set| set.map(|text| text.0))
}

/// Reads a list of values that are written as strings.
fn texts_at<T>(
    section: &mut Section<'_, '_>,
    key: &'static str,
    reader: &mut Reader<'_>,
) -> Option<Located<Vec<T>>>
where
    Text<T>: FromToml,
{
    section
        .read::<Located<Vec<Text<T>>>>(key, reader)
        .map(|set| set.map(|texts| texts.into_iter().map(|text| text.0).collect()))
}

/// Reads a list of values that are written as numbers.
fn number_list<T>(section: &mut Section<'_, '_>, key: &'static str, reader: &mut Reader<'_>) -> Option<Vec<T>>
where
    Number<T>: FromToml,
{
    let numbers: Vec<Number<T>> = section.read(key, reader)?;
    Some(numbers.into_iter().map(|number| number.0).collect())
}

/// Reads a value that is written as a number.
fn number_at<T>(
    section: &mut Section<'_, '_>,
    key: &'static str,
    reader: &mut Reader<'_>,
) -> Option<Located<T>>
where
    Number<T>: FromToml,
{
    section.read::<Located<Number<T>>>(key, reader).map(|set| set.map(|number| number.0))
}
