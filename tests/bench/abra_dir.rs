//! What a run's own ABRA_DIR with one recipe costs, against the two simpler ways to have one: a copy of everything, and a
//! clone of every recipe.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::contender::Bench;
use crate::options::Options;
use crate::table::{Samples, Table, milliseconds, ratio, verdict};

/// The history of one recipe, and how many of its commits are releases.
const COMMITS: usize = 200;
const RELEASES: usize = 40;
/// Files beside compose.yml in a recipe's tree.
const FILES: usize = 24;
/// A release in the middle, as a test of an upgrade asks for.
const RELEASE: &str = "0.20.0+1.20.0";
const RECIPE: &str = "recipe-0";

/// A canonical ABRA_DIR, and the runs directory beside it.
struct Ground {
    directory: TempDir,
    guard: PathBuf,
    recipes: usize,
}

type Way = (&'static str, fn(&Ground));

/// Ours in one command and in two, and what it replaces. The places of the last two count below.
const WAYS: [Way; 5] = [
    ("create --recipe R@REF", Ground::create_with_recipe),
    ("create, fetch --ref REF", Ground::create_and_fetch),
    ("create, fetch --staged", Ground::create_and_fetch_staged),
    ("cp -a of all", Ground::copy_all),
    ("git clone of every recipe", Ground::clone_all),
];

/// On a disk, where they are in life; and in memory, where only the work itself is in the figures, and no writing.
pub fn measure(bench: &Bench, options: &Options) {
    measure_in("on a disk", tempfile::tempdir().unwrap(), bench, options);
    measure_in("in memory", tempfile::tempdir_in(bench.path("")).unwrap(), bench, options);
}

fn measure_in(place: &str, directory: TempDir, bench: &Bench, options: &Options) {
    let ground = Ground::new(directory, bench, options.recipes);
    let mut samples = vec![Vec::with_capacity(options.fetches); WAYS.len()];
    // One round to warm up.
    for round in 0..=options.fetches {
        for (n, (_, way)) in WAYS.iter().enumerate() {
            let start = Instant::now();
            way(&ground);
            let took = start.elapsed();
            ground.clear();
            if round > 0 {
                samples[n].push(took);
            }
        }
    }
    let samples: Vec<_> = samples.into_iter().map(Samples::new).collect();
    let (copy, clone) = (samples[3].median(), samples[4].median());
    let (files, bytes) = size(&ground.canonical());
    let title = format!(
        "An ABRA_DIR with one recipe, out of {} ({files} files, {:.0} MB), {place}, medians of {}",
        options.recipes,
        bytes as f64 / 1e6,
        options.fetches
    );
    let mut table = Table::new(title, options.markdown, &["way", "median", "10 %", "90 %", "to cp -a", "to clones"]);
    for ((name, _), samples) in WAYS.iter().zip(&samples) {
        let median = samples.median();
        table.row(vec![
            (*name).to_owned(),
            milliseconds(median),
            milliseconds(samples.at(10)),
            milliseconds(samples.at(90)),
            ratio(median, copy),
            ratio(median, clone),
        ]);
    }
    let to = |whole: Duration| samples[0].median().as_secs_f64() / whole.as_secs_f64();
    table.print(&[
        verdict(&format!("create with one recipe to cp -a, {place}"), to(copy), 0.05),
        verdict(&format!("create with one recipe to clones, {place}"), to(clone), 0.05),
    ]);
}

impl Ground {
    fn new(directory: TempDir, bench: &Bench, recipes: usize) -> Self {
        let ground = Self { directory, guard: bench.guard().to_owned(), recipes };
        for name in ["canonical/servers/ci.example.net", "canonical/catalogue", "canonical/recipes", "runs", "home"] {
            fs::create_dir_all(ground.path(name)).unwrap();
        }
        // The real one is a list of all recipes, of about this size.
        fs::write(ground.canonical().join("catalogue/recipes.json"), "{\"name\":\"recipe\"}\n".repeat(50_000)).unwrap();
        for n in 0..recipes {
            let server = ground.canonical().join("servers/ci.example.net");
            fs::write(server.join(format!("r{n}-000000.ci.example.net.env")), "TYPE=recipe\n").unwrap();
            ground.add_recipe(n);
        }
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn canonical(&self) -> PathBuf {
        self.path("canonical")
    }

    fn add_recipe(&self, n: usize) {
        let path = self.canonical().join(format!("recipes/recipe-{n}"));
        self.git(["init", "-q", "-b", "main", "--template="].map(OsStr::new).into_iter().chain([path.as_os_str()]));
        let at = [OsStr::new("-C"), path.as_os_str()];
        let mut import = self.command("git");
        import.args(at).args(["fast-import", "--quiet"]).stdin(Stdio::piped());
        let mut import = import.spawn().unwrap();
        import.stdin.take().unwrap().write_all(history(n).as_bytes()).unwrap();
        assert!(import.wait().unwrap().success(), "fast-import");
        let url = format!("https://git.example.net/recipes/recipe-{n}.git");
        self.git(at.into_iter().chain(["remote", "add", "origin", &url].map(OsStr::new)));
        self.git(at.into_iter().chain(["reset", "-q", "--hard"].map(OsStr::new)));
    }

    /// The same small environment for all.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.path("home"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn git<'a>(&self, arguments: impl IntoIterator<Item = &'a OsStr>) {
        succeed(self.command("git").args(arguments));
    }

    fn abra_dir(&self, arguments: &[&str]) {
        let mut command = self.command(&self.guard);
        command.arg("abra-dir").args(arguments).arg("--runs-dir").arg(self.path("runs"));
        succeed(command.arg("--canonical-abra-dir").arg(self.canonical()));
    }

    fn create_with_recipe(&self) {
        self.abra_dir(&["create", "--run-id", "1", "--recipe", &format!("{RECIPE}@{RELEASE}")]);
    }

    fn create_and_fetch(&self) {
        self.abra_dir(&["create", "--run-id", "1"]);
        self.abra_dir(&["fetch", "1", RECIPE, "--ref", RELEASE]);
    }

    fn create_and_fetch_staged(&self) {
        self.abra_dir(&["create", "--run-id", "1"]);
        self.abra_dir(&["fetch", "1", RECIPE, "--staged"]);
    }

    fn copy_all(&self) {
        succeed(self.command("cp").arg("-a").arg(self.canonical()).arg(self.path("runs/1")));
    }

    /// As we clone: no hard links.
    fn clone_all(&self) {
        for n in 0..self.recipes {
            let name = format!("recipe-{n}");
            let mut clone = self.command("git");
            clone.args(["clone", "-q", "--no-hardlinks"]).arg(self.canonical().join("recipes").join(&name));
            succeed(clone.arg(self.path("runs/1").join(&name)));
        }
    }

    fn clear(&self) {
        fs::remove_dir_all(self.path("runs")).unwrap();
        fs::create_dir(self.path("runs")).unwrap();
    }
}

#[track_caller]
fn succeed(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// A `fast-import` stream: releases, and the files of a usual recipe.
fn history(recipe: usize) -> String {
    let mut stream = String::new();
    let lines = |seed: usize, count: usize| -> String {
        (0..count)
            .map(|line| format!("  key-{line}: value {:x}\n", (seed * 7919 + line * 104_729) % 1_000_003))
            .collect()
    };
    for n in 1..=COMMITS {
        let compose = format!("services: # {n}\n{}", lines(recipe * COMMITS + n, 120));
        let _ = write!(
            stream,
            "commit refs/heads/main\nmark :{n}\ncommitter a <a@example.net> {} +0000\n",
            1_600_000_000 + n
        );
        let _ = write!(stream, "data 1\nc\nM 100644 inline compose.yml\ndata {}\n{compose}\n", compose.len());
        for file in (0..FILES).filter(|file| n == 1 || n % FILES == *file) {
            let text = lines(n * FILES + file, 30);
            let _ = write!(stream, "M 100644 inline config/file-{file}.conf\ndata {}\n{text}\n", text.len());
        }
        if n % (COMMITS / RELEASES) == 0 {
            let minor = n * RELEASES / COMMITS;
            let _ = write!(stream, "reset refs/tags/0.{minor}.0+1.{minor}.0\nfrom :{n}\n\n");
        }
    }
    stream
}

/// Files below a directory, and their bytes.
fn size(path: &Path) -> (usize, u64) {
    fs::read_dir(path).unwrap().map(Result::unwrap).fold((0, 0), |(files, bytes), entry| {
        let data = entry.metadata().unwrap();
        let (more, size) = if data.is_dir() { size(&entry.path()) } else { (1, data.len()) };
        (files + more, bytes + size)
    })
}
