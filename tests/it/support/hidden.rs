//! What foreign words may not do to a terminal or a log: move, hide, reorder, or begin a line of their own.

/// Every character of each line is one that is seen.
#[track_caller]
pub fn expect_visible(what: &str, text: &str) {
    let hidden = |c: char| match c {
        '\n' | '\t' => false,
        // Line and paragraph ends, marks of direction, characters without a width (Unicode, general category Cf).
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => true,
        c => c.is_control(),
    };
    assert!(!text.contains(hidden), "{what}: {text:?}");
}
