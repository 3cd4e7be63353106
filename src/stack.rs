//! Which stack is which app's.
//!
//! A stack's name is the app's domain with dots as underscores. A domain has no underscore, so it maps back
//! exactly, unless it is so long that abra may have cut it: then only a domain that is known from elsewhere
//! may claim it, and only one.

#![forbid(unsafe_code)]

use crate::app::AppName;

/// abra cuts names of stacks to this many characters.
pub const CUT_AT: usize = 45;

/// Under which names an app's stack may be found, the full one first.
pub fn names(app: &AppName) -> Vec<String> {
    let full = app.stack();
    let cut: String = full.chars().take(CUT_AT).collect();
    if cut == full { vec![full] } else { vec![full, cut] }
}

/// Another app that could claim the same stack as this one, where its name was cut.
pub fn rival<'a>(app: &AppName, known: &'a [AppName]) -> Option<&'a AppName> {
    let own = names(app);
    // A name that was not cut maps back exactly, and is nobody else's.
    if own[0].len() < CUT_AT {
        return None;
    }
    let cut = own.last()?;
    known.iter().find(|other| *other != app && names(other).last() == Some(cut))
}

/// Whose a stack is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This app's.
    App(AppName),
    /// One of these; which, can't be told.
    Several(Vec<AppName>),
    /// No app's: its name maps back to no domain, or is cut and no known domain gives it.
    Nobody,
}

/// The app that a stack belongs to. `known`: the domains of `.env` files and lock files.
pub fn owner(stack: &str, known: &[AppName]) -> Owner {
    if stack.len() < CUT_AT {
        let app = AppName::parse(&stack.replace('_', "."));
        // One with dots of its own is not the stack that this app has, and would not be torn down with it.
        return app.ok().filter(|app| app.stack() == stack).map_or(Owner::Nobody, Owner::App);
    }
    let claims: Vec<AppName> =
        known.iter().filter(|app| names(app).iter().any(|name| name == stack)).cloned().collect();
    match claims.as_slice() {
        [] => Owner::Nobody,
        [one] => Owner::App(one.clone()),
        _ => Owner::Several(claims),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppName {
        AppName::parse(name).expect("a good name")
    }

    #[test]
    fn a_short_name_maps_back_exactly() {
        assert_eq!(owner("a1-0a1b2c_ci_example_net", &[]), Owner::App(app("a1-0a1b2c.ci.example.net")));
        assert_eq!(owner("_x", &[]), Owner::Nobody);
        assert_eq!(owner("Traefik", &[]), Owner::Nobody);
    }

    /// Found by the fuzz target `lists`: such a stack was taken for that of an app which has another one.
    #[test]
    fn a_stack_with_dots_is_no_app_s() {
        assert_eq!(owner("a1-0a1b2c.ci.example.net", &[]), Owner::Nobody);
        assert_eq!(owner("a1-0a1b2c_ci.example_net", &[]), Owner::Nobody);
    }

    #[test]
    fn a_long_name_needs_one_known_domain() {
        let long = app("abcd-0a1b2c.a-very-long-zone-name-indeed.ci.example.net");
        let other = app("abcd-0a1b2c.a-very-long-zone-name-indeed.ci.example.org");
        let stacks = names(&long);
        assert_eq!((stacks.len(), stacks[1].len()), (2, CUT_AT));
        assert_eq!(owner(&stacks[1], &[]), Owner::Nobody);
        assert_eq!(owner(&stacks[1], std::slice::from_ref(&long)), Owner::App(long.clone()));
        assert_eq!(
            owner(&stacks[1], &[long.clone(), other.clone()]),
            Owner::Several(vec![long.clone(), other.clone()])
        );
        assert_eq!(owner(&stacks[0], &[long.clone(), other.clone()]), Owner::App(long.clone()));
        assert_eq!(rival(&long, std::slice::from_ref(&other)), Some(&other));
        assert_eq!(rival(&app("a.b"), &[other]), None);
    }
}
