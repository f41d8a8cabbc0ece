//! The sources of templates: built-in ones, and files of the deployment that replace them or add languages.
//!
//! A file is named after its template and its locale, as `invitation.de.txt`. Without a locale, as `invitation.txt`, it is
//! for the locale of the deployment.

use super::languages::{BUILT_IN, template_names};
use crate::domain::Locale;
use std::collections::BTreeMap;
use std::path::Path;

/// A template as it is in a file.
pub(super) struct TemplateFile {
    /// The name of the file, by which mistakes name it.
    pub(super) name: String,
    pub(super) source: String,
    is_built_in: bool,
}

/// The templates of each locale by their names without a locale. A locale may lack some.
pub(super) type TemplateFiles = BTreeMap<Locale, BTreeMap<&'static str, TemplateFile>>;

/// Reads the templates: those that can be read, and the mistakes in the other files. `default` is the locale of files
/// without one.
pub(super) fn read(directory: Option<&Path>, default: &Locale) -> (TemplateFiles, Vec<String>) {
    let mut files = built_in();
    let mut mistakes = Vec::new();
    let names = directory.map(names).transpose().unwrap_or_else(|mistake| {
        mistakes.push(mistake);
        None
    });
    for (directory, name) in directory.into_iter().flat_map(|path| names.iter().flatten().map(move |name| (path, name)))
    {
        if let Err(mistake) = add(&mut files, directory, name, default) {
            mistakes.push(format!("{name}: {mistake}"));
        }
    }
    (files, mistakes)
}

fn built_in() -> TemplateFiles {
    let languages = BUILT_IN.into_iter().filter_map(|(tag, templates)| Some((Locale::parse(tag).ok()?, templates)));
    let files = |locale: &Locale, templates: [(&'static str, &str); 12]| {
        let file = |name, source: &str| TemplateFile {
            name: with_locale(name, locale),
            source: source.to_owned(),
            is_built_in: true,
        };
        templates.into_iter().map(|(name, source)| (name, file(name, source))).collect()
    };
    languages.map(|(locale, templates)| (locale.clone(), files(&locale, templates))).collect()
}

/// The name of the file of a template: `invitation.de.txt`.
pub(super) fn with_locale(name: &str, locale: &Locale) -> String {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    format!("{stem}.{locale}.{extension}")
}

/// The names of the files in a directory, in alphabetical order. Hidden files are left out.
fn names(directory: &Path) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(directory).map_err(|error| format!("cannot be read: {error}"))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort_unstable();
    Ok(names)
}

/// Reads a file and adds its template. A file that replaces no template is a mistake: a misspelt name would otherwise be
/// ignored silently.
fn add(files: &mut TemplateFiles, directory: &Path, name: &str, default: &Locale) -> Result<(), String> {
    let (plain, tag) = match name.split('.').collect::<Vec<_>>()[..] {
        [stem, tag, extension] => (format!("{stem}.{extension}"), Some(tag)),
        _ => (name.to_owned(), None),
    };
    let template = template_names().find(|template| *template == plain);
    let template = template.ok_or("there is no template of this name")?;
    let locale = tag.map_or_else(|| Ok(default.clone()), Locale::parse).map_err(|_| "its locale is no language tag")?;
    let source = std::fs::read_to_string(directory.join(name)).map_err(|error| error.to_string())?;
    let file = TemplateFile { name: name.to_owned(), source, is_built_in: false };
    match files.entry(locale).or_default().insert(template, file) {
        Some(former) if !former.is_built_in => Err(format!("{} is for the same locale", former.name)),
        _ => Ok(()),
    }
}
