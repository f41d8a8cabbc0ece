//! Names of types, and public items without a use.

use super::source::{Source, Token};
use std::collections::{BTreeMap, HashSet};

/// Type names that stand in two modules, with the reason.
const REPEATED: &[(&str, &str)] =
    &[("Error", "the one error type of a module with its own users, as in std: `client::Error`, `postgres::Error`")];

/// Participles and pronouns that may name a type: `Sealed` is the field's term for a trait or value closed to others.
const ALLOWED_PARTICIPLES: &[&str] = &["Sealed"];

/// Nouns that end as participles do.
const NOUNS: &[&str] = &[
    "Need",
    "Numbered",
    "Standing",
    "Listing",
    "Building",
    "Setting",
    "String",
    "Everything",
    "Thing",
    "Ring",
    "Ping",
    "Padding",
    "Encoding",
    "Decoding",
    "Timing",
    "Mapping",
    "Binding",
    "Heading",
    "Meaning",
    "Rating",
    "Pending",
    "Feed",
    "Seed",
    "Embed",
];

/// Participles of another form, pronouns and other words that are not nouns.
const NOT_NOUNS: &[&str] = &[
    "Asks", "Begun", "Found", "Given", "GivenUp", "Held", "Kept", "Lent", "LetIn", "Lost", "Sent", "Shown", "Told",
    "Written", "Read", "Within", "Wrong", "Over", "After", "New", "Next", "Out", "Who", "Whom", "Absent", "Recent",
    "Wary", "CaughtUp", "InHand",
];

/// The types at the top level of each file, tests left out: name and place.
pub(super) fn types(sources: &[Source]) -> Vec<(&str, String)> {
    let mut types = Vec::new();
    for source in sources {
        let mut depth = 0;
        for tokens in source.tokens.windows(2) {
            match (tokens[0].word(), tokens[0].mark()) {
                (_, Some('(' | '[' | '{')) => depth += 1,
                (_, Some(')' | ']' | '}')) => depth -= 1,
                (Some("struct" | "enum" | "trait" | "type"), _) if depth == 0 && !tokens[0].in_test => {
                    types.extend(tokens[1].word().map(|name| (name, source.place(tokens[1].line))));
                }
                _ => {}
            }
        }
    }
    types
}

pub(super) fn repeated_types(sources: &[Source]) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, place) in types(sources) {
        places.entry(name).or_default().push(place);
    }
    let is_allowed = |name: &str| REPEATED.iter().any(|(allowed, _)| *allowed == name);
    let repeated = places.into_iter().filter(|(name, places)| places.len() > 1 && !is_allowed(name));
    repeated.map(|(name, places)| format!("{}: {name} is defined more than once", places.join(", "))).collect()
}

pub(super) fn participles(sources: &[Source]) -> Vec<String> {
    let all = types(sources);
    let participles = all.into_iter().filter(|(name, _)| is_participle(name) && !ALLOWED_PARTICIPLES.contains(name));
    participles.map(|(name, place)| format!("{place}: {name} is not a noun")).collect()
}

/// Whether a name is one word that ends in `ed` or `ing`, or one of the known words.
fn is_participle(name: &str) -> bool {
    let is_one_word = name.chars().skip(1).all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let stem = name.strip_suffix("ed").or(name.strip_suffix("ing")).unwrap_or_default();
    !NOUNS.contains(&name) && (NOT_NOUNS.contains(&name) || (is_one_word && stem.len() > 1))
}

/// Public items of `src` whose name stands nowhere else as code: not in `src` outside of imports, not in `others`, and not
/// in the text of the build script.
pub(super) fn unused_items(src: &[Source], others: &[Source], build: &str) -> Vec<String> {
    let mut used: HashSet<&str> = build.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    src.iter().chain(others).for_each(|source| add_uses(&source.tokens, &mut used));
    let mut violations = Vec::new();
    for source in src {
        for (at, token) in source.tokens.iter().enumerate() {
            if token.word() != Some("pub") || token.in_test {
                continue;
            }
            if let Some(name) = item_name(&source.tokens, at + 1).filter(|name| !used.contains(name)) {
                violations.push(format!("{}: {name} is used nowhere", source.place(token.line)));
            }
        }
    }
    violations
}

/// The words of the code that neither name an item in its definition nor stand in an import, unless it renames them.
fn add_uses<'a>(tokens: &'a [Token], used: &mut HashSet<&'a str>) {
    let mut in_import = false;
    for (at, token) in tokens.iter().enumerate() {
        let word_at = |at: usize| tokens.get(at).and_then(Token::word);
        match (token.word(), token.mark()) {
            (Some("use"), _) => in_import = tokens.get(at + 1).is_some_and(|next| next.mark() != Some('<')),
            (_, Some(';')) => in_import = false,
            (Some(word), _) => {
                let before = at.checked_sub(1).and_then(word_at);
                let is_definition = before.is_some_and(|before| ITEMS.contains(&before) || before == "const");
                if !is_definition && (!in_import || word_at(at + 1) == Some("as")) {
                    used.insert(word);
                }
            }
            _ => {}
        }
    }
}

const ITEMS: &[&str] = &["fn", "struct", "enum", "trait", "type", "static"];

/// The name of the item behind `pub`; none for a field, a module or an import.
fn item_name(tokens: &[Token], mut at: usize) -> Option<&str> {
    if tokens.get(at)?.mark() == Some('(') {
        at += tokens[at..].iter().position(|token| token.mark() == Some(')'))? + 1;
    }
    loop {
        let word = tokens.get(at)?.word()?;
        let next = tokens.get(at + 1)?.word();
        match word {
            "const" | "async" | "unsafe" if next.is_some_and(|next| ["fn", "async", "unsafe"].contains(&next)) => {
                at += 1
            }
            "const" => return next,
            word if ITEMS.contains(&word) => return next,
            _ => return None,
        }
    }
}

#[test]
fn a_planted_second_type_is_named() {
    let sources = [
        Source::parse("src/a.rs", "pub struct Page;\nmod tests { struct Key; }\nimpl A for Page { type Item = u8; }"),
        Source::parse("src/b.rs", "\npub(crate) type Page = u8;\nstruct Key;\nstruct Error;"),
        Source::parse("src/c/tests.rs", "struct Page;\nstruct Item;"),
        Source::parse("src/d.rs", "enum Error {}\n#[cfg(test)]\nstruct Key;"),
    ];
    assert_eq!(repeated_types(&sources), ["src/a.rs:1, src/b.rs:2: Page is defined more than once"]);
}

#[test]
fn a_planted_participle_is_named() {
    let text = "struct Lasting;\nenum Held {}\ntrait Waited {}\nstruct Sealed;\nstruct String;\nstruct PooledConnection;\n\
                struct Red;\nstruct LongLasting;";
    let expected = ["src/a.rs:1: Lasting", "src/a.rs:2: Held", "src/a.rs:3: Waited"];
    assert_eq!(participles(&[Source::parse("src/a.rs", text)]), expected.map(|place| format!("{place} is not a noun")));
}

#[test]
fn a_planted_unused_item_is_named() {
    let src = [
        Source::parse(
            "src/a.rs",
            "pub const fn one() {}\npub(crate) const TWO: u8 = 2;\npub struct Three;\npub fn four() {}",
        ),
        Source::parse(
            "src/b.rs",
            "use crate::a::{TWO, one as f};\nfn five() { f() }\n// Three\npub mod six;\npub use x::seven;",
        ),
    ];
    let others = [Source::parse("tests/a.rs", "fn test() { four(\"Three\") }")];
    assert_eq!(
        unused_items(&src, &others, ""),
        ["src/a.rs:2: TWO is used nowhere", "src/a.rs:3: Three is used nowhere"]
    );
    assert!(unused_items(&src, &others, "format!(\"{TWO} Three\")").is_empty());
}
