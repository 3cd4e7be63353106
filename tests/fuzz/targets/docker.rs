//! A Docker that answers anything: no panic, nothing is removed that it did not list, and no option is smuggled in.
//!
//! The answers are the input's parts between NUL bytes; one that starts with `!` is a failure. The words of the commands
//! are docs/design/teardown.md's.
#![no_main]

use std::collections::BTreeSet;
use std::time::Duration;

use ccci_guard::teardown::swarm::{self, Docker, Failure};
use libfuzzer_sys::fuzz_target;

const STACK: &str = "immi-ad3e33_ci_example_net";

struct Canned<'a> {
    answers: Box<dyn Iterator<Item = &'a str> + 'a>,
    listed: BTreeSet<String>,
    rounds: u32,
}

impl Canned<'_> {
    fn new(text: &str) -> Canned<'_> {
        Canned { answers: Box::new(text.split('\0')), listed: BTreeSet::new(), rounds: 20 }
    }
}

impl Docker for Canned<'_> {
    fn run(&mut self, args: &[&str]) -> Result<String, Failure> {
        if args[1] == "rm" {
            for id in args[2..].iter().filter(|word| **word != "--force") {
                assert!(self.listed.contains(*id), "{args:?} removes what was not listed");
                assert!(!id.starts_with('-'), "{args:?} has an option that Docker gave");
            }
            assert!(args.len() > 2, "{args:?} removes nothing");
        }
        let answer = self.answers.next().unwrap_or_default();
        if let Some(said) = answer.strip_prefix('!') {
            return Err(Failure::NoList(said.to_owned()));
        }
        if args[1] == "ls" && !["node", "stack"].contains(&args[0]) {
            let ours = format!("label=com.docker.stack.namespace={STACK}");
            assert!(args.iter().any(|word| ours.starts_with(*word) && word.starts_with("label=")), "{args:?}");
            self.listed.extend(answer.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned));
        }
        Ok(answer.to_owned())
    }

    fn may_go_on(&mut self) -> Result<(), Failure> {
        self.rounds = self.rounds.checked_sub(1).ok_or(Failure::TimedOut)?;
        Ok(())
    }

    fn refused(&mut self, _: &str) {}

    fn pause(&mut self, _: Duration) {}
}

fuzz_target!(|text: &str| {
    let _ = swarm::nodes(&mut Canned { listed: BTreeSet::new(), ..Canned::new(text) });
    if let Ok(names) = swarm::stacks(&mut Canned::new(text)) {
        assert!(names.is_sorted() && names.windows(2).all(|two| two[0] != two[1]), "{names:?}");
    }
    if let Ok(left) = swarm::sweep(&mut Canned::new(text), STACK, None) {
        assert!(left.iter().all(|object| !object.id.is_empty() && !object.name.is_empty()), "{left:?}");
    }
});
