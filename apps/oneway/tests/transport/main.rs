//! What programs see of their connections and datagrams through `oneway run`, with each stack, and what is on the wire.

#[cfg(target_os = "linux")]
mod bounds;
#[cfg(target_os = "linux")]
mod common;
#[cfg(target_os = "linux")]
mod connect;
#[cfg(target_os = "linux")]
mod crowd;
#[cfg(target_os = "linux")]
mod datagrams;
#[cfg(target_os = "linux")]
mod disturbed;
#[cfg(target_os = "linux")]
mod draining;
#[cfg(target_os = "linux")]
mod echo;
#[cfg(target_os = "linux")]
mod groups;
#[cfg(target_os = "linux")]
mod half_closed;
#[cfg(target_os = "linux")]
mod mtu;
#[cfg(target_os = "linux")]
mod offload;
#[cfg(target_os = "linux")]
mod ports;
#[cfg(target_os = "linux")]
mod reload;
#[cfg(target_os = "linux")]
#[path = "../support/shadowsocks.rs"]
mod shadowsocks;
#[cfg(target_os = "linux")]
mod shortcut;
#[cfg(target_os = "linux")]
mod sniff;
#[cfg(target_os = "linux")]
mod streams;
#[cfg(target_os = "linux")]
#[path = "../support/tls.rs"]
mod tls;
#[cfg(target_os = "linux")]
#[path = "../support/trojan.rs"]
mod trojan;
#[cfg(target_os = "linux")]
mod tunnels;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let both = oneway_lab::variants![
        oneway_lab::harness::Harness::new(),
        ["user", "system"],
        connect::a_closed_port_is_refused_before_any_syn_ack,
        connect::a_black_hole_stays_silent,
        connect::unreachable_is_unreachable,
        connect::a_scan_shows_exactly_the_open_ports,
        connect::hanging_dials_delay_nobody,
        reload::flows_that_are_still_allowed_stay,
        reload::a_wrong_file_changes_nothing,
        reload::a_hundred_reloads_leave_nothing_behind,
        reload::what_is_captured_may_change,
        reload::new_servers_get_their_routes_first,
        sniff::a_name_leads_to_its_outbound,
        sniff::a_name_that_leads_to_the_same_group_changes_nothing,
        sniff::a_name_leads_to_a_group_that_finds_out_by_trying,
        sniff::a_connection_takes_one_turn,
        sniff::a_name_that_shares_its_address_is_not_taken_for_another,
        sniff::what_has_no_name_goes_by_its_address,
        sniff::a_server_that_speaks_first_is_heard,
        sniff::a_name_may_be_refused,
        sniff::a_reset_in_place_of_a_name_travels_as_a_reset,
        sniff::a_name_in_datagrams_leads_to_its_outbound,
        sniff::a_name_in_datagrams_is_not_taken_for_another,
        streams::half_close_keeps_every_byte,
        streams::a_connection_at_rest_is_no_flow,
        streams::a_reset_travels_as_a_reset,
        streams::a_reset_at_once_travels_as_a_reset,
        streams::a_reset_reaches_an_end_that_reads_nothing,
        streams::an_end_waits_for_a_client_that_reads_nothing,
        streams::urgent_bytes_are_bytes,
        streams::an_answer_before_a_reset_is_heard,
        streams::words_before_an_immediate_reset_are_heard,
        streams::an_answer_to_half_an_upload_is_heard,
        streams::short_flows_leave_nothing,
        streams::every_proxy_protocol_carries,
        half_closed::silence_is_reaped,
        half_closed::after_a_long_rest_there_is_time_for_an_answer,
        half_closed::a_slow_reader_gets_everything,
        half_closed::a_slow_server_gets_everything,
        bounds::ended_connections_leave_no_memory,
        bounds::a_handshake_that_is_never_finished_is_given_up,
        bounds::a_silent_proxy_holds_a_bounded_amount,
        bounds::slow_readers_hold_a_bounded_amount,
        ports::its_datagrams_are_captured,
        ports::its_connections_are_captured,
        datagrams::one_mapping_for_all_destinations,
        datagrams::what_the_uplink_has_no_room_for_is_lost_in_silence,
        datagrams::what_was_asked_about_waits_for_nothing_else,
        datagrams::no_two_answers_have_the_same_identification,
        datagrams::third_parties_answer_with_their_true_source,
        datagrams::a_lost_association_is_made_again,
        datagrams::what_waits_is_counted_when_it_is_sent_or_dropped,
        datagrams::a_proxy_that_cannot_carry_them_is_told_at_once,
        datagrams::every_size_arrives_whole,
        datagrams::a_closed_port_is_reported,
        datagrams::no_icmp_error_ends_a_session,
        datagrams::answers_to_third_parties_are_captured,
        echo::directly_it_is_the_far_end_that_answers,
        echo::nobody_answers_for_the_dead,
        echo::errors_about_another_stop_no_ping,
        echo::many_at_once_get_one_reply_each,
        echo::a_socket_for_pings_alone_tells_the_truth,
        echo::through_a_proxy_it_is_refused_and_nothing_leaks,
        mtu::every_mtu_of_the_device_carries,
        mtu::a_narrow_path_beyond_is_heeded,
        mtu::a_narrow_path_to_a_container_is_heeded,
        mtu::a_narrow_container_is_heeded,
        crowd::parallel_streams_all_complete,
        crowd::too_few_descriptors_refuse_the_new_and_keep_the_old,
        crowd::with_too_few_descriptors_nothing_starts,
        crowd::one_source_does_not_take_all_places,
        crowd::one_source_does_not_take_all_sessions,
        crowd::places_of_clients_that_gave_up_are_free_again,
        disturbed::every_byte_survives_a_bad_link,
        disturbed::corruption_is_seen_by_the_receiver,
        disturbed::the_packet_file_has_both_directions,
        disturbed::a_packet_file_that_cannot_be_made_is_said,
        offload::a_device_without_any_carries_every_byte,
        offload::a_clients_superpacket_arrives_as_its_datagrams,
        offload::datagrams_that_wait_together_leave_together,
        offload::datagrams_too_long_for_the_uplink_arrive_one_by_one,
        offload::answers_that_came_together_are_single_datagrams_again,
        shortcut::a_captured_program_is_not_paced,
        groups::the_first_that_works_is_taken,
        groups::a_flow_that_finds_a_member_down_takes_the_next,
        groups::the_fastest_is_taken,
        groups::a_selection_survives,
        groups::flows_are_spread,
        groups::flows_are_spread_below_a_group_that_finds_out_by_trying,
        groups::members_of_members_are_tried_and_checked,
        groups::a_selection_that_is_down_is_left,
        groups::datagrams_take_a_member_that_carries_them,
        groups::datagrams_stay_with_their_member,
        groups::datagrams_leave_a_member_that_is_gone,
        groups::a_proxy_that_carries_no_datagrams_keeps_its_connections,
        groups::a_proxy_that_carries_no_datagrams_is_not_asked_with_each,
        groups::datagrams_of_a_group_that_fails_take_a_member_that_carries_them,
        groups::what_reaches_a_destination_is_found_out_and_remembered,
        tunnels::every_byte_travels_and_each_half_ends_for_itself,
        tunnels::both_directions_carry_at_once,
        tunnels::a_reset_travels_as_a_reset,
        tunnels::a_refused_target_is_no_connection,
        tunnels::a_server_that_dies_resets_its_flows,
        tunnels::a_reset_reaches_a_client_that_reads_nothing,
        tunnels::an_impostor_carries_nothing,
        tunnels::other_authorities_are_taken_up,
        tunnels::datagrams_travel_by_a_stream_or_sealed,
        tunnels::groups_know_that_they_carry_datagrams,
        tunnels::every_cipher_carries_and_a_wrong_key_does_not,
        tunnels::a_lost_stream_of_datagrams_is_made_again,
    ];
    let both = oneway_lab::variants![
        both,
        ["system"],
        shortcut::what_carries_much_is_renamed_in_the_kernel,
        shortcut::what_is_recorded_comes_by_the_program,
    ];
    oneway_lab::variants![
        both,
        ["user"],
        draining::a_port_used_again_leaves_the_upload_of_before_alone,
        draining::a_reload_that_forbids_them_resets_them,
        draining::they_are_reset_when_the_program_stops,
        draining::a_server_that_resets_ends_them,
        bounds::slow_servers_hold_a_bounded_amount,
        bounds::a_bad_link_costs_no_more_than_with_the_kernels_tcp,
        mtu::a_packet_leaves_as_whole_segments,
    ]
    .run()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
