//! How long the end of a whole tree takes: processes that each left the harness's session, so that no group reaches them.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::contender::{Bench, Contender, kill};
use crate::options::Options;
use crate::proc;
use crate::table::{Samples, Table, milliseconds};

/// `$0` processes, each in a session of its own and orphaned; `$1` is run first.
const BROOD: &str = r#"eval "$1"; i=0; while [ $i -lt $0 ]; do setsid -f sleep 86400 >/dev/null; i=$((i+1)); done; \
                       trap - TERM; echo ready; exec sleep 86400"#;

pub fn measure(bench: &Bench, options: &Options) {
    let mut table = Table::new(
        format!(
            "Tree kill: {} descendants, each in its own session; SIGTERM to return, medians of {}",
            options.descendants, options.trees
        ),
        options.markdown,
        &["prefix", "end on TERM", "left behind", "ignore TERM", "left behind"],
    );
    for contender in [bench.run(), bench.composition(), bench.python()] {
        let mut row = vec![contender.name.to_owned()];
        for first in [":", "trap '' TERM"] {
            let kills: Vec<_> = (0..options.trees).map(|_| tree_kill(&contender, options.descendants, first)).collect();
            row.push(milliseconds(Samples::new(kills.iter().map(|kill| kill.0).collect()).median()));
            row.push(kills.iter().map(|kill| kill.1).max().unwrap_or(0).to_string());
        }
        table.row(row);
    }
    table.print(&[
        "Those that ignore TERM get 2 s from the harness's end before SIGKILL: that is a promise, not a cost."
            .to_owned(),
    ]);
}

/// The time from SIGTERM to return, and how many processes of the run are alive after it.
fn tree_kill(contender: &Contender, descendants: usize, first: &str) -> (Duration, usize) {
    let count = descendants.to_string();
    let mut running = contender.start_piped(&["sh", "-c", BROOD, &count, first]);
    let mut line = String::new();
    BufReader::new(running.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    // `setsid -f` returns before its child has called exec: until then that child still has the name `setsid`.
    proc::eventually("every descendant runs", || {
        let marked = proc::marked(&running.mark);
        let sleeping = marked.into_iter().filter(|&pid| proc::name(pid) == "sleep").count();
        (sleeping > descendants).then_some(())
    });

    let start = Instant::now();
    kill(running.pid(), Signal::SIGTERM);
    running.child.wait().unwrap();
    let elapsed = start.elapsed();
    (elapsed, proc::marked(&running.mark).len())
}
