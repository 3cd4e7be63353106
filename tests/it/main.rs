//! One guarded run, seen from outside: real processes, real locks, real signals.
//!
//! Each file is named after the promise that it shows; `support` holds what they stand on. Repetition
//! counts are a tenth of the full ones unless `CCCI_IT_FULL=1` or `CI=true` is set.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    missing_docs,
    reason = "tests fail by panic and speak on stdout"
)]

mod abra_dir_commands;
mod abra_dir_killed;
mod abra_dir_removal;
mod adapted_harness;
mod asked_to_stop;
mod auto_start;
mod auto_teardown;
mod caller_dies;
mod chaos;
mod closed_output;
mod dead_run;
mod deadline;
mod doctor;
mod doctor_tools;
mod drone_runner;
mod exec_in_place;
mod exit_status;
mod fault_matrix;
mod help;
mod injected_errors;
mod interface;
mod janitor_against_guards;
mod janitor_gc;
mod janitor_lists;
mod janitor_mission;
mod janitor_names;
mod janitor_report;
mod janitor_stopping;
mod limits;
mod lock_as_nobody;
mod lock_files;
mod lock_holder;
mod lock_line;
mod lock_order;
mod lock_unlinked;
mod lock_waiting;
mod locks_command;
mod locks_states;
mod log_output;
mod manual;
mod nested;
mod noted_apps;
mod one_owner;
mod orphan_check;
mod own_tools;
mod pid_namespace;
mod python_harness;
mod reap;
mod recipe_concurrent;
mod recipe_copy;
mod recipe_fetch;
mod recipe_hostile;
mod recipe_staged;
mod recipe_verify;
mod report;
mod run_abra_dir;
mod run_abra_dir_ends;
mod run_abra_dir_killed;
mod run_abra_dir_refused;
mod security_environment;
mod security_locks;
mod security_names;
mod security_output;
mod security_secrets;
mod security_set_uid;
mod self_deadlock;
mod settings_errors;
mod signal_state;
mod snapshots;
mod soak;
mod state_commands;
mod state_files;
mod state_gc;
mod state_two_runs;
mod still_ours;
mod support;
mod takeover;
mod teardown_runs;
mod terminal;
mod terminal_people;
mod tidy;
mod what_the_harness_sees;
mod whole_tree;
