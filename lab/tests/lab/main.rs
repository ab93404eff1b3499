//! The laboratory tests itself: what it says about the wire and about servers is what scenario tests rely on.

#[cfg(target_os = "linux")]
mod network;
#[cfg(target_os = "linux")]
mod program;
#[cfg(target_os = "linux")]
mod proxies;
#[cfg(target_os = "linux")]
mod recorder;
#[cfg(target_os = "linux")]
mod rootless;
#[cfg(target_os = "linux")]
mod servers;
#[cfg(target_os = "linux")]
mod snapshot;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    oneway_lab::tests![
        network::standard_reaches_origin_by_the_first_uplink,
        network::second_uplink_takes_over_and_the_first_comes_back,
        network::container_reaches_origin,
        network::container_behind_nat_and_its_published_port,
        network::trouble_is_what_it_says,
        network::simple_has_the_same_trouble,
        network::source_rules_send_replies_by_their_uplink,
        network::namespaces_vanish,
        network::tun_hands_over_packets,
        network::thousands_of_connections_stay_open,
        network::rules_and_routes_are_flushed_by_protocol,
        servers::echo_and_sum_carry_bytes_exactly,
        servers::resets_and_silence,
        servers::http_answers,
        servers::datagrams_of_any_size_and_from_strangers,
        servers::counts_are_exact,
        servers::dns_answers,
        servers::dns_faults,
        proxies::socks_tells_the_truth,
        proxies::socks_password_and_split_replies,
        proxies::socks_carries_udp,
        proxies::socks4_and_4a,
        proxies::socks_kills_what_it_carries,
        proxies::http_proxy_connects,
        proxies::socks_in_a_process_of_its_own,
        recorder::sees_both_directions_and_nothing_else,
        recorder::counts_like_the_kernel,
        recorder::sees_icmp_and_fragments,
        snapshot::equal_when_nothing_changed,
        snapshot::tells_what_changed,
        program::runs_in_the_namespace,
        program::has_the_rights_it_was_left,
        program::fails_with_its_stderr,
        program::dies_with_its_handle,
        rootless::works_as_nobody,
    ]
    .role("sleeper", program::sleeper)
    .role("fails", program::fails)
    .role("nobody", rootless::nobody)
    .run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    assert_eq!(oneway_lab::enter(), Err(oneway_lab::Unsupported));
}
