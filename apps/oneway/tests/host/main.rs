//! What `oneway run`, with each stack where that matters, does to the host it runs on, seen on the wire of a laboratory.

#[cfg(target_os = "linux")]
mod common;
#[cfg(target_os = "linux")]
mod flows;
#[cfg(target_os = "linux")]
mod health;
#[cfg(target_os = "linux")]
mod inbound;
#[cfg(target_os = "linux")]
mod killed;
#[cfg(target_os = "linux")]
mod loops;
#[cfg(target_os = "linux")]
mod malformed;
#[cfg(target_os = "linux")]
mod rights;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let both = oneway_lab::variants![
        oneway_lab::harness::Harness::new(),
        ["user", "system"],
        loops::nothing_that_leads_nowhere_leaves_or_repeats,
        flows::one_datagram_is_one_flow_and_one_packet,
        flows::counters_match_what_programs_sent,
        flows::counters_match_what_programs_and_containers_sent,
        killed::under_load,
        killed::a_clean_stop_leaves_nothing,
        rights::a_handed_over_device_needs_none,
        rights::thousands_of_flows_stop_in_time,
        inbound::a_published_container_answers_as_without_us,
        inbound::sessions_survive_start_and_stop,
        inbound::a_bound_program_is_captured,
        inbound::servers_answer_as_without_us,
        inbound::strict_reverse_path_filter_changes_nothing,
        malformed::what_is_wrong_is_counted_and_dropped,
        malformed::noise_stops_nothing,
        health::idle_costs_nothing,
        health::descriptors_come_back,
        health::a_proxy_that_is_down_refuses_and_recovers,
        health::a_deleted_device_ends_it,
    ];
    oneway_lab::variants![
        both,
        ["user"],
        killed::while_it_starts,
        killed::while_it_stops,
        killed::a_second_instance_does_not_disturb_the_first,
        killed::recover_is_safe_at_any_time,
        loops::what_is_never_captured_goes_as_without_us,
        loops::a_resolver_on_the_tun_keeps_quiet,
        flows::fragments_find_a_connection_made_again,
        rights::one_capability_is_enough,
        inbound::servers_answer_as_without_us_beside_source_rules,
        health::wrong_use_changes_nothing,
    ]
    .run()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
