//! The error reasons: the options `(roster.v1.status_code)` and `(roster.v1.metadata)` of every value of `ErrorReason`,
//! checked, and the code generated from them.

use prost_reflect::{DescriptorPool, DynamicMessage, EnumValueDescriptor, ExtensionDescriptor, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The enum of all reasons.
const ENUM: &str = "roster.v1.ErrorReason";

/// An error reason with its options, checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Reason {
    /// The variant of the generated `ErrorReason`, such as `SlugTaken`.
    pub variant: String,
    /// The variant of `tonic::Code`, such as `AlreadyExists`.
    pub code: String,
    /// The keys of the metadata, such as `slug`.
    pub metadata: Vec<String>,
    /// Whether `Refusal` has a variant of the same name. All other reasons report faults and protocol errors.
    pub is_refusal: bool,
}

/// Reads the options of every reason that can be sent, in the order of the enum.
///
/// # Errors
/// One sentence for each mistake in any of the reasons.
pub fn table(pool: &DescriptorPool) -> Result<Vec<Reason>, Vec<String>> {
    let list = pool.get_enum_by_name(ENUM).ok_or_else(|| vec![format!("{ENUM} does not exist")])?;
    reasons(list.values())
}

/// Reads the options of these values.
///
/// # Errors
/// One sentence for each mistake.
pub fn reasons(values: impl Iterator<Item = EnumValueDescriptor>) -> Result<Vec<Reason>, Vec<String>> {
    let (mut table, mut mistakes) = (Vec::new(), Vec::new());
    for value in values {
        match reason(&value) {
            Ok(reason) => table.extend(reason),
            Err(sentence) => mistakes.push(format!("{} {sentence}", value.name())),
        }
    }
    if mistakes.is_empty() { Ok(table) } else { Err(mistakes) }
}

/// The reason of one value; `None` for the value 0, which is never sent.
fn reason(value: &EnumValueDescriptor) -> Result<Option<Reason>, String> {
    let options = value.options();
    let extension = |name: &str| {
        value
            .parent_pool()
            .get_extension_by_name(name)
            .ok_or(format!("cannot have the option ({name}): it is undefined"))
    };
    let (status_code, metadata) = (extension("roster.v1.status_code")?, extension("roster.v1.metadata")?);
    if value.number() == 0 {
        let has_options = [status_code, metadata].iter().any(|option| options.has_extension(option));
        return if has_options { Err("is never sent: it takes no options".into()) } else { Ok(None) };
    }
    let name = value.name().strip_prefix("ERROR_REASON_").ok_or("lacks the prefix ERROR_REASON_")?;
    let variant = upper_camel_case(name);
    Ok(Some(Reason {
        is_refusal: has_variant(include_str!("../src/domain/refusal.rs"), &variant),
        code: code_option(&options, &status_code)?,
        metadata: metadata_option(&options, &metadata)?,
        variant,
    }))
}

fn code_option(options: &DynamicMessage, extension: &ExtensionDescriptor) -> Result<String, String> {
    if !options.has_extension(extension) {
        return Err("has no status code: give it the option (roster.v1.status_code)".into());
    }
    let number = options.get_extension(extension).as_enum_number().unwrap_or_default();
    let codes = extension.kind();
    match codes.as_enum().and_then(|codes| codes.get_value(number)) {
        Some(code) if number != 0 => Ok(upper_camel_case(code.name())),
        _ => Err("has the status code OK, which is no error".into()),
    }
}

fn metadata_option(options: &DynamicMessage, extension: &ExtensionDescriptor) -> Result<Vec<String>, String> {
    let mut keys = Vec::<String>::new();
    for key in options.get_extension(extension).as_list().unwrap_or_default().iter().filter_map(Value::as_str) {
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return Err(format!("has the metadata key `{key}`: a key consists of lower-case letters and underscores"));
        }
        if keys.iter().any(|other| other == key) {
            return Err(format!("has the metadata key `{key}` twice"));
        }
        keys.push(key.to_owned());
    }
    Ok(keys)
}

/// Whether the source of `Refusal` declares this variant: a line such as `Conflict,` or `SlugTaken {`.
fn has_variant(source: &str, variant: &str) -> bool {
    source.lines().any(|line| {
        let rest = line.strip_prefix("    ").and_then(|line| line.strip_prefix(variant));
        rest.is_some_and(|rest| rest.starts_with([',', '(']) || rest.starts_with(" {"))
    })
}

fn upper_camel_case(name: &str) -> String {
    let word = |word: &str| word.chars().take(1).chain(word.to_lowercase().chars().skip(1)).collect::<String>();
    name.split('_').map(word).collect()
}

/// Generates the functions that `grpc/reason.rs` includes.
///
/// The compiler checks the rest: a `Refusal` without a reason leaves a match incomplete, a metadata key that is no
/// field of its `Refusal` is an unknown field, and a reason that nothing produces leaves its constructor unused.
///
/// # Errors
/// Formatting errors only.
pub fn code(table: &[Reason]) -> Result<String, std::fmt::Error> {
    let mut code = String::new();
    status_codes(table, &mut code)?;
    refusals(table, &mut code)?;
    for reason in table.iter().filter(|reason| !reason.is_refusal) {
        constructor(reason, &mut code)?;
    }
    Ok(code)
}

fn status_codes(table: &[Reason], code: &mut String) -> std::fmt::Result {
    let mut by_code = BTreeMap::<&str, Vec<String>>::from([("Unknown", vec!["ErrorReason::Unspecified".into()])]);
    for reason in table {
        by_code.entry(&reason.code).or_default().push(format!("ErrorReason::{}", reason.variant));
    }
    writeln!(
        code,
        "/// The status code of a reason. `Unknown` for `Unspecified`, which is never sent.\n\
         pub(super) fn status_code(reason: ErrorReason) -> Code {{\n    match reason {{"
    )?;
    for (name, reasons) in by_code {
        writeln!(code, "        {} => Code::{name},", reasons.join(" | "))?;
    }
    writeln!(code, "    }}\n}}")
}

fn refusals(table: &[Reason], code: &mut String) -> std::fmt::Result {
    writeln!(
        code,
        "/// The reason of a refusal, with its metadata.\n\
         #[expect(clippy::unneeded_struct_pattern, reason = \"this pattern fits every kind of variant\")]\n\
         pub(super) fn of_refusal(refusal: &Refusal) -> Reason {{\n    match refusal {{"
    )?;
    for Reason { variant, metadata, .. } in table.iter().filter(|reason| reason.is_refusal) {
        let fields = metadata.iter().flat_map(|key| [key.as_str(), ", "]).collect::<String>();
        let pairs = metadata.iter().map(|key| format!("({key:?}, {key})")).collect::<Vec<_>>().join(", ");
        writeln!(
            code,
            "        Refusal::{variant} {{ {fields}.. }} => Reason::new(ErrorReason::{variant}, &[{pairs}]),"
        )?;
    }
    writeln!(code, "    }}\n}}")
}

/// A function that makes a reason from the values of its metadata.
fn constructor(reason: &Reason, code: &mut String) -> std::fmt::Result {
    let Reason { variant, metadata, .. } = reason;
    let name = variant
        .chars()
        .flat_map(|c| c.is_ascii_uppercase().then_some('_').into_iter().chain([c.to_ascii_lowercase()]))
        .collect::<String>();
    let name = name.trim_start_matches('_');
    let parameters = metadata.iter().map(|key| format!("{key}: &dyn MetadataValue")).collect::<Vec<_>>().join(", ");
    let pairs = metadata.iter().map(|key| format!("({key:?}, {key})")).collect::<Vec<_>>().join(", ");
    writeln!(
        code,
        "/// The reason `{variant}`.\n\
         pub(super) fn {name}({parameters}) -> Reason {{ Reason::new(ErrorReason::{variant}, &[{pairs}]) }}"
    )
}
