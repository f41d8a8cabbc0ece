//! The language of comments: documentation that documents, and words that are not used.

use super::source::{Comment, CommentKind, Source};

/// How many comment lines of a thousand may use the words of a group: fewer than this.
const HITS_PER_1000_LINES: usize = 2;

/// Groups of words, each with its limit. See also [`is_subject_who`].
const GROUPS: &[(&str, &[&str])] = &[
    ("nobody", &["nobody", "somebody", "anybody", "everybody"]),
    ("so many", &["so many", "such a one", "so much", "such ones"]),
    ("anew", &["anew", "meanwhile", "save that", "rightly", "in vain", "in hand", "for ever", "of its own", "of ours"]),
    ("tells", &["tells", "told", "hears", "says so"]),
];

/// Metaphors for parts of the program, which are used nowhere.
const METAPHORS: &[&str] = &["door", "doors", "lane", "lanes", "house", "houses", "storey", "storeys"];

/// A clause that begins with `who` and one of these has it for its subject.
const WHO_VERBS: &[&str] =
    &["is", "has", "was", "may", "accepts", "does", "asks", "calls", "owns", "holds", "reads", "knows"];

pub(super) fn short_docs(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let docs: Vec<&Comment> = source.comments.iter().filter(|comment| comment.kind != CommentKind::Plain).collect();
        for doc in docs.chunk_by(|one, next| one.kind == next.kind && one.line + 1 == next.line) {
            if doc.iter().map(|line| line.text.split_whitespace().count()).sum::<usize>() <= 2 {
                violations.push(format!("{}: {}", source.place(doc[0].line), doc[0].text));
            }
        }
    }
    violations
}

/// The lines with words of every group that is at its limit in these sources, and the lines with metaphors.
pub(super) fn banned_words(sources: &[Source]) -> Vec<String> {
    let lines: usize = sources.iter().map(|source| source.comments.len()).sum();
    let is_over = |hits: usize| hits * 1000 >= HITS_PER_1000_LINES * lines.max(1);
    let mut violations = Vec::new();
    let mut extend = |hits: Vec<String>| violations.extend(if is_over(hits.len()) { hits } else { Vec::new() });
    extend(find(sources, |text| is_subject_who(text).then_some("who")));
    for (_, words) in GROUPS {
        extend(find(sources, |text| words.iter().find(|word| has_word(text, word)).copied()));
    }
    violations.extend(find(sources, |text| METAPHORS.iter().find(|word| has_word(text, word)).copied()));
    violations
}

/// The comment lines in whose text, in lower case, the rule finds a word.
fn find<'a>(sources: &[Source], rule: impl Fn(&str) -> Option<&'a str>) -> Vec<String> {
    let mut hits = Vec::new();
    for source in sources {
        for comment in &source.comments {
            if let Some(word) = rule(&comment.text.to_lowercase()) {
                hits.push(format!("{}: `{word}` in: {}", source.place(comment.line), comment.text));
            }
        }
    }
    hits
}

fn is_in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether these words stand in the text, neither of them as a part of another.
fn has_word(text: &str, words: &str) -> bool {
    text.match_indices(words).any(|(at, _)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + words.len()..].chars().next());
        !before.is_some_and(is_in_word) && !after.is_some_and(is_in_word)
    })
}

/// Whether the subject of a clause is one of the two pronouns: the long one anywhere, the short one before a verb.
fn is_subject_who(text: &str) -> bool {
    let begins_clause =
        |at: usize| at == 0 || [". ", "; ", ": ", ", ", "( "].iter().any(|end| text[..at].ends_with(end));
    let has_verb = |at: usize| {
        let next = text[at + "who ".len()..].split(|c| !is_in_word(c)).next();
        next.is_some_and(|verb| WHO_VERBS.contains(&verb))
    };
    has_word(text, "whoever") || text.match_indices("who ").any(|(at, _)| begins_clause(at) && has_verb(at))
}

#[test]
fn a_planted_short_doc_is_named() {
    let text = "//! A whole sentence.\n\n/// Who.\nstruct A;\n/// The id.\nstruct B;\n/// The\n/// two lines.\nstruct C;\n// Plain.";
    assert_eq!(short_docs(&[Source::parse("src/a.rs", text)]), ["src/a.rs:3: Who.", "src/a.rs:5: The id."]);
}

#[test]
fn planted_words_are_named() {
    for (comment, word) in [
        ("Nobody reads this.", "nobody"),
        ("There are so many of them.", "so many"),
        ("It is loaded anew.", "anew"),
        ("Waiting for ever.", "for ever"),
        ("The follower is told.", "told"),
        ("Whoever reads it", "who"),
        ("callers, who may wait", "who"),
        ("who has it", "who"),
    ] {
        let source = Source::parse("src/a.rs", &format!("fn a() {{}}\n// {comment}"));
        assert_eq!(banned_words(&[source]), [format!("src/a.rs:2: `{word}` in: {comment}")]);
    }
    for comment in ["A user whom the service knows.", "Untold tellers.", "`nobody_else`", "whose is whole"] {
        assert!(banned_words(&[Source::parse("src/a.rs", &format!("// {comment}"))]).is_empty(), "{comment}");
    }
    assert!(banned_words(&[Source::parse("src/a.rs", "fn nobody() { \"told\" }")]).is_empty());
}

#[test]
fn words_are_limited_by_their_share_and_metaphors_altogether() {
    let text = |words: &str| format!("{}// {words}", "// A line.\n".repeat(998));
    assert!(banned_words(&[Source::parse("src/a.rs", &text("It is told."))]).is_empty());
    assert_eq!(banned_words(&[Source::parse("src/a.rs", &text("It is told.\n// It tells."))]).len(), 2);
    assert_eq!(banned_words(&[Source::parse("src/a.rs", &text("The door."))]), ["src/a.rs:999: `door` in: The door."]);
}

#[test]
fn a_readme_is_prose_outside_of_its_code() {
    let readme = Source::markdown("README.md", "The lane.\n```\nThe door.\n```\nThe house.");
    let expected = ["README.md:1: `lane` in: The lane.", "README.md:5: `house` in: The house."];
    assert_eq!(banned_words(&[readme]), expected);
}
