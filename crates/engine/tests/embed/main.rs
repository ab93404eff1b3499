//! The engine as a library: what a program that has it inside may rely on, in network namespaces of a laboratory.

#[cfg(target_os = "linux")]
mod common;
#[cfg(target_os = "linux")]
mod descriptors;
#[cfg(target_os = "linux")]
mod handed;
#[cfg(target_os = "linux")]
mod namespace;
#[cfg(target_os = "linux")]
mod start;
#[cfg(target_os = "linux")]
mod stop;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    oneway_lab::tests![
        descriptors::without_any_it_is_undone_or_not_begun,
        handed::a_descriptor_stays_its_owners,
        namespace::a_stop_elsewhere_undoes_at_home,
        namespace::questions_elsewhere_are_about_home,
        start::everything_works_inside_a_runtime,
        start::a_panic_of_the_caller_undoes_everything,
        stop::everybody_is_told_why_it_failed,
        stop::what_could_not_be_undone_is_tried_again,
        stop::what_is_left_shut_stays_so,
        stop::whoever_stops_it_too_waits,
    ]
    .role(descriptors::STARVED, descriptors::starved)
    .run()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
