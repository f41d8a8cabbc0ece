//! Source files, split into code, comments and string literals.

/// A file of Rust (or of protos, for their comments).
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the root of the repository.
    pub path: String,
    pub tokens: Vec<Token>,
    /// The string literals as they are written, without quotes, each with the index of its token.
    pub strings: Vec<(usize, String)>,
    /// One for each line of a comment.
    pub comments: Vec<Comment>,
    pub lines: usize,
}

#[derive(Debug)]
pub(crate) struct Token {
    pub lexeme: Lexeme,
    /// Counted from 1, as everywhere here.
    pub line: usize,
    /// Whether the token belongs to an item under `#[cfg(test)]` or to a file of tests.
    pub in_test: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lexeme {
    /// An identifier, a keyword or a number.
    Word(String),
    /// A punctuation character; `"` stands for a whole string literal.
    Mark(char),
}

#[derive(Debug)]
pub(crate) struct Comment {
    pub line: usize,
    pub kind: CommentKind,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommentKind {
    Plain,
    /// `///`: documents the item that follows.
    Outer,
    /// `//!`: documents the module that it stands in.
    Inner,
}

impl Token {
    pub(super) fn word(&self) -> Option<&str> {
        if let Lexeme::Word(word) = &self.lexeme { Some(word) } else { None }
    }

    pub(super) fn mark(&self) -> Option<char> {
        if let Lexeme::Mark(mark) = self.lexeme { Some(mark) } else { None }
    }
}

impl Source {
    pub(super) fn parse(path: &str, text: &str) -> Self {
        let (tokens, strings, comments) = (Vec::new(), Vec::new(), Vec::new());
        let source = Self { path: path.to_owned(), tokens, strings, comments, lines: text.lines().count() };
        let mut lexer = Lexer { text, at: 0, line: 1, source };
        lexer.run();
        let mut source = lexer.source;
        source.mark_tests();
        source
    }

    /// Every line of a Markdown file outside of fenced code counts as a comment.
    pub(super) fn markdown(path: &str, text: &str) -> Self {
        let mut source = Self::parse(path, "");
        let mut is_code = false;
        for (line, text) in (1..).zip(text.lines()) {
            if text.starts_with("```") {
                is_code = !is_code;
            } else if !is_code {
                source.comments.push(Comment { line, kind: CommentKind::Plain, text: text.trim().to_owned() });
            }
        }
        source
    }

    /// The modules that contain the code of this file, outermost first; none for the crate's root and the program.
    pub(super) fn modules(&self) -> Vec<String> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut modules: Vec<String> = path.split('/').map(str::to_owned).collect();
        if modules.last().is_some_and(|last| last == "mod") || ["lib", "main"].contains(&path) {
            modules.pop();
        }
        modules
    }

    /// The top-level module that the file belongs to; empty for the crate's root and the program.
    pub(super) fn module(&self) -> String {
        self.modules().into_iter().next().unwrap_or_default()
    }

    /// Where something is, as it is printed in front of a violation.
    pub(super) fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }

    fn mark_tests(&mut self) {
        if self.path.ends_with("tests.rs") || self.path.contains("/testing") {
            self.tokens.iter_mut().for_each(|token| token.in_test = true);
            return;
        }
        let mut at = 0;
        while at < self.tokens.len() {
            at += 1;
            if self.is_test_attribute(at - 1) {
                let end = item_end(&self.tokens, at);
                self.tokens[at - 1..=end].iter_mut().for_each(|token| token.in_test = true);
                at = end + 1;
            }
        }
    }

    /// Whether `#[cfg(test)]` is here.
    fn is_test_attribute(&self, at: usize) -> bool {
        let Some(tokens) = self.tokens.get(at..at + 7) else { return false };
        tokens[0].mark() == Some('#') && tokens[2].word() == Some("cfg") && tokens[4].word() == Some("test")
    }
}

/// The index of an item's last token: its closing brace or its semicolon. Attributes before the item are part of it. For a
/// field or a variant, the brace that closes the type.
pub(super) fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.mark() {
            Some('(' | '[' | '{') => depth += 1,
            Some(')' | ']') => depth -= 1,
            Some('}') => {
                depth -= 1;
                if depth <= 0 {
                    return at;
                }
            }
            Some(';') if depth == 0 => return at,
            _ => {}
        }
    }
    tokens.len() - 1
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    source: Source,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while self.at < self.text.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'/') => self.line_comment(),
                (b'/', b'*') => self.block_comment(),
                (b'"', _) => self.string(),
                (b'\'', _) => self.quote(),
                (byte, _) if is_word(byte) => self.word(),
                (byte, _) => {
                    if byte.is_ascii_punctuation() {
                        self.push(Lexeme::Mark(char::from(byte)));
                    }
                    self.skip(1);
                }
            }
        }
    }

    /// The byte so far ahead, or zero behind the end.
    fn peek(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or_default()
    }

    fn skip(&mut self, bytes: usize) {
        for _ in 0..bytes {
            self.line += usize::from(self.peek(0) == b'\n');
            self.at += 1;
        }
    }

    fn push(&mut self, lexeme: Lexeme) {
        self.source.tokens.push(Token { lexeme, line: self.line, in_test: false });
    }

    fn line_comment(&mut self) {
        let line = self.text[self.at..].lines().next().unwrap_or_default();
        let (kind, text) = if line.starts_with("////") {
            (CommentKind::Plain, line.trim_start_matches('/'))
        } else if let Some(text) = line.strip_prefix("///") {
            (CommentKind::Outer, text)
        } else if let Some(text) = line.strip_prefix("//!") {
            (CommentKind::Inner, text)
        } else {
            (CommentKind::Plain, &line[2..])
        };
        self.source.comments.push(Comment { line: self.line, kind, text: text.trim().to_owned() });
        self.at += line.len();
    }

    fn block_comment(&mut self) {
        let (start, line) = (self.at, self.line);
        let mut depth = 0;
        while self.at < self.text.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => depth += 1,
                (b'*', b'/') => depth -= 1,
                _ => {
                    self.skip(1);
                    continue;
                }
            }
            self.skip(2);
            if depth == 0 {
                break;
            }
        }
        for (line, text) in (line..).zip(self.text[start..self.at].lines()) {
            let text = text.trim_matches(|c: char| c == '/' || c == '*' || c.is_whitespace()).to_owned();
            self.source.comments.push(Comment { line, kind: CommentKind::Plain, text });
        }
    }

    fn string(&mut self) {
        self.push(Lexeme::Mark('"'));
        self.skip(1);
        let start = self.at;
        while self.at < self.text.len() && self.peek(0) != b'"' {
            self.skip(if self.peek(0) == b'\\' { 2 } else { 1 });
        }
        self.keep_string(start..self.at);
        self.skip(1);
    }

    /// Keeps the text of the literal whose token was pushed last.
    fn keep_string(&mut self, range: std::ops::Range<usize>) {
        let text = self.text.get(range).unwrap_or_default().to_owned();
        self.source.strings.push((self.source.tokens.len() - 1, text));
    }

    /// `r"…"`, `r#"…"#` and so on, from the quote or the first `#`.
    fn raw_string(&mut self, hashes: usize) {
        self.push(Lexeme::Mark('"'));
        self.skip(hashes + 1);
        let end = format!("\"{}", "#".repeat(hashes));
        let length = self.text[self.at..].find(&end).unwrap_or(self.text.len() - self.at);
        self.keep_string(self.at..self.at + length);
        self.skip(length + end.len());
    }

    /// A character literal or a lifetime.
    fn quote(&mut self) {
        let mut characters = self.text[self.at + 1..].chars();
        let first = characters.next().unwrap_or_default();
        if first == '\\' {
            self.skip(3);
            while self.at < self.text.len() && self.peek(0) != b'\'' {
                self.skip(1);
            }
            self.skip(1);
        } else if characters.next() == Some('\'') {
            self.skip(first.len_utf8() + 2);
        } else {
            self.skip(1);
            while is_word(self.peek(0)) {
                self.skip(1);
            }
        }
    }

    fn word(&mut self) {
        let length = self.text.as_bytes()[self.at..].iter().take_while(|byte| is_word(**byte)).count();
        let word = &self.text[self.at..self.at + length];
        let hashes = self.text.as_bytes()[self.at + length..].iter().take_while(|byte| **byte == b'#').count();
        let is_string = self.peek(length + hashes) == b'"';
        if is_string && ["r", "br", "cr"].contains(&word) {
            self.skip(length);
            self.raw_string(hashes);
        } else {
            if !(is_string && hashes == 0 && ["b", "c"].contains(&word)) {
                self.push(Lexeme::Word(word.to_owned()));
            }
            self.skip(length);
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[test]
fn literals_and_comments_are_not_code() {
    let text = "let a = \"one // \\\" two\"; // three\nlet b = r#\"four \" five\"#; /* six\n /* seven */ */ 'e'; '\\'';\n\
                /// Eight.\nfn ten<'a>(c: &'a u8) {} b\"nine\" '\u{e9}' \"\n\" end";
    let source = Source::parse("src/a.rs", text);
    let words: Vec<&str> = source.tokens.iter().filter_map(Token::word).collect();
    assert_eq!(words, ["let", "a", "let", "b", "fn", "ten", "c", "u8", "end"]);
    let comments: Vec<(usize, &str)> = source.comments.iter().map(|comment| (comment.line, &*comment.text)).collect();
    assert_eq!(comments, [(1, "three"), (2, "six"), (3, "seven"), (4, "Eight.")]);
    assert_eq!(source.comments[3].kind, CommentKind::Outer);
    let strings: Vec<&str> = source.strings.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(strings, ["one // \\\" two", "four \" five", "nine", "\n"]);
    assert_eq!(source.tokens.last().unwrap().line, 6);
}

#[test]
fn code_under_test_is_marked() {
    let text = "struct A;\n#[cfg(test)]\nmod tests {\n    struct B;\n}\n#[cfg(test)]\nuse b::c;\nstruct D;";
    let source = Source::parse("src/a.rs", text);
    let marked = |word: &str| source.tokens.iter().find(|token| token.word() == Some(word)).unwrap().in_test;
    assert_eq!(["A", "B", "c", "D"].map(marked), [false, true, true, false]);
    assert!(Source::parse("src/a/tests.rs", "struct A;").tokens[0].in_test);
}

#[test]
fn a_file_knows_its_modules() {
    let modules = |path: &str| Source::parse(path, "").modules();
    assert_eq!(modules("src/grpc/check/mod.rs"), ["grpc", "check"]);
    assert_eq!(modules("src/grpc/page.rs"), ["grpc", "page"]);
    assert_eq!(modules("src/clock.rs"), ["clock"]);
    assert!(modules("src/lib.rs").is_empty() && modules("src/main.rs").is_empty());
}
