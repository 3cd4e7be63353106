//! Checked names: an app's domain, its stack, a run's id. One spelling, one lock.

use std::fmt;

/// The domain of an app: lower-case DNS, labels of 1 to 63 bytes, at most 240 bytes in all (a lock file's name
/// must fit into 255), no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppName(String);

impl AppName {
    /// Longest domain, in bytes.
    pub const MAX: usize = 240;

    /// Checks a domain.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn parse(name: &str) -> Result<Self, String> {
        if name.is_empty() {
            return Err("is empty: an app needs a domain, or the run would be unprotected".to_owned());
        }
        if name.len() > Self::MAX {
            return Err(format!("is {} bytes long; {} at most", name.len(), Self::MAX));
        }
        if name.ends_with('.') {
            return Err("ends with a dot; leave it out".to_owned());
        }
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err("has capital letters; write it in lower case".to_owned());
        }
        match name.split('.').find_map(label_problem) {
            Some(problem) => Err(problem),
            None => Ok(AppName(name.to_owned())),
        }
    }

    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the app's Swarm stack: its domain with dots as underscores.
    pub fn stack(&self) -> String {
        self.0.replace('.', "_")
    }
}

fn label_problem(label: &str) -> Option<String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if label.is_empty() {
        Some("has an empty label (two dots, or one at the start)".to_owned())
    } else if label.len() > 63 {
        Some(format!("has a label of {} bytes; 63 at most", label.len()))
    } else if !label.bytes().all(good) {
        Some("is no domain name: only a-z, 0-9, '-' and dots".to_owned())
    } else if label.starts_with('-') || label.ends_with('-') {
        Some("has a label that starts or ends with '-'".to_owned())
    } else {
        None
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a run: `[A-Za-z0-9._-]{1,64}`, and neither `.` nor `..`, since it names a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunId(String);

impl RunId {
    /// Checks an id.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn parse(id: &str) -> Result<Self, String> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if id.is_empty() || id.len() > 64 {
            Err("must have 1 to 64 characters".to_owned())
        } else if !id.bytes().all(good) {
            Err("may hold only A-Z, a-z, 0-9, '.', '_' and '-'".to_owned())
        } else if id == "." || id == ".." {
            Err("names a directory that isn't the run's own".to_owned())
        } else {
            Ok(RunId(id.to_owned()))
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_in_one_spelling_only() {
        for good in ["a", "immi-ad3e33.ci.example.net", "a.".repeat(119).trim_end_matches('.')] {
            assert!(AppName::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", ".", "a.", ".a", "a..b", "A.b", "-rf", "a-.b", "../x", "a b", "a\nb", "ä.b", "a_b", &long] {
            assert!(AppName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(AppName::parse(&"abc.".repeat(61)[..241]).is_err());
    }

    #[test]
    fn run_ids_stay_one_path_component() {
        for good in ["1190", "manual-42", "a.b_c-D"] {
            assert!(RunId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", &"x".repeat(65)] {
            assert!(RunId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
