//! Limits on the length of functions and files.

use super::source::{Source, Token, item_end};

/// From the line of `fn` to the line of the closing brace.
const FUNCTION_LINES: usize = 70;

const FILE_LINES: usize = 500;

#[derive(Debug)]
pub(super) struct Function<'a> {
    source: &'a Source,
    name: &'a str,
    line: usize,
    lines: usize,
}

/// Every function with a body.
pub(super) fn functions(sources: &[Source]) -> impl Iterator<Item = Function<'_>> {
    sources.iter().flat_map(|source| {
        let tokens = &source.tokens;
        let starts = (0..tokens.len()).filter(|at| tokens[*at].word() == Some("fn"));
        starts.filter_map(move |start| {
            // Without a name it is the type of a function pointer.
            let name = tokens.get(start + 1).and_then(Token::word)?;
            let end = &tokens[item_end(tokens, start)];
            let line = tokens[start].line;
            (end.mark() == Some('}')).then(|| Function { source, name, line, lines: end.line - line + 1 })
        })
    })
}

pub(super) fn long_functions(sources: &[Source]) -> Vec<String> {
    let long = functions(sources).filter(|function| function.lines > FUNCTION_LINES);
    long.map(|Function { source, name, line, lines }| {
        format!("{}: {name} has {lines} lines, {FUNCTION_LINES} are allowed", source.place(line))
    })
    .collect()
}

pub(super) fn long_files(sources: &[Source]) -> Vec<String> {
    let long = sources.iter().filter(|source| source.lines > FILE_LINES);
    long.map(|source| format!("{}: {} lines, {FILE_LINES} are allowed", source.place(source.lines), source.lines))
        .collect()
}

#[test]
fn a_planted_long_function_is_named() {
    let text = |lines: usize| {
        format!("trait A {{\n    fn f();\n}}\nfn g(a: fn(u8) -> [u8; 2]) {{{}}}", "\n".repeat(lines - 1))
    };
    assert!(long_functions(&[Source::parse("src/a.rs", &text(70))]).is_empty());
    let long = Source::parse("src/a.rs", &text(71));
    assert_eq!(long_functions(&[long]), ["src/a.rs:4: g has 71 lines, 70 are allowed"]);
}

#[test]
fn a_planted_long_file_is_named() {
    assert!(long_files(&[Source::parse("src/a.rs", &"\n".repeat(500))]).is_empty());
    let long = Source::parse("src/a.rs", &"\n".repeat(501));
    assert_eq!(long_files(&[long]), ["src/a.rs:501: 501 lines, 500 are allowed"]);
}
