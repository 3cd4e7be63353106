//! Stack names of 45 characters or more, which abra may have cut: only a domain that is known from a lock file or an
//! `.env` may claim such a stack, and only one.

use crate::stack::{SMALL, Stack};
use crate::swarm::{Swarm, only, verdicts};

const CUT_AT: usize = 45;

/// With `_default`, the name of its network, this is the longest that Docker takes.
const LONGEST: usize = 63 - "_default".len();

/// The zone of a test, so long that its apps' stacks are cut within `tail`.
fn long_zone(swarm: &Swarm, tail: &str) -> String {
    let head = swarm.zone.replace('.', "-");
    let rest = ["a1-0a1b2c", &head, "", tail].join(".").len();
    format!("{head}.{}.{tail}", "long".chars().cycle().take(LONGEST - rest).collect::<String>())
}

fn app(swarm: &Swarm, tail: &str) -> String {
    format!("a1-0a1b2c.{}", long_zone(swarm, tail))
}

fn cut(app: &str) -> String {
    app.replace('.', "_").chars().take(CUT_AT).collect()
}

#[track_caller]
fn deploy<'a>(swarm: &'a Swarm, name: &str) -> Stack<'a> {
    let stack = Stack::new(swarm, name);
    stack.deploy(SMALL);
    stack.expect_running();
    stack
}

/// Nobody knows the domain: the cut stack may be anybody's. With a lock file of its domain it is reaped, and again
/// when its stack has the full name.
///
/// Fails when a cut name is turned back into a domain by its letters, or only the full name is looked for.
#[test]
fn a_cut_stack_is_reaped_when_its_domain_is_known() {
    let Some(swarm) = Swarm::there() else { return };
    let (app, zone) = (app(&swarm, "example.net"), long_zone(&swarm, "example.net"));
    assert!(app.len() > CUT_AT, "{app}");
    let round = || swarm.on(swarm.sandbox.plain()).args(["janitor", "--json", "--zone", &zone]).output();
    let stack = deploy(&swarm, &cut(&app));
    let before = (stack.expect_running(), stack.objects());
    let unknown = round();
    assert_eq!((unknown.code(), verdicts(&unknown).len()), (0, 0), "{}", unknown.text());
    assert_eq!((stack.expect_running(), stack.objects()), before);

    swarm.leave_lock_file(&app);
    let known = round();
    assert_eq!((known.code(), only(&known).0.as_str()), (0, "reaped"), "{}", known.stderr);
    stack.expect_gone();

    let full = deploy(&swarm, &app.replace('.', "_"));
    swarm.leave_lock_file(&app);
    let round = round();
    assert_eq!((round.code(), only(&round).0.as_str()), (0, "reaped"), "{}", round.stderr);
    full.expect_gone();
    assert_eq!(swarm.lock_files(), [] as [std::path::PathBuf; 0]);
}

/// Two domains give the same cut name: whose stack it is can't be told, so it is nobody's to touch, for the janitor
/// and for `reap`.
///
/// Fails when the first claim wins.
#[test]
fn a_cut_stack_with_two_claims_is_skipped() {
    let Some(swarm) = Swarm::there() else { return };
    let (one, other) = (app(&swarm, "example.net"), app(&swarm, "example.org"));
    assert_eq!(cut(&one), cut(&other));
    let stack = deploy(&swarm, &cut(&one));
    let before = (stack.expect_running(), stack.objects());
    swarm.leave_lock_file(&one);
    swarm.leave_lock_file(&other);
    let zone = long_zone(&swarm, "example.net");
    let round = swarm.on(swarm.sandbox.plain()).args(["janitor", "--json", "--zone", &zone]).output();
    assert_eq!((round.code(), only(&round).0.as_str()), (0, "skipped"), "{}", round.stderr);
    let reap = swarm.on(swarm.sandbox.plain()).args(["reap", &one, "--json", "--zone", &zone]).output();
    assert_eq!((reap.code(), only(&reap).0.as_str()), (1, "skipped"), "{}", reap.stderr);
    assert_eq!((stack.expect_running(), stack.objects()), before);
}
