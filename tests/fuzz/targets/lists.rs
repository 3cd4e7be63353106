//! Lists of apps: names of abra's files and of lock files, and what a `--list-cmd` prints. No panic, no name made up.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use ccci_guard::app::AppName;
use ccci_guard::lock::path;
use ccci_guard::stack::{self, Owner};
use ccci_guard::teardown::{auto, inventory};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let name = OsStr::from_bytes(bytes);
    for found in [inventory::app_of(name), path::app_of(name)].into_iter().flatten() {
        assert!(name.to_string_lossy().contains(&found));
    }
    let Ok(names) = auto::names(bytes.to_vec(), "--list-cmd") else {
        assert!(bytes.contains(&0) || std::str::from_utf8(bytes).is_err());
        return;
    };
    assert!(names.iter().all(|name| !name.is_empty() && !name.contains('\n')), "{names:?}");
    let known: Vec<AppName> = names.iter().filter_map(|name| AppName::parse(name).ok()).collect();
    for name in &names {
        match stack::owner(name, &known) {
            Owner::App(app) => assert!(stack::names(&app).contains(name), "{app} has no stack {name:?}"),
            Owner::Several(apps) => assert!(apps.len() > 1 && apps.iter().all(|app| known.contains(app))),
            Owner::Nobody => {}
        }
    }
});
