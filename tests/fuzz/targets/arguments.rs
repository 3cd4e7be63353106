//! The command line and the environment: no panic, the quick parser and the whole one agree, and what is accepted keeps
//! its limits.
//!
//! The input's lines are the words; those at its start that look like `CCCI_NAME=VALUE` are variables.
#![no_main]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use ccci_guard::cli::{self, Cli, Form, RunArgs};
use ccci_guard::duration;
use ccci_guard::settings::{self, RunSettings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // What the kernel hands a program has no NUL in it.
    if input.contains(&0) {
        return;
    }
    let mut words = vec![OsString::from("ccci-guard")];
    let mut variables = Vec::new();
    for line in input.split(|byte| *byte == b'\n') {
        let equals = line.iter().position(|byte| *byte == b'=').filter(|_| line.starts_with(b"CCCI_"));
        match equals {
            Some(at) if words.len() == 1 => {
                variables.push((OsStr::from_bytes(&line[..at]), OsStr::from_bytes(&line[at + 1..])))
            }
            _ => words.push(OsStr::from_bytes(line).to_owned()),
        }
    }
    for (name, value) in &variables {
        // SAFETY: libFuzzer's other thread watches the memory and reads no variable.
        unsafe { std::env::set_var(name, value) };
    }
    make_sense_of(&words);
    for (name, _) in &variables {
        // SAFETY: the same.
        unsafe { std::env::remove_var(name) };
    }
});

fn make_sense_of(words: &[OsString]) {
    let quick = cli::parse_run(words);
    let whole = cli::parse(words);
    if let Some((form, args)) = quick {
        let (other, whole) = match whole {
            Ok(Cli { form: Some(Form::Run(args)), .. }) => (settings::Form::Run, args),
            Ok(Cli { form: Some(Form::Exec(args)), .. }) => (settings::Form::Exec, args),
            Ok(Cli { form: None, run }) => (settings::Form::Run, run),
            other => panic!("{words:?}: quick says {args:?}, the whole parser {other:?}"),
        };
        assert_eq!((form, format!("{args:?}")), (other, format!("{whole:?}")), "{words:?}");
        resolve(form, &args);
        return;
    }
    match whole {
        Ok(Cli { form: None, run }) => resolve(settings::Form::Run, &run),
        Ok(Cli { form: Some(Form::Run(args)), .. }) => resolve(settings::Form::Run, &args),
        Ok(Cli { form: Some(Form::Exec(args)), .. }) => resolve(settings::Form::Exec, &args),
        Ok(Cli { form: Some(Form::Janitor(args)), .. }) => {
            let _ = settings::resolve_janitor(&args).map(|settings| assert!(settings.allow_list.is_given()));
        }
        Ok(Cli { form: Some(Form::Reap(args)), .. }) => drop(settings::resolve_reap(&args.app, &args.janitor)),
        Ok(Cli { form: Some(Form::Doctor(args)), .. }) => drop(settings::resolve_doctor(&args)),
        Ok(_) => {}
        Err(error) if error.use_stderr() => assert!(!cli::usage_error(&error, words).is_empty()),
        Err(error) => drop(error.render().to_string()),
    }
}

fn resolve(form: settings::Form, args: &RunArgs) {
    let _ = settings::resolve_log(&args.log);
    match settings::resolve_run(form, args) {
        Ok(settings) => check(&settings),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn check(settings: &RunSettings) {
    assert!(!settings.command.is_empty());
    if let Some(deadline) = settings.deadline {
        assert!((Duration::from_secs(1)..=duration::MAX).contains(&deadline), "{deadline:?}");
    }
    if let Some(warning) = &settings.warning {
        assert!(settings.deadline.is_some_and(|deadline| warning.before < deadline), "{settings:?}");
    }
    assert!(settings.grace <= duration::MAX && settings.teardown_timeout <= duration::MAX, "{settings:?}");
    assert!(settings.lock_timeout.is_none_or(|limit| limit <= duration::MAX), "{settings:?}");
    if let settings::Teardown::Auto(_) = settings.teardown {
        assert!(settings.apps.iter().all(|app| settings.allow_list.admits(app)), "{settings:?}");
    }
}
