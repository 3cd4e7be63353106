//! Names that become files, directories, labels and arguments: an accepted one is harmless as each of them.
//!
//! The input is a name, a zone and a pattern, with tabs between.
#![no_main]

use std::path::{Component, Path};

use ccci_guard::abra_dir::{Recipe, parse_ref};
use ccci_guard::allow_list::AllowList;
use ccci_guard::app::{AppName, RunId};
use ccci_guard::lock::path;
use ccci_guard::stack::{self, Owner};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut words = text.splitn(3, '\t');
    let mut next = || words.next().unwrap_or_default();
    let (name, zone, pattern) = (next(), next(), next());
    one_component(RunId::parse(name).as_ref().map(RunId::as_str));
    one_component(Recipe::parse(name).as_ref().map(Recipe::as_str));
    if let Ok(version) = parse_ref(name) {
        assert!(!version.starts_with('-') && !version.contains(['\0', '\n']), "{version:?}");
    }
    let Ok(app) = AppName::parse(name) else { return };
    one_component(Ok::<_, &String>(app.as_str()));
    let file = path::of(Path::new("/run/lock"), &app);
    let file_name = file.file_name().expect("a file in the directory");
    assert!(file_name.len() <= 255, "{name:?}");
    assert_eq!(path::app_of(file_name).as_deref(), Some(name), "one spelling, one lock");
    for stack in stack::names(&app) {
        assert!(!stack.contains('.') && stack.replace('_', ".") == name[..stack.len()], "{name:?}: {stack:?}");
        let owner = stack::owner(&stack, std::slice::from_ref(&app));
        assert_eq!(owner, Owner::App(app.clone()), "{name:?}: {stack:?}");
    }
    let mut zones = AllowList::default();
    if zones.admit_zone(zone).is_ok() && zones.admits(&app) {
        assert!(name.ends_with(&format!(".{zone}")), "{name:?} is not of zone {zone:?}");
    }
    let mut list = AllowList::default();
    let admitted = list.admit(pattern).is_ok() && list.would_admit(&app);
    if list.protect(pattern).is_ok() && list.protects(&app) {
        assert!(!list.admits(&app), "protected wins: {name:?} and {pattern:?}");
    } else {
        assert_eq!(list.admits(&app), admitted, "{name:?} and {pattern:?}");
    }
});

/// As a path it stays where it is put, and as an argument it is no option.
fn one_component<E>(accepted: Result<&str, E>) {
    let Ok(name) = accepted else { return };
    let mut components = Path::new(name).components();
    assert!(matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none(), "{name:?}");
    assert!(!name.contains(['\0', '\n', '/', ' ']), "{name:?}");
}
