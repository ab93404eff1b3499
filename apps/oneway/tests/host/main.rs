//! What `oneway run`, with each stack where that matters, does to the host it runs on, seen on the wire of a laboratory.

#[cfg(target_os = "linux")]
mod breaker;
#[cfg(target_os = "linux")]
mod common;
#[cfg(target_os = "linux")]
mod drift;
#[cfg(target_os = "linux")]
mod exclude;
#[cfg(target_os = "linux")]
mod exec;
#[cfg(target_os = "linux")]
mod filter;
#[cfg(target_os = "linux")]
mod flows;
#[cfg(target_os = "linux")]
mod handed;
#[cfg(target_os = "linux")]
mod health;
#[cfg(target_os = "linux")]
mod inbound;
#[cfg(target_os = "linux")]
mod killed;
#[cfg(target_os = "linux")]
mod lab;
#[cfg(target_os = "linux")]
mod loops;
#[cfg(target_os = "linux")]
mod malformed;
#[cfg(target_os = "linux")]
mod prove;
#[cfg(target_os = "linux")]
mod rights;
#[cfg(target_os = "linux")]
mod strategies;
#[cfg(target_os = "linux")]
mod strict;
#[cfg(target_os = "linux")]
mod uplink;
#[cfg(target_os = "linux")]
mod vpn;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let both = oneway_lab::variants![
        oneway_lab::harness::Harness::new(),
        ["user", "system"],
        loops::nothing_that_leads_nowhere_leaves_or_repeats,
        flows::one_datagram_is_one_flow_and_one_packet,
        flows::each_flow_is_logged_once_when_asked_for,
        flows::what_is_refused_is_logged_with_its_rule,
        flows::counters_match_what_programs_sent,
        flows::counters_match_what_programs_and_containers_sent,
        killed::under_load,
        killed::a_clean_stop_leaves_nothing,
        killed::a_panic_undoes_everything,
        killed::a_reader_that_is_stuck_holds_up_nothing,
        rights::a_handed_over_device_needs_none,
        rights::thousands_of_flows_stop_in_time,
        inbound::a_published_container_answers_as_without_us,
        inbound::sessions_survive_start_and_stop,
        inbound::a_bound_program_is_captured,
        inbound::servers_answer_as_without_us,
        inbound::strict_reverse_path_filter_changes_nothing,
        inbound::a_reverse_path_filter_of_nftables_changes_nothing,
        vpn::neither_captures_the_other,
        malformed::what_is_wrong_is_counted_and_dropped,
        malformed::fragments_without_room_are_not_malformed,
        malformed::noise_stops_nothing,
        malformed::an_answer_for_a_port_of_our_own_goes_nowhere,
        health::idle_costs_nothing,
        health::descriptors_come_back,
        health::a_proxy_that_is_down_refuses_and_recovers,
        uplink::everything_that_happens_to_uplinks,
        uplink::both_are_down_for_half_a_minute,
        breaker::a_foreign_rule_cannot_make_a_storm,
        breaker::one_destination_that_loops_leaves_the_others_alone,
        health::a_deleted_device_ends_it,
        exclude::a_local_proxy_works_when_it_is_excluded,
        exclude::a_circle_is_refused_and_named,
        exec::a_program_goes_through_a_proxy,
        exec::a_program_goes_directly,
        exec::rules_know_the_program_and_its_user,
        filter::what_begins_outside_is_dropped,
        strict::a_family_that_is_switched_off_is_refused,
        strict::bound_sockets_are_refused,
        strict::a_killed_instance_leaves_the_refusal,
        strict::a_failure_leaves_the_refusal,
        strict::resolvers_on_the_link_are_captured,
        strict::ipv6_never_leaks,
        handed::programs_are_carried_and_no_segment_is_in_the_device,
        handed::what_leads_nowhere_is_reset_at_once,
        handed::one_source_does_not_take_all_places,
        handed::who_closes_without_a_word_is_not_waited_for,
        handed::who_has_said_or_awaits_something_is_waited_for,
        handed::a_killed_one_leaves_nothing_in_the_way,
    ];
    let both = lab::each(strategies::each(both));
    let both = oneway_lab::variants![
        both,
        ["system"],
        filter::what_begins_to_drop_is_named_once,
        filter::a_flood_of_syns_is_not_taken_for_a_filter,
    ];
    oneway_lab::variants![
        both,
        ["user"],
        killed::while_it_starts,
        killed::while_it_stops,
        killed::a_second_instance_does_not_disturb_the_first,
        killed::recover_is_safe_at_any_time,
        exclude::a_circle_is_refused_without_the_right_to_look,
        exclude::its_own_user_is_excluded,
        exclude::a_group_that_is_made_again_is_excluded_again,
        exclude::a_killed_instance_leaves_the_excluded_in_peace,
        exclude::the_command_becomes_the_program,
        exec::beside_a_captured_host,
        exec::it_ends_as_the_program_does,
        exec::signals_reach_the_program,
        exec::a_shell_controls_it_as_any_job,
        exec::what_has_no_meaning_is_refused,
        exec::without_user_namespaces_it_says_what_to_grant,
        exec::a_killed_one_leaves_nothing,
        exec::the_last_bytes_of_a_program_arrive,
        loops::what_is_never_captured_goes_as_without_us,
        loops::a_resolver_on_the_tun_keeps_quiet,
        prove::the_doctor_proves_before_and_while_it_runs,
        prove::the_doctor_finds_what_others_broke,
        prove::why_follows_a_packet,
        strategies::routes_into_the_device_do_not_count_for_mark_ifgroup,
        strategies::names_are_asked_for_in_the_namespace,
        strategies::a_server_that_moves_gets_a_host_route,
        strategies::what_a_host_cannot_carry_is_refused_by_name,
        prove::check_finds_loops_before_anything_is_touched,
        flows::fragments_find_a_connection_made_again,
        flows::ports_change_hands_beside_a_redirection,
        flows::answers_to_an_address_that_is_gone_stay_here,
        rights::one_capability_is_enough,
        rights::who_may_not_see_programs_is_told,
        rights::a_handed_over_device_is_planned_for,
        rights::a_device_with_packet_info_is_refused,
        inbound::servers_answer_as_without_us_beside_source_rules,
        health::wrong_use_changes_nothing,
        drift::whatever_is_removed_is_put_back,
        drift::whatever_strict_needs_is_put_back,
        drift::a_fight_is_fought_slowly_and_named,
        drift::a_renamed_device_gets_its_name_back,
        drift::a_device_that_is_taken_away_ends_it,
        drift::a_crash_after_restores_leaves_nothing,
        drift::what_nobody_confirms_is_undone,
        drift::a_network_that_comes_later_is_noticed,
        uplink::everything_that_happens_to_bound_uplinks,
        uplink::everything_that_happens_under_strict,
        uplink::no_uplink_at_the_start,
        uplink::no_uplink_to_bind_to_at_the_start,
        uplink::a_pinned_uplink_is_waited_for,
        uplink::each_family_has_its_own_uplink,
        uplink::ipv6_is_switched_off,
        uplink::a_table_for_an_address_of_the_host,
        uplink::a_reverse_path_filter_that_comes_later,
        uplink::default_routes_in_another_table,
        uplink::next_hop_objects_are_followed,
        vpn::a_mark_is_exempt_while_more_changes_come,
        inbound::own_addresses_are_reached_where_they_are_asked_for_late,
        breaker::a_route_into_our_device_is_not_followed,
        breaker::removing_our_rules_makes_no_loop,
        breaker::a_rule_into_our_table_leads_nowhere,
        breaker::others_with_the_same_port_are_not_taken_for_us,
        strict::removed_rules_let_nothing_out,
        handed::a_deleted_table_is_put_back,
        handed::a_strict_reverse_path_filter_is_in_nobodys_way,
        handed::whoever_restores_marks_is_in_nobodys_way,
        handed::rules_know_how_it_comes_in,
        strict::what_cannot_be_strict_is_refused_by_name,
        lab::without_a_guard_nothing_is_proven,
        lab::without_the_watch_a_deleted_rule_ends_the_capture,
        lab::an_ordinary_user_can_play_it,
        lab::a_guard_is_left_out_by_that_option_alone,
    ]
    .run()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
