//! What the program tells of itself beside `--help`: man pages, completion scripts, the exit statuses.

#![forbid(unsafe_code)]

mod sections;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::{self, CompletionsArgs, ManArgs};
use crate::error::Error;
use crate::exit_status::{self, ExitStatus, Forms};
use crate::log;
use crate::settings;

const NAME: &str = "ccci-guard";

/// Prints a completion script; returns the status to exit with.
pub fn completions(args: &CompletionsArgs) -> u8 {
    let shell = |text: &str| match text {
        "bash" => Ok(Shell::Bash),
        "zsh" => Ok(Shell::Zsh),
        "fish" => Ok(Shell::Fish),
        _ => Err("is unknown; use bash, zsh or fish".to_owned()),
    };
    status(settings::parse_word("shell", &args.shell, shell).map(|shell| {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut completed(), NAME, &mut script);
        // A dash in the program's name is spelt in two ways in one script (clap-rs/clap#6421), so that nothing behind the
        // form is completed.
        log::stdout(&String::from_utf8_lossy(&script).replace("ccci__subcmd__guard", "ccci__guard"));
    }))
}

/// The command line without the command of the bare form: zsh's script would look for the form behind it.
fn completed() -> Command {
    let all = cli::command();
    let options = all.get_arguments().filter(|arg| !arg.is_positional()).cloned();
    Command::new(NAME).args(options).subcommands(all.get_subcommands().cloned())
}

/// Prints the manual, or writes all its pages; returns the status to exit with.
pub fn man(args: &ManArgs) -> u8 {
    status(match &args.dir {
        None => page(&cli::command(), NAME)
            .map(|page| log::stdout(&String::from_utf8_lossy(&page)))
            .map_err(Error::system("cannot make the manual")),
        Some(directory) if directory.is_empty() => {
            Err(Error::Setting { from: "--dir '':".to_owned(), problem: "is empty; give a path".to_owned() })
        }
        Some(directory) => write_pages(directory),
    })
}

/// Prints the exit statuses, those of each form together.
pub fn exit_codes() -> u8 {
    let section = |(forms, names): &(Forms, &str)| {
        let row = |row: &exit_status::Row| format!("  {:<18}  {}\n", row.status, row.meaning);
        format!("{names}:\n{}", exit_status::rows(*forms).map(row).collect::<String>())
    };
    log::stdout(&Forms::ALL.iter().map(section).collect::<Vec<_>>().join("\n"));
    ExitStatus::Success as u8
}

fn status(done: Result<(), Error>) -> u8 {
    let status = done.map_or_else(
        |error| {
            log::say_error(&error.to_string());
            error.command_status()
        },
        |()| ExitStatus::Success,
    );
    status as u8
}

fn write_pages(directory: &OsStr) -> Result<(), Error> {
    let directory = Path::new(directory);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::File { what: "cannot write the manual to", path, error }
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    let mut open = vec![(NAME.to_owned(), cli::command())];
    while let Some((name, command)) = open.pop() {
        let path = directory.join(format!("{name}.1"));
        page(&command, &name).and_then(|page| fs::write(&path, page)).map_err(failed(&path))?;
        let inner = command.get_subcommands().filter(|inner| inner.get_name() != "help");
        open.extend(inner.map(|inner| (format!("{name}-{}", inner.get_name()), inner.clone())));
    }
    Ok(())
}

/// One page: what clap knows of the command, and what it doesn't.
fn page(command: &Command, name: &str) -> io::Result<Vec<u8>> {
    // clap takes names that live as long as the program; there are twenty.
    let mut command = command.clone().name(&*name.to_owned().leak()).disable_help_subcommand(true);
    if let Some(form) = name.strip_prefix("ccci-guard-") {
        command = command
            .bin_name(format!("{NAME} {}", form.replacen("abra-dir-", "abra-dir ", 1).replacen("state-", "state ", 1)));
    }
    // The example is in a section of its own.
    let example = command.get_before_help().map(|text| text.to_string()).unwrap_or_default();
    command = command.before_help(None::<&str>);
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    // Not clap_mangen's: without a date it puts the source in its place.
    let (title, version) = (name.to_uppercase().replace('-', "\\-"), env!("CARGO_PKG_VERSION"));
    writeln!(page, ".TH \"{title}\" \"1\" \"\" \"{NAME} {version}\" \"{NAME}\"")?;
    man.render_name_section(&mut page)?;
    // clap's usage says what is required together; a list of all options is in the next section.
    let usage = command.render_usage().to_string();
    let usage =
        usage.trim_start_matches("Usage:").lines().map(|line| sections::escaped(line.trim())).collect::<Vec<_>>();
    write!(page, ".SH SYNOPSIS\n.nf\n{}\n.fi\n", usage.join("\n"))?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut page)?;
    }
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    for section in sections::of(name, &example) {
        page.write_all(section.as_bytes())?;
    }
    // groff(1) reads bytes.
    Ok(String::from_utf8_lossy(&page).replace('…', "...").into_bytes())
}
