//! The shapes of the requests: the fields whose decoding allocates more than the bytes of their values, for the count that
//! goes before the decoding.

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Generates `SHAPES`, with the shape of every message that a request can contain, and the trait that gives each request
/// its own.
///
/// # Errors
/// A sentence about a message type whose Rust type is unknown here.
pub fn code<'r>(pool: &DescriptorPool, requests: impl Iterator<Item = &'r str>) -> Result<String, String> {
    let mut messages = Messages { numbers: BTreeMap::new(), shapes: Vec::new() };
    let mut code = String::new();
    for request in requests {
        let descriptor = pool.get_message_by_name(&format!("roster.v1.{request}"));
        let number = messages.number(&descriptor.ok_or_else(|| format!("{request} is no message of roster.v1"))?)?;
        let _ = writeln!(
            code,
            "impl crate::grpc::admit::shape::RequestShape for {request} {{ \
             const SHAPE: &'static crate::grpc::admit::shape::MessageShape = &SHAPES[{number}]; }}"
        );
    }
    let shapes = messages.shapes;
    let _ = writeln!(code, "static SHAPES: [crate::grpc::admit::shape::MessageShape; {}] = [", shapes.len());
    for fields in shapes {
        let _ = writeln!(code, "    crate::grpc::admit::shape::MessageShape {{ fields: &[{fields}] }},");
    }
    let _ = writeln!(code, "];");
    Ok(code)
}

struct Messages {
    /// The number of each message type, by its full name.
    numbers: BTreeMap<String, usize>,
    /// The fields of each message type, as code.
    shapes: Vec<String>,
}

impl Messages {
    fn number(&mut self, message: &MessageDescriptor) -> Result<usize, String> {
        if let Some(number) = self.numbers.get(message.full_name()) {
            return Ok(*number);
        }
        // Known before its fields are read: a message can contain itself.
        let number = self.shapes.len();
        self.numbers.insert(message.full_name().to_owned(), number);
        self.shapes.push(String::new());
        let mut fields = String::new();
        for field in message.fields() {
            if let Some(content) = self.content(&field)? {
                let _ = write!(
                    fields,
                    "crate::grpc::admit::shape::FieldShape {{ number: {}, name: {:?}, content: \
                     crate::grpc::admit::shape::FieldContent::{content} }}, ",
                    field.number(),
                    field.name(),
                );
            }
        }
        self.shapes[number] = fields;
        Ok(number)
    }

    /// The content of a field as code; `None` for a field that allocates no more than its bytes.
    fn content(&mut self, field: &FieldDescriptor) -> Result<Option<String>, String> {
        let Kind::Message(message) = field.kind() else {
            let is_text = matches!(field.kind(), Kind::String | Kind::Bytes);
            let elements = if is_text { "Texts" } else { "Scalars" };
            return Ok(field.is_list().then(|| elements.to_owned()));
        };
        let number = self.number(&message)?;
        if field.is_map() {
            let entry =
                |name| message.get_field_by_name(name).ok_or(format!("{} is no map entry", message.full_name()));
            let (key, value) = (rust_type(&entry("key")?)?, rust_type(&entry("value")?)?);
            return Ok(Some(format!("Map {{ entry: &SHAPES[{number}], bytes: size_of::<({key}, {value})>() }}")));
        }
        if field.is_list() {
            let element = rust_type(field)?;
            return Ok(Some(format!("Messages {{ shape: &SHAPES[{number}], bytes: size_of::<{element}>() }}")));
        }
        Ok(Some(format!("Message(&SHAPES[{number}])")))
    }
}

/// The Rust type of one value of a field.
fn rust_type(field: &FieldDescriptor) -> Result<String, String> {
    match field.kind() {
        Kind::String => Ok("String".to_owned()),
        Kind::Message(message) if message.parent_message().is_none() => match message.package_name() {
            "roster.v1" => Ok(message.name().to_owned()),
            "google.protobuf" => Ok(format!("::prost_types::{}", message.name())),
            _ => Err(format!("{} is of a package without a known Rust module", message.full_name())),
        },
        _ => Err(format!("{} has a kind without a known Rust type", field.full_name())),
    }
}
