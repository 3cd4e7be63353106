//! The counts of the benchmark, by flag.

pub const USAGE: &str = "usage: tests/bench/run [--markdown] [--only start|resident|stop|tree|locks|stacks|abra-dir|idle] \
                         [--runs N] [--stops N] [--trees N] [--descendants N] [--locks N] [--stacks N] [--jobs N] \
                         [--recipes N] [--fetches N] [--idle SECONDS]";

pub struct Options {
    pub markdown: bool,
    only: Option<String>,
    /// Starts of each contender.
    pub runs: usize,
    /// SIGTERMs to each contender.
    pub stops: usize,
    /// Rounds of the tree kill.
    pub trees: usize,
    /// Processes in one tree.
    pub descendants: usize,
    /// Lock files in one round of the janitor.
    pub locks: usize,
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
            only: None,
            runs: 300,
            stops: 60,
            trees: 7,
            descendants: 1000,
            locks: 10_000,
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
                "--locks" => options.locks = number()?,
                "--stacks" => options.stacks = number()?,
                "--jobs" => options.jobs = number()?,
                "--recipes" => options.recipes = number()?,
                "--fetches" => options.fetches = number()?,
                "--idle" => options.idle = u64::try_from(number()?).map_err(|error| error.to_string())?,
                "--only" => match arguments.next().as_deref() {
                    Some(
                        part @ ("start" | "resident" | "stop" | "tree" | "locks" | "stacks" | "abra-dir" | "idle"),
                    ) => options.only = Some(part.to_owned()),
                    other => return Err(format!("--only {}: no such part", other.unwrap_or(""))),
                },
                _ => return Err(format!("unknown argument '{flag}'")),
            }
        }
        Ok(options)
    }

    pub fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}
