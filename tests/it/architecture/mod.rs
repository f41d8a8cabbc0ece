//! The rules that the sources keep: imports between modules, sizes, names and prose. Each rule reads the sources, names
//! every violation by file and line, and has tests beside it that plant one.

mod modules;
mod names;
mod paths;
mod prose;
mod sizes;
pub(crate) mod source;

use source::Source;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

pub(crate) static SRC: LazyLock<Vec<Source>> = LazyLock::new(|| read("src", "rs"));

static TESTS: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let folders = ["tests", "benches", "examples"];
    folders.into_iter().flat_map(|folder| read(folder, "rs")).collect()
});

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(folder: &str, extension: &str) -> Vec<Source> {
    let source = |file: PathBuf| {
        let path = file.strip_prefix(root()).unwrap().to_str().unwrap();
        Source::parse(path, &fs::read_to_string(&file).unwrap())
    };
    let sources: Vec<Source> = files(&root().join(folder), extension).into_iter().map(source).collect();
    assert!(!sources.is_empty(), "{folder} holds no .{extension} file");
    sources
}

#[track_caller]
fn assert_none(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n{}", violations.join("\n"));
}

#[test]
fn imports_point_one_way() {
    assert_none("imports that the table does not allow", &modules::forbidden_imports(&SRC));
    assert_none("modules that import each other", &modules::circles(&SRC));
}

#[test]
fn the_table_of_imports_lists_every_module() {
    let listed: Vec<&str> = modules::ALLOWED_IMPORTS.iter().map(|(module, _)| *module).collect();
    let mut found: Vec<String> = SRC.iter().map(Source::module).filter(|module| !module.is_empty()).collect();
    found.dedup();
    let missing: Vec<&String> = found.iter().filter(|module| !listed.contains(&module.as_str())).collect();
    assert!(missing.is_empty(), "the table of allowed imports does not list {missing:?}");
    let unknown: Vec<&&str> = listed.iter().filter(|module| !found.iter().any(|found| found == **module)).collect();
    assert!(unknown.is_empty(), "the table of allowed imports lists {unknown:?}, which src does not hold");
}

#[test]
fn crates_and_sql_are_used_in_their_modules_only() {
    assert_none("crates used outside their modules", &modules::misplaced_crates(&SRC));
    assert_none("SQL outside store and postgres", &modules::misplaced_sql(&SRC));
    assert_none("modules that must be free of asynchronous code", &modules::asynchronous_code(&SRC));
}

#[test]
fn functions_and_files_are_short() {
    assert!(sizes::functions(&SRC).count() > 500, "the functions were not found");
    let functions = [sizes::long_functions(&SRC), sizes::long_functions(&TESTS)].concat();
    assert_none("long functions", &functions);
    assert_none("long files", &[sizes::long_files(&SRC), sizes::long_files(&TESTS)].concat());
}

#[test]
fn type_names_are_unique_nouns() {
    assert!(names::types(&SRC).len() > 250, "the types were not found");
    assert_none("type names used twice", &names::repeated_types(&SRC));
    assert_none("type names that are participles or pronouns", &names::participles(&SRC));
}

#[test]
fn public_items_are_used() {
    // The build script writes code that names items of src, from string literals.
    let build = fs::read_to_string(root().join("build.rs")).unwrap();
    assert_none("public items without a use", &names::unused_items(&SRC, &TESTS, &build));
}

#[test]
fn errors_are_logged_with_their_causes() {
    // `%error` is the outermost text alone. `reason = %error` is for errors without causes.
    let is_short = |line: &str| {
        line.contains("tracing::") && ["(%error", " %error,", "error = %error"].iter().any(|short| line.contains(short))
    };
    let mut violations = Vec::new();
    for file in files(&root().join("src"), "rs") {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().enumerate().filter(|(_, line)| is_short(line) && !line.contains("reason = %error"));
        violations.extend(lines.map(|(number, line)| format!("{}:{}: {}", file.display(), number + 1, line.trim())));
    }
    assert_none("errors that are logged without their causes", &violations);
}

#[test]
fn documentation_is_more_than_two_words() {
    let short = [prose::short_docs(&SRC), prose::short_docs(&TESTS)].concat();
    assert_none("doc comments of one or two words", &short);
}

#[test]
fn comments_are_plain() {
    let protos = read("proto/roster", "proto");
    let readme = [Source::markdown("README.md", &fs::read_to_string(root().join("README.md")).unwrap())];
    let violations: Vec<String> =
        [SRC.as_slice(), TESTS.as_slice(), &protos, &readme].into_iter().flat_map(prose::banned_words).collect();
    assert_none("banned words in comments", &violations);
}
