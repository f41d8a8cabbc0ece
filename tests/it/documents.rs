//! The documents agree with the repository: paths and links lead somewhere, the generated table is current, and a test
//! runs every command that is not marked as an example.
//!
//! `ROSTER_WRITE_DOCS=1 cargo test --test it documents::` writes the generated part of `docs/settings.md`.

use crate::architecture::{files, root};
use std::fs;
use std::path::Path;

const SETTINGS: &str = "docs/settings.md";
const GENERATED: &str = "<!-- settings: generated -->\n";
const GENERATED_END: &str = "<!-- end -->";

/// The line before a block of commands that no test runs.
const EXAMPLE: &str = "<!-- example -->";

/// What the line before a block begins with if the block is a file of the repository.
const FILE: &str = "<!-- file: ";

/// The folder of the programs on the page for other languages.
const PROGRAMS: &str = "interop/languages";

/// The folders at the root. A word in backticks that begins with one of them and a slash is a path.
const FOLDERS: &[&str] = &[
    ".ci",
    ".github",
    ".sqlx",
    "benches",
    "build",
    "docs",
    "examples",
    "interop",
    "migrations",
    "proto",
    "src",
    "tests",
    "third_party",
];

struct Document {
    /// Relative to the root.
    path: String,
    text: String,
}

/// A line of a document outside of its fenced blocks.
struct ProseLine<'a> {
    number: usize,
    text: &'a str,
}

struct FencedBlock<'a> {
    /// The line of the opening fence.
    line: usize,
    /// The line before it.
    before: &'a str,
    language: &'a str,
    commands: Vec<&'a str>,
}

impl Document {
    fn read(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.to_owned(), text }
    }

    /// Splits the document into prose and fenced blocks.
    fn parts(&self) -> (Vec<ProseLine<'_>>, Vec<FencedBlock<'_>>) {
        let (mut prose, mut blocks): (Vec<ProseLine>, Vec<FencedBlock>) = (Vec::new(), Vec::new());
        let (mut is_fenced, mut before) = (false, "");
        for (number, text) in (1..).zip(self.text.lines()) {
            match text.trim_start().strip_prefix("```") {
                Some(_) if is_fenced => is_fenced = false,
                Some(language) => {
                    is_fenced = true;
                    blocks.push(FencedBlock { line: number, before, language, commands: Vec::new() });
                }
                None if is_fenced => blocks.last_mut().unwrap().commands.push(text),
                None => prose.push(ProseLine { number, text }),
            }
            before = text;
        }
        (prose, blocks)
    }

    fn headings(&self) -> Vec<&str> {
        let lines = self.parts().0.into_iter().map(|line| line.text);
        lines.filter(|text| text.starts_with('#')).map(|text| text.trim_start_matches('#').trim()).collect()
    }

    fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }
}

/// README.md and the pages of `docs`, whose commands interop runs.
fn pages() -> Vec<Document> {
    let pages = files(&root().join("docs"), "md");
    let pages = pages.iter().map(|file| file.strip_prefix(root()).unwrap().to_str().unwrap());
    std::iter::once("README.md").chain(pages).map(Document::read).collect()
}

/// Every document whose paths and commands are checked. The changelog is none of them: it names what is gone.
fn documents() -> Vec<Document> {
    let others = ["BENCHMARKS.md", "CONTRIBUTING.md", "SECURITY.md"];
    let others = others.into_iter().filter(|path| root().join(path).exists()).map(Document::read);
    pages().into_iter().chain(others).collect()
}

/// The words between two backticks in a line that are paths of the repository.
fn named_paths(line: &str) -> impl Iterator<Item = &str> {
    let spans = line.split('`').skip(1).step_by(2);
    let words = spans.flat_map(|span| span.split([' ', '=', '"', '\'', '(', ')', ',']));
    words.filter(|word| word.split_once('/').is_some_and(|(first, _)| FOLDERS.contains(&first)))
}

/// The part of a path before the first component with a placeholder, and without a line number.
fn literal_part(path: &str) -> &str {
    let path = path.split_once(':').map_or(path, |(path, _)| path);
    let placeholder = path.find(['*', '<', '{', '…', '$']);
    placeholder.map_or(path, |at| path[..at].rsplit_once('/').map_or("", |(folder, _)| folder))
}

/// The targets of links in a line.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    let after = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    after.map(|(target, _)| target).filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
}

/// The anchor that a forge gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The paths and links of a document that lead nowhere.
fn dead_ends(document: &Document) -> Vec<String> {
    let mut dead = Vec::new();
    let folder = Path::new(&document.path).parent().unwrap();
    for line in document.parts().0 {
        let paths = named_paths(line.text).filter(|path| !root().join(literal_part(path)).exists());
        dead.extend(paths.map(|path| format!("{}: the path {path} does not exist", document.place(line.number))));
        for target in link_targets(line.text) {
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let path =
                if path.is_empty() { document.path.clone() } else { folder.join(path).to_str().unwrap().to_owned() };
            let is_dead = !root().join(&path).exists() || !(heading.is_empty() || has_anchor(&path, heading));
            dead.extend(is_dead.then(|| format!("{}: the link {target} leads nowhere", document.place(line.number))));
        }
    }
    dead
}

fn has_anchor(path: &str, wanted: &str) -> bool {
    Document::read(path).headings().iter().any(|heading| anchor(heading) == wanted)
}

/// The blocks of commands of a document that no test runs, although they are not marked. `is_run` says whether interop
/// runs the blocks of this document.
fn commands_without_a_test(document: &Document, is_run: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for block in document.parts().1 {
        let place = document.place(block.line);
        let is_example = block.before == EXAMPLE;
        let is_build = |command: &&str| ["make ", "cargo ", "sudo "].iter().any(|program| command.starts_with(program));
        if ["bash", "console", "shell", "zsh"].contains(&block.language) {
            wrong.push(format!("{place}: the language of commands is `sh`"));
        } else if is_example && block.language != "sh" {
            wrong.push(format!("{place}: only a block of `sh` is an example"));
        } else if block.language == "sh" && !is_example && !is_run {
            wrong.push(format!("{place}: no test runs these commands: write `{EXAMPLE}` on the line before"));
        } else if block.language == "sh" && !is_example && block.commands.iter().any(is_build) {
            wrong.push(format!("{place}: interop cannot run builds: write `{EXAMPLE}` on the line before"));
        }
    }
    wrong
}

/// The places that the table of `docs/reader-questions.md` names and that do not exist: its last two columns are a file
/// and a heading in it.
fn missing_places(questions: &Document) -> Vec<String> {
    let (prose, _) = questions.parts();
    let rows = prose.iter().filter(|line| line.text.starts_with('|')).skip(2);
    let missing = rows.filter_map(|line| {
        let cells: Vec<&str> = line.text.trim_matches('|').split('|').map(str::trim).collect();
        let [_, answer, file, heading] = cells[..] else {
            return Some(format!("{}: a row has four columns", questions.place(line.number)));
        };
        let file = file.trim_matches('`');
        let exists = root().join(file).is_file() && Document::read(file).headings().contains(&heading);
        (!exists || answer.is_empty()).then(|| format!("{}: {file} has no {heading}", questions.place(line.number)))
    });
    missing.collect()
}

#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn paths_and_links_lead_somewhere() {
    assert_none(&documents().iter().flat_map(dead_ends).collect::<Vec<_>>());
}

#[test]
fn the_table_of_settings_is_current() {
    let text = Document::read(SETTINGS).text;
    let (before, rest) = text.split_once(GENERATED).unwrap_or_else(|| panic!("{SETTINGS} has no line {GENERATED}"));
    let (generated, after) =
        rest.split_once(GENERATED_END).unwrap_or_else(|| panic!("{SETTINGS} has no line {GENERATED_END}"));
    let current = roster::config::markdown();
    if std::env::var_os("ROSTER_WRITE_DOCS").is_some() {
        let written = format!("{before}{GENERATED}\n{}\n\n{GENERATED_END}{after}", current.trim());
        fs::write(root().join(SETTINGS), written).unwrap();
    } else {
        let is_current = generated.trim() == current.trim();
        assert!(is_current, "{SETTINGS} is out of date: run ROSTER_WRITE_DOCS=1 cargo test --test it documents::");
    }
}

/// The table of what is kept names the times that the program uses.
#[test]
fn the_table_of_retention_is_current() {
    use roster::{service, store};
    let text = Document::read("docs/operations.md").text;
    let (_, rest) = text.split_once("## What is kept, and for how long").unwrap();
    let (table, _) = rest.split_once("\n## ").unwrap();
    let days = |duration: std::time::Duration| format!("{} days", duration.as_secs() / 86_400);
    let hours = |duration: std::time::Duration| format!("{} hours", duration.as_secs() / 3_600);
    for (what, time) in [
        ("a deleted organization", days(store::limits::PURGE_AFTER)),
        ("a registration", days(store::limits::PURGE_AFTER)),
        ("an invitation and its tokens", days(service::limits::INVITATION_RETENTION)),
        ("invitation tokens", format!("latest {} ", store::limits::INVITATION_TOKENS)),
        ("a mail in the outbox", hours(service::limits::MAIL_GIVE_UP)),
        ("the response to a `request_id`", hours(store::limits::REQUEST_MEMORY)),
        ("counters of limits", hours(service::limits::COUNTER_RETENTION)),
        ("the change log", format!("{} by default", service::limits::LOG_RETENTION.as_secs() / 3_600)),
    ] {
        let mut rows = table.lines().filter(|line| line.starts_with(&format!("| {what}")));
        assert!(rows.any(|row| row.contains(&time)), "the row about {what} does not say {time}");
    }
}

#[test]
fn a_test_runs_every_command_that_is_no_example() {
    let run = fs::read_to_string(root().join("interop/run.sh")).unwrap();
    assert!(run.contains("for document in README.md docs/*.md"), "interop/run.sh runs other documents");
    let walk = fs::read_to_string(root().join("interop/walk.sh")).unwrap();
    assert!(walk.contains(EXAMPLE), "interop/walk.sh knows another marker");
    let is_run = |document: &Document| document.path == "README.md" || document.path.starts_with("docs/");
    let wrong = documents();
    let wrong = wrong.iter().flat_map(|document| commands_without_a_test(document, is_run(document)));
    assert_none(&wrong.collect::<Vec<_>>());
}

/// The files that are blocks of a document, and what is wrong with those that are not current.
fn shown_files(document: &Document) -> (Vec<&str>, Vec<String>) {
    let blocks = document.parts().1;
    let files = blocks.iter().filter_map(|block| Some((block, block.before.strip_prefix(FILE)?.strip_suffix(" -->")?)));
    let (mut shown, mut wrong) = (Vec::new(), Vec::new());
    for (block, path) in files {
        let is_current =
            fs::read_to_string(root().join(path)).is_ok_and(|text| text.lines().eq(block.commands.clone()));
        wrong
            .extend((!is_current).then(|| format!("{}: the block is not the file {path}", document.place(block.line))));
        shown.push(path);
    }
    (shown, wrong)
}

#[test]
fn the_page_for_other_languages_shows_the_files_that_interop_runs() {
    let page = Document::read("docs/languages.md");
    let (shown, mut wrong) = shown_files(&page);
    let run = fs::read_to_string(root().join("interop/run.sh")).unwrap();
    for (language, endings) in [
        ("go", &["go", "mod", "yaml"][..]),
        ("java", &["java", "xml"]),
        ("python", &["py", "txt"]),
        ("node", &["js", "json"]),
    ] {
        let folder = format!("{PROGRAMS}/{language}");
        let files = endings.iter().flat_map(|ending| files(&root().join(&folder), ending));
        let files: Vec<_> = files.map(|file| file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()).collect();
        assert!(files.len() >= endings.len(), "{folder} lacks a file");
        let missing = files.iter().filter(|file| !shown.contains(&file.as_str()));
        wrong.extend(missing.map(|file| format!("{} does not show {file}", page.path)));
        let is_run = run.lines().any(|line| line.starts_with(&format!("example {language} ")));
        wrong.extend((!is_run).then(|| format!("interop/run.sh does not run {folder}")));
    }
    assert_none(&wrong);
}

#[test]
fn the_page_about_roles_shows_the_model_that_it_applies() {
    let page = Document::read("docs/roles.md");
    let (shown, wrong) = shown_files(&page);
    assert_eq!(shown, ["examples/billing.toml"]);
    assert_none(&wrong);
    assert!(page.text.contains("access-model apply examples/billing.toml --server"), "the page applies another file");
}

/// What a line of the walk, and then `mails`, print in this directory of mails.
fn listed_mails(line: &str, directory: &Path) -> String {
    let directory = directory.to_str().unwrap();
    let line = line.replace("/var/lib/roster-dev", directory).replace("~/.local/share/roster-dev", "/nowhere");
    let script = format!("{line}\nmails");
    let output = std::process::Command::new("/bin/sh").args(["-c", &script]).current_dir(root()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_walk_finds_mails_and_nothing_else() {
    let walk = Document::read("docs/walk.md").text;
    let line = walk.lines().find(|line| line.starts_with("mails() ")).expect("the walk has no such line");
    assert!(!walk.contains("xargs"), "without an argument, xargs runs its command all the same");
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(listed_mails(line, directory.path()), "");
    fs::create_dir(directory.path().join("mail")).unwrap();
    assert_eq!(listed_mails(line, directory.path()), "");
    let mail = directory.path().join("mail/1.eml");
    fs::write(&mail, "").unwrap();
    assert_eq!(listed_mails(line, directory.path()), format!("{}\n", mail.display()));
}

#[test]
fn the_answers_to_the_questions_of_readers_have_a_place() {
    let questions = Document::read("docs/reader-questions.md");
    assert!(questions.text.lines().filter(|line| line.starts_with('|')).count() > 6, "the table was not found");
    assert_none(&missing_places(&questions));
}

#[test]
fn planted_mistakes_in_a_document_are_named() {
    let document = |text: &str| Document { path: "docs/a.md".to_owned(), text: text.to_owned() };
    let paths = "`src/lib.rs:12` `src/none.rs` `tests/*/none.rs` `v/none`\n`.ci/none VERSION` src/none\n\
                 [a](../README.md#none) [b](../README.md) [c](https://none) [d](#e-f) [g](none.md)\n# `E`: f\n";
    let dead = [
        "docs/a.md:1: the path src/none.rs does not exist",
        "docs/a.md:2: the path .ci/none does not exist",
        "docs/a.md:3: the link ../README.md#none leads nowhere",
    ];
    // The links inside of the planted document are looked up in the repository, which does not hold it.
    let found = dead_ends(&document(&paths.replace("[d](#e-f) ", "")));
    assert_eq!(found[..3], dead);
    assert_eq!(found[3..], ["docs/a.md:3: the link none.md leads nowhere"]);
    assert_eq!(document(paths).headings().into_iter().map(anchor).collect::<Vec<_>>(), ["e-f"]);

    let blocks =
        "```sh\nls\n```\n<!-- example -->\n```sh\nmake dev\n```\n```sh\nmake dev\n```\n```bash\n```\n```text\n```\n";
    let not_run = commands_without_a_test(&document(blocks), false);
    assert_eq!(
        not_run.iter().map(|line| line.split(": ").next().unwrap()).collect::<Vec<_>>(),
        ["docs/a.md:1", "docs/a.md:8", "docs/a.md:11"]
    );
    assert_eq!(
        commands_without_a_test(&document(blocks), true)[0],
        format!("docs/a.md:8: interop cannot run builds: write `{EXAMPLE}` on the line before")
    );

    let shown = document("<!-- file: LICENSE-MIT -->\n```text\nfree\n```\n<!-- file: none -->\n```text\n```\n");
    assert_eq!(shown_files(&shown).1.len(), 2);

    let questions = document("|q|a|f|h|\n|-|-|-|-|\n| q | a | `README.md` | None |\n| q | a | `none.md` | roster |\n");
    assert_eq!(
        missing_places(&questions),
        ["docs/a.md:3: README.md has no None", "docs/a.md:4: none.md has no roster"]
    );
}
