//! The paths in a file's code: `use` declarations with their groups taken apart, and qualified names.

use super::source::{Source, Token};

/// A path as if it were written in full: `crate::…` for one within the crate, else from the name of its first segment on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub segments: Vec<String>,
    pub line: usize,
}

pub(super) fn paths(source: &Source) -> Vec<Path> {
    let tokens = &source.tokens;
    let mut modules = source.modules();
    // Inline modules, with the depth of braces inside each.
    let mut inline = Vec::new();
    let (mut depth, mut at) = (0, 0);
    let mut found = Vec::new();
    while at < tokens.len() {
        let mut read = Vec::new();
        match (tokens[at].word(), tokens[at].mark()) {
            (Some("mod"), _) if is(tokens, at + 2, '{') => {
                modules.push(tokens[at + 1].word().unwrap_or_default().to_owned());
                inline.push(depth + 1);
                at += 2;
            }
            (Some("use"), _) if !is(tokens, at + 1, '<') => at = read_use(tokens, at + 1, &[], &mut read),
            (Some(_), _) => at = read_path(tokens, at, &mut read),
            (_, Some('{')) => {
                depth += 1;
                at += 1;
            }
            (_, Some('}')) => {
                if inline.last() == Some(&depth) {
                    inline.pop();
                    modules.pop();
                }
                depth -= 1;
                at += 1;
            }
            _ => at += 1,
        }
        found.extend(read.into_iter().map(|path| Path { segments: resolve(&modules, path.segments), ..path }));
    }
    found
}

fn is(tokens: &[Token], at: usize, mark: char) -> bool {
    tokens.get(at).is_some_and(|token| token.mark() == Some(mark))
}

/// Reads what follows `use` or stands in a group of it, and returns the index of the `;`, `,` or `}` behind.
fn read_use(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    let mut segments = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match (token.word(), token.mark()) {
            (Some("as"), _) => at += 2,
            (Some(word), _) => {
                segments.push(word.to_owned());
                at += 1;
            }
            (_, Some(':' | '*')) => at += 1,
            (_, Some('{')) => {
                at += 1;
                while at < tokens.len() && !is(tokens, at, '}') {
                    at = read_use(tokens, at, &segments, found);
                    at += usize::from(is(tokens, at, ','));
                }
                return at + 1;
            }
            _ => break,
        }
    }
    if segments.len() > prefix.len() {
        found.push(Path { segments, line: tokens[at - 1].line });
    }
    at
}

/// Reads a path of at least two segments, and returns the index behind it; a single word is not a path.
fn read_path(tokens: &[Token], start: usize, found: &mut Vec<Path>) -> usize {
    let mut segments = Vec::new();
    let mut at = start;
    while let Some(word) = tokens.get(at).and_then(Token::word) {
        segments.push(word.to_owned());
        at += 1;
        if !(is(tokens, at, ':') && is(tokens, at + 1, ':'))
            || tokens.get(at + 2).is_none_or(|next| next.word().is_none())
        {
            break;
        }
        at += 2;
    }
    if segments.len() > 1 {
        found.push(Path { segments, line: tokens[start].line });
    }
    at
}

fn resolve(modules: &[String], segments: Vec<String>) -> Vec<String> {
    let mut base = match segments[0].as_str() {
        "crate" | "roster" => &[],
        "self" | "super" => modules,
        _ => return segments,
    };
    let mut rest = segments.as_slice();
    while let Some((first, others)) = rest.split_first() {
        match first.as_str() {
            "super" => base = base.split_last().map(|(_, base)| base).unwrap_or_default(),
            "self" | "crate" | "roster" => {}
            _ => break,
        }
        rest = others;
    }
    let root = [String::from("crate")];
    root.iter().chain(base).chain(rest).cloned().collect()
}

fn found(path: &str, text: &str) -> Vec<String> {
    paths(&Source::parse(path, text))
        .into_iter()
        .map(|path| format!("{} {}", path.line, path.segments.join("::")))
        .collect()
}

#[test]
fn grouped_imports_are_taken_apart() {
    let text = "use crate::{\n    a::{self, b},\n    c as d,\n    e::*,\n};\npub use {x::y, z};\nuse ::w::{};";
    let expected = ["2 crate::a::self", "2 crate::a::b", "3 crate::c", "4 crate::e", "6 x::y", "6 z"];
    assert_eq!(found("src/m.rs", text), expected);
}

#[test]
fn qualified_names_are_paths() {
    let text = "fn f(a: crate::a::B<Vec<c::D>>) -> impl Sized + use<'_> {\n    self.e(Vec::<crate::f::G>::new())\n}";
    assert_eq!(found("src/m.rs", text), ["1 crate::a::B", "1 c::D", "2 crate::f::G"]);
    assert_eq!(found("src/main.rs", "fn main() { roster::cli::run() }"), ["1 crate::cli::run"]);
}

#[test]
fn super_is_resolved_within_files_and_inline_modules() {
    assert_eq!(found("src/a/b.rs", "use super::c;\nuse super::super::d::E;"), ["1 crate::a::c", "2 crate::d::E"]);
    assert_eq!(found("src/a/mod.rs", "use super::{b::C, self as d};"), ["1 crate::b::C", "1 crate"]);
    let text = "mod tests {\n    use super::C;\n    fn f() { super::super::d::e() }\n}\nuse super::f;";
    assert_eq!(found("src/a/b.rs", text), ["2 crate::a::b::C", "3 crate::a::d::e", "5 crate::a::f"]);
}
