//! Apps that are files of one directory, for a janitor that lists and tears down by commands.

use super::{Guard, Sandbox};
use std::fs;
use std::path::PathBuf;

/// The directory `apps`.
pub struct Apps<'a> {
    sandbox: &'a Sandbox,
}

impl<'a> Apps<'a> {
    /// Without any app.
    pub fn new(sandbox: &'a Sandbox) -> Self {
        fs::create_dir_all(sandbox.path("apps")).expect("a directory in the sandbox");
        Self { sandbox }
    }

    /// The file that is the app.
    pub fn file(&self, app: &str) -> PathBuf {
        self.sandbox.path("apps").join(app)
    }

    /// Makes one.
    pub fn add(&self, app: &str) {
        fs::write(self.file(app), "").expect("an app");
    }

    /// Is it there?
    pub fn has(&self, app: &str) -> bool {
        self.file(app).exists()
    }

    /// For `--list-cmd`.
    pub fn list_cmd(&self) -> String {
        format!("ls '{}'", self.sandbox.path("apps").display())
    }

    /// For `--teardown`.
    pub fn teardown(&self) -> String {
        format!("rm '{}'/\"$CCCI_TEARDOWN_APP\"", self.sandbox.path("apps").display())
    }

    /// A janitor with this list, and no teardown yet.
    pub fn lister(&self) -> Guard<'a> {
        let janitor = self.sandbox.plain().args(["janitor", "--zone", super::stubs::ZONE]);
        janitor.arg("--list-cmd").arg(self.list_cmd())
    }

    /// A janitor with this list and this teardown.
    pub fn janitor(&self) -> Guard<'a> {
        self.lister().teardown(self.teardown())
    }
}
