//! One sentence for words that make no sense.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};

use crate::cli::{RUN_USAGE, command};
use crate::settings;

/// Names of the forms that run a command; their usage errors exit 125, those of all others 2.
const RUN_FORMS: [&str; 2] = ["run", "exec"];

/// Does this command line mean to run a command? Told from its words, also when clap can't make sense of them.
pub fn means_to_run(words: &[OsString]) -> bool {
    let form =
        words.iter().skip(1).take_while(|word| *word != "--").find(|word| !word.as_encoded_bytes().starts_with(b"-"));
    form.and_then(|word| word.to_str()).is_none_or(|word| RUN_FORMS.contains(&word) || !is_form(word))
}

fn is_form(word: &str) -> bool {
    word == "help" || command().find_subcommand(word).is_some()
}

/// The same, for a form that runs no command.
fn usage_error_of_form(error: &clap::Error, words: &[OsString]) -> String {
    use clap::error::ErrorKind;
    let mut command = command();
    let mut form = String::new();
    for word in words.iter().skip(1).map_while(|word| word.to_str()) {
        let Some(inner) = command.find_subcommand(word).cloned() else { break };
        command = inner;
        form = format!("{form} {word}").trim_start().to_owned();
    }
    if matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand) {
        let forms: Vec<&str> =
            command.get_subcommands().map(clap::Command::get_name).filter(|name| *name != "help").collect();
        return format!("{form} needs to know what to do: {}; see: ccci-guard {form} --help", forms.join(", "));
    }
    if form.is_empty() {
        // `help WORD…`
        let named: Vec<_> = words.iter().skip(2).map(|word| word.to_string_lossy()).collect();
        let named = settings::quoted(OsStr::new(&named.join(" ")));
        return format!("there is no command {named}; see: ccci-guard --help");
    }
    let rendered = error.render().to_string();
    let mut lines = rendered.lines();
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ").trim_end_matches(':').to_owned();
    let missing = if error.kind() == ErrorKind::MissingRequiredArgument {
        let named: Vec<&str> = lines.take_while(|line| line.starts_with(' ')).map(str::trim).collect();
        format!(": {}", named.join(" "))
    } else {
        String::new()
    };
    format!("{form}: {first}{missing}; see: ccci-guard {form} --help")
}

/// The form whose name is most like this word, if any is.
fn nearest_form(word: &str) -> Option<String> {
    let likeness = |form: &str| strsim::jaro(form, word);
    let forms = command().get_subcommands().map(|form| form.get_name().to_owned()).collect::<Vec<_>>();
    forms.into_iter().filter(|form| likeness(form) > 0.7).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// One sentence for what clap could not make sense of.
pub fn usage_error(error: &clap::Error, words: &[OsString]) -> String {
    if !means_to_run(words) {
        return usage_error_of_form(error, words);
    }
    use clap::error::{ContextKind, ContextValue};
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let word = context(ContextKind::InvalidSubcommand).or_else(|| context(ContextKind::InvalidArg));
    if let Some(word) = word.filter(|word| !word.starts_with('-') && !word.is_empty()) {
        if is_form(&word) {
            return format!(
                "options of '{word}' stand behind it: ccci-guard {word} [OPTIONS]; see: ccci-guard {word} --help"
            );
        }
        let hint = nearest_form(&word).map(|form| format!("did you mean '{form}'? ")).unwrap_or_default();
        return format!("unexpected '{word}': {hint}To run a command: ccci-guard -- {word}").replace(": To", ". To");
    }
    let rendered = error.render().to_string();
    let first = rendered.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let hint = context(ContextKind::SuggestedArg).map(|arg| format!(" (did you mean '{arg}'?)")).unwrap_or_default();
    format!("{first}{hint}; usage: {RUN_USAGE}; see: ccci-guard --help")
}
