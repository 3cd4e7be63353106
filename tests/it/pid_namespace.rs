//! In a pid namespace of its own, as pid 1, with a `/proc` of its own or, as `unshare -pf` leaves it, with that of the
//! host: its numbers are other processes' then, and a run ends as anywhere.

use crate::locks_command::unshared;
use crate::support::{APP, Guard, SOON, Sandbox, Teardown, alive, process};
use nix::sys::signal::{Signal, kill};
use std::time::Duration;

/// Each way to have one: unshare(1)'s words.
fn each(test: impl Fn(&Sandbox, &[String], &Teardown)) {
    for options in ["pf", "pf --mount-proc"] {
        let Some(words) = unshared(options) else { return };
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        test(&sandbox, &words, &teardown);
        sandbox.expect_over(SOON);
    }
}

fn run<'a>(sandbox: &'a Sandbox, teardown: &Teardown) -> Guard<'a> {
    sandbox.run().app().teardown(teardown.command()).report()
}

/// What the harness leaves is ended and counted; a neighbour in the namespace, started before, is not touched.
///
/// Found processes of the host that were counted as killed, and signals to neighbours that had their numbers. Seen
/// failing with the numbers of `/proc` taken as they are.
#[test]
fn survivors_are_those_of_the_run() {
    each(|sandbox, unshare, teardown| {
        // Many neighbours, with all the small numbers that a host's first processes have.
        let script = "for n in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; \"$@\"; echo \"status $?\"; jobs -r | wc -l";
        let harness = "sleep 60 & setsid sleep 60 & (setsid sleep 60 &) ; exit 7";
        let guard = run(sandbox, teardown).sh(harness).under(unshare).under(["bash", "-c", script, "bash"]);
        let out = guard.output();
        assert_eq!(out.text(), "status 7\n9\n", "{unshare:?}: {}", out.stderr);
        let report = sandbox.report();
        assert_eq!(report["survivors_killed"], 3, "{unshare:?}: {report} {}", out.stderr);
        assert_eq!(report["survivors_unkillable"], serde_json::json!([]), "{report}");
        assert!(out.exit.after < Duration::from_secs(5), "{:?}", out.exit);
        teardown.expect_none();
    });
}

/// Fails with a monitor that ends with its supervisor, and with a stop signal that pid 1 has no handler for.
#[test]
fn a_stop_and_a_takeover() {
    for kill_supervisor in [false, true] {
        each(|sandbox, unshare, teardown| {
            let mut guard = run(sandbox, teardown).fixture("setsid-grandchild").under(unshare).spawn();
            guard.ready();
            let (monitor, supervisor, harness) = (guard.monitor(), guard.supervisor(), guard.harness());
            if kill_supervisor {
                kill(supervisor, Signal::SIGKILL).unwrap();
            } else {
                kill(monitor, Signal::SIGTERM).unwrap();
            }
            guard.expect_code(if kill_supervisor { 137 } else { 143 });
            assert!(!alive(harness), "{unshare:?}: {:?}", process(harness));
            teardown.expect_one();
            assert_eq!(sandbox.report()["takeover"], kill_supervisor);
        });
    }
}

/// A guard below the guard, whose harness closed the descriptor: it finds the lock with its ancestor, and borrows it.
///
/// Seen failing with the ancestors looked for by our numbers: it waited for itself.
#[test]
fn an_ancestor_s_lock_is_borrowed() {
    each(|sandbox, unshare, teardown| {
        let inner = "exec 100>&-; env -u CCCI_GUARD_PID \"$G\" --app \"$A\" --lock-timeout 0s --teardown none -- sh -c 'exit 7'";
        let out = run(sandbox, teardown).env("A", APP).harness(["bash", "-c", inner]).under(unshare).output();
        assert_eq!(out.code(), 7, "{unshare:?}: {}", out.stderr);
    });
}
