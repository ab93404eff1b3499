//! What programs see of DNS through `oneway run`, with each stack, and what is asked of whom.

#[cfg(target_os = "linux")]
mod common;
#[cfg(target_os = "linux")]
mod fake;
#[cfg(target_os = "linux")]
mod quic;
#[cfg(target_os = "linux")]
mod real;
#[cfg(target_os = "linux")]
mod reload;
#[cfg(target_os = "linux")]
mod resolver;
#[cfg(target_os = "linux")]
mod rules;
#[cfg(target_os = "linux")]
mod secure;
#[cfg(target_os = "linux")]
mod strict;
#[cfg(target_os = "linux")]
#[path = "../support/tls.rs"]
mod tls;
#[cfg(target_os = "linux")]
mod upstreams;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let both = oneway_lab::variants![
        oneway_lab::harness::Harness::new(),
        ["user", "system"],
        fake::the_proxy_gets_the_name,
        fake::without_a_proxy_the_name_is_resolved_here,
        fake::a_stale_address_is_refused_and_never_dialled,
        real::names_get_their_own_addresses,
        rules::a_name_is_looked_up_for_a_rule_on_addresses,
        real::large_answers_come_whole,
        real::silent_connections_leave_descriptors,
        strict::no_query_is_on_the_wire,
        strict::the_bootstrap_is_the_only_query,
        resolver::who_asks_on_the_link_asks_here,
        resolver::every_mode_answers,
    ];
    oneway_lab::variants![
        both,
        ["user"],
        fake::a_restart_keeps_the_addresses,
        fake::what_is_excluded_gets_its_own_address,
        reload::names_and_servers_may_change,
        rules::a_refused_address_is_not_come_to_by_the_other_family,
        rules::why_tells_the_inner_rule_and_what_it_could_not_ask,
        rules::no_resolve_asks_nobody,
        rules::a_silent_server_costs_a_flow_two_seconds_once,
        real::switched_off_it_is_carried_like_other_traffic,
        real::noise_is_dropped_and_counted,
        resolver::the_systems_servers_are_followed,
        resolver::nothing_is_changed_where_the_capture_does,
        resolver::who_writes_over_it_is_named_and_comes_back,
        resolver::after_a_crash_it_is_recovered,
        resolver::what_cannot_be_changed_is_said,
        upstreams::a_dead_one_is_passed_over,
        upstreams::when_all_are_dead_the_answer_says_so,
        upstreams::some_names_are_asked_for_elsewhere,
        upstreams::a_stub_that_asks_us_gets_its_answer,
        upstreams::spoofed_and_malformed_answers_are_dropped_and_counted,
        upstreams::a_proxy_given_by_name_is_followed,
        upstreams::a_proxy_that_is_not_found_is_down_alone,
        secure::names_are_asked_by_tls_on_one_connection,
        secure::names_are_asked_by_https_on_one_connection,
        secure::an_impostor_is_not_asked,
        secure::a_resolver_given_by_name_is_found_outside_the_capture,
        secure::a_lost_connection_is_made_again,
        quic::names_are_asked_by_quic_on_one_connection,
        quic::an_impostor_is_not_asked_by_quic,
        quic::a_lost_connection_of_quic_is_passed_over,
    ]
    .run()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
