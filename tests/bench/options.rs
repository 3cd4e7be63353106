//! The counts of the benchmark, by flag.

use std::path::PathBuf;

pub const USAGE: &str = "usage: tests/bench/run [--markdown] [--only PART]... [--beside PROGRAM] [--runs N] [--stops N] \
                         [--trees N] [--descendants N] [--deadlines N] [--locks N] [--processes N] [--stacks N] [--jobs N] \
                         [--recipes N] [--fetches N] [--idle SECONDS]\n\
                         PART: start, resident, stop, tree, deadline, janitor, locks, stacks, abra-dir, cluster or idle";

const PARTS: [&str; 11] =
    ["start", "resident", "stop", "tree", "deadline", "janitor", "locks", "stacks", "abra-dir", "cluster", "idle"];

pub struct Options {
    pub markdown: bool,
    /// Parts; none: all.
    only: Vec<String>,
    /// Another build of the program, measured in the same sitting.
    pub beside: Option<PathBuf>,
    /// Starts of each contender.
    pub runs: usize,
    /// SIGTERMs to each contender.
    pub stops: usize,
    /// Rounds of the tree kill.
    pub trees: usize,
    /// Processes in one tree; five times as many in another.
    pub descendants: usize,
    /// Runs with a deadline.
    pub deadlines: usize,
    /// Lock files in one round of the janitor; ten times as many in another.
    pub locks: usize,
    /// Processes on the host when the locks are looked at.
    pub processes: usize,
    /// Orphan stacks on the Swarm. The shell loop needs about 7 s for each.
    pub stacks: usize,
    /// Teardowns that the janitor does at a time.
    pub jobs: usize,
    /// Recipes of the canonical ABRA_DIR.
    pub recipes: usize,
    /// Rounds of all ways to get one of them.
    pub fetches: usize,
    /// Length of the idle watch, in seconds.
    pub idle: u64,
}

impl Options {
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            markdown: false,
            only: Vec::new(),
            beside: None,
            runs: 300,
            stops: 60,
            trees: 7,
            descendants: 1000,
            deadlines: 50,
            locks: 10_000,
            processes: 5000,
            stacks: 20,
            jobs: 16,
            recipes: 50,
            fetches: 15,
            idle: 60,
        };
        while let Some(flag) = arguments.next() {
            let mut number = || -> Result<usize, String> {
                let value = arguments.next().ok_or_else(|| format!("{flag} needs a number"))?;
                match value.parse() {
                    Ok(0) | Err(_) => Err(format!("{flag} {value}: not a number above 0")),
                    Ok(number) => Ok(number),
                }
            };
            match flag.as_str() {
                // `cargo bench` adds this one.
                "--bench" => {}
                "--markdown" => options.markdown = true,
                "--runs" => options.runs = number()?,
                "--stops" => options.stops = number()?,
                "--trees" => options.trees = number()?,
                "--descendants" => options.descendants = number()?,
                "--deadlines" => options.deadlines = number()?,
                "--locks" => options.locks = number()?,
                "--processes" => options.processes = number()?,
                "--stacks" => options.stacks = number()?,
                "--jobs" => options.jobs = number()?,
                "--recipes" => options.recipes = number()?,
                "--fetches" => options.fetches = number()?,
                "--idle" => options.idle = u64::try_from(number()?).map_err(|error| error.to_string())?,
                "--only" => match arguments.next() {
                    Some(part) if PARTS.contains(&part.as_str()) => options.only.push(part),
                    other => return Err(format!("--only {}: no such part", other.unwrap_or_default())),
                },
                "--beside" => options.beside = Some(arguments.next().ok_or("--beside needs a program")?.into()),
                _ => return Err(format!("unknown argument '{flag}'")),
            }
        }
        Ok(options)
    }

    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}
