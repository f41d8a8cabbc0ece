//! SQL, split into tokens with their depth of parentheses. Comments are left out.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or a name.
    Word,
    /// A parameter, as in `$1`.
    Parameter,
    /// A string, a name in quotes, or the text between two `$$`.
    Quoted,
    Number,
    /// A punctuation character, or `::`.
    Mark,
}

#[derive(Debug)]
pub(super) struct Token {
    pub kind: Kind,
    /// A word is in lower case, and a quoted text has no quotes.
    pub text: String,
    /// The number of parentheses around the token.
    pub depth: usize,
}

/// The tokens of one string, which may hold several statements.
#[derive(Debug)]
pub(super) struct Sql {
    pub tokens: Vec<Token>,
}

impl Sql {
    pub(super) fn parse(text: &str) -> Self {
        let mut sql = Self { tokens: Vec::new() };
        let mut depth = 0_usize;
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
                '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
                '\'' | '"' => sql.push_quoted(rest, &first.to_string(), depth),
                '$' if rest.starts_with("$$") => sql.push_quoted(rest, "$$", depth),
                '$' => sql.push_run(rest, Kind::Parameter, depth),
                '0'..='9' => sql.push_run(rest, Kind::Number, depth),
                _ if first.is_alphabetic() || first == '_' => sql.push_run(rest, Kind::Word, depth),
                _ if first.is_whitespace() => first.len_utf8(),
                _ => {
                    depth -= usize::from(first == ')' && depth > 0);
                    let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
                    sql.tokens.push(Token { kind: Kind::Mark, text: rest[..length].to_owned(), depth });
                    depth += usize::from(first == '(');
                    length
                }
            };
            rest = &rest[length..];
        }
        sql
    }

    /// Pushes a token of word characters, the first one whatever it is. Returns its length.
    fn push_run(&mut self, rest: &str, kind: Kind, depth: usize) -> usize {
        let end = rest.char_indices().skip(1).find(|(_, c)| !c.is_alphanumeric() && *c != '_').map(|(at, _)| at);
        let length = end.unwrap_or(rest.len());
        self.tokens.push(Token { kind, text: rest[..length].to_lowercase(), depth });
        length
    }

    /// Pushes the text between two quotes. A doubled quote ends one token and begins another, which no rule minds.
    fn push_quoted(&mut self, rest: &str, quote: &str, depth: usize) -> usize {
        let inner = &rest[quote.len()..];
        let length = inner.find(quote).unwrap_or(inner.len());
        self.tokens.push(Token { kind: Kind::Quoted, text: inner[..length].to_owned(), depth });
        rest.len().min(length + 2 * quote.len())
    }

    /// Whether these words stand one after the other from here on.
    pub(super) fn has_words(&self, at: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(ahead, word)| self.word(at + ahead) == Some(word))
    }

    pub(super) fn word(&self, at: usize) -> Option<&str> {
        self.tokens.get(at).filter(|token| token.kind == Kind::Word).map(|token| token.text.as_str())
    }

    pub(super) fn is_mark(&self, at: usize, mark: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == Kind::Mark && token.text == mark)
    }

    pub(super) fn is_kind(&self, at: usize, kind: Kind) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == kind)
    }

    /// The index behind the last token of the statement or subquery that contains this token.
    pub(super) fn end(&self, at: usize) -> usize {
        let depth = self.tokens[at].depth;
        let is_behind = |token: &Token| token.depth < depth || (token.depth == depth && token.text == ";");
        self.tokens[at..].iter().position(is_behind).map_or(self.tokens.len(), |ahead| at + ahead)
    }

    /// The statements of the string, each without its semicolon.
    pub(super) fn statements(&self) -> Vec<&[Token]> {
        let is_end = |token: &Token| token.kind == Kind::Mark && token.text == ";";
        self.tokens.split(is_end).filter(|tokens| !tokens.is_empty()).collect()
    }
}

#[test]
fn text_is_split_into_tokens() {
    let sql =
        Sql::parse("SELECT a.b, 'it; s' -- one; two\n FROM (T /* x */) WHERE $12::int = \"Q r\"; DO $$ BEGIN; END $$");
    let texts: Vec<&str> = sql.tokens.iter().map(|token| token.text.as_str()).collect();
    let expected = [
        "select",
        "a",
        ".",
        "b",
        ",",
        "it; s",
        "from",
        "(",
        "t",
        ")",
        "where",
        "$12",
        "::",
        "int",
        "=",
        "Q r",
        ";",
        "do",
        " BEGIN; END ",
    ];
    assert_eq!(texts, expected);
    assert_eq!(sql.statements().len(), 2);
    assert_eq!((sql.tokens[7].depth, sql.tokens[8].depth, sql.tokens[9].depth), (0, 1, 0));
}
