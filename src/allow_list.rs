//! Which names automatic teardown may touch: there is no default, and `--protect` wins.

use regex_lite::Regex;

use crate::app::AppName;

/// The admitted names (`--zone`, `--run-app-re`) and those that are never touched (`--protect`).
#[derive(Clone, Debug, Default)]
pub struct AllowList {
    zones: Vec<AppName>,
    admitted: Vec<Regex>,
    protected: Vec<Regex>,
}

impl AllowList {
    /// Admits `[a-z0-9]{1,4}-[0-9a-f]{6}.ZONE`.
    ///
    /// # Errors
    /// When the zone is no domain name.
    pub fn admit_zone(&mut self, zone: &str) -> Result<(), String> {
        self.zones.push(AppName::parse(zone).map_err(|_| "is no domain name in lower case".to_owned())?);
        Ok(())
    }

    /// Admits the names of which `expression` matches the whole.
    ///
    /// # Errors
    /// When it is no regular expression, or would match the empty name.
    pub fn admit(&mut self, expression: &str) -> Result<(), String> {
        let no_expression = |error| format!("is no regular expression: {error}");
        // Alone first: `a)|(b` would become one between the anchors, and match what it should not.
        Regex::new(expression).map_err(no_expression)?;
        let whole = Regex::new(&format!("^(?:{expression})$")).map_err(no_expression)?;
        if whole.is_match("") {
            return Err("matches the empty name, so it would admit too much".to_owned());
        }
        self.admitted.push(whole);
        Ok(())
    }

    /// Protects the names that a glob matches (`*` any text, `?` one character).
    ///
    /// # Errors
    /// When the glob is empty.
    pub fn protect(&mut self, glob: &str) -> Result<(), String> {
        if glob.is_empty() {
            return Err("is an empty pattern".to_owned());
        }
        let expression = regex_lite::escape(glob).replace("\\*", ".*").replace("\\?", ".");
        let whole = Regex::new(&format!("^(?:{expression})$")).map_err(|error| format!("can't be used: {error}"))?;
        self.protected.push(whole);
        Ok(())
    }

    /// Was anything said about which names are admitted?
    pub fn is_given(&self) -> bool {
        !self.zones.is_empty() || !self.admitted.is_empty()
    }

    /// Is this name protected?
    pub fn protects(&self, app: &AppName) -> bool {
        self.protected.iter().any(|glob| glob.is_match(app.as_str()))
    }

    /// May automatic teardown touch this name?
    pub fn admits(&self, app: &AppName) -> bool {
        !self.protects(app) && self.would_admit(app)
    }

    /// Is this name admitted, whether it is protected or not?
    pub fn would_admit(&self, app: &AppName) -> bool {
        self.zones.iter().any(|zone| is_run_app_of(app.as_str(), zone.as_str()))
            || self.admitted.iter().any(|name| name.is_match(app.as_str()))
    }
}

/// `[a-z0-9]{1,4}-[0-9a-f]{6}.ZONE`: the original's rule.
fn is_run_app_of(name: &str, zone: &str) -> bool {
    let label = name.strip_suffix(zone).and_then(|rest| rest.strip_suffix('.'));
    let Some((recipe, hash)) = label.and_then(|label| label.split_once('-')) else { return false };
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (1..=4).contains(&recipe.len()) && recipe.bytes().all(alphanumeric) && hash.len() == 6 && hash.bytes().all(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppName {
        AppName::parse(name).expect("a good name")
    }

    #[test]
    fn a_zone_admits_run_apps_only() {
        let mut list = AllowList::default();
        list.admit_zone("ci.example.net").expect("a zone");
        assert!(list.admits(&app("immi-ad3e33.ci.example.net")));
        for other in [
            "warm-x.ci.example.net",
            "mail-facade.example.org",
            "immi-ad3e33.ci-example.net",
            "x.immi-ad3e33.ci.example.net",
            "immich-ad3e33.ci.example.net",
            "immi-ad3e3g.ci.example.net",
            "immi-ad3e331.ci.example.net",
            "immi-ad3e33ci.example.net",
            "ci.example.net",
        ] {
            assert!(!list.admits(&app(other)), "{other}");
        }
    }

    #[test]
    fn an_expression_matches_the_whole_name_and_protection_wins() {
        let mut list = AllowList::default();
        assert!(list.admit(".*").is_err());
        assert!(list.admit("(").is_err());
        assert!(list.admit("a)|(b").is_err());
        list.admit("a|ab\\.c").expect("an expression");
        list.protect("*.c").expect("a glob");
        assert!(list.admits(&app("a")));
        assert!(!list.admits(&app("ab")));
        assert!(!list.admits(&app("ab.c")), "protected");
    }
}
