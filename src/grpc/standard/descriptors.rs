//! The descriptors of the protos that a server serves, found by file name, symbol and extension.

use prost::Message;
use prost::bytes::Bytes;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use std::collections::{BTreeMap, BTreeSet};

/// The descriptors that are built into the program cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the descriptors of the protos cannot be read")]
pub struct DescriptorError(#[from] prost::DecodeError);

/// The files of some descriptor sets and the names in them.
#[derive(Debug, Default)]
pub(super) struct DescriptorIndex {
    files: BTreeMap<String, Bytes>,
    /// The file of each full name: of a message, field, oneof, enum, enum value, service, method or extension.
    symbols: BTreeMap<String, Bytes>,
    /// The numbers of the extensions of each message that has some, and their files.
    extensions: BTreeMap<String, BTreeMap<i32, Bytes>>,
    messages: BTreeSet<String>,
    services: BTreeSet<String>,
}

/// A `FileDescriptorSet` whose files stay encoded: prost drops the options that it does not know, such as the access
/// rules.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedFiles {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

impl DescriptorIndex {
    /// Reads encoded `FileDescriptorSet`s. Of two files of one name the first counts.
    pub(super) fn read(sets: &[&'static [u8]]) -> Result<Self, DescriptorError> {
        let mut index = Self::default();
        for set in sets {
            for bytes in EncodedFiles::decode(Bytes::from_static(set))?.file {
                let file = FileDescriptorProto::decode(bytes.clone())?;
                if !index.files.contains_key(file.name()) {
                    index.files.insert(file.name().to_owned(), bytes.clone());
                    index.add_file(&file, &bytes);
                }
            }
        }
        Ok(index)
    }

    pub(super) fn file(&self, name: &str) -> Option<&Bytes> {
        self.files.get(name)
    }

    pub(super) fn file_of_symbol(&self, name: &str) -> Option<&Bytes> {
        self.symbols.get(name)
    }

    pub(super) fn file_of_extension(&self, message: &str, number: i32) -> Option<&Bytes> {
        self.extensions.get(message)?.get(&number)
    }

    /// The numbers of all extensions of a message; `None` if there is no such message.
    pub(super) fn extensions(&self, message: &str) -> Option<Vec<i32>> {
        let numbers = self.extensions.get(message);
        (numbers.is_some() || self.messages.contains(message))
            .then(|| numbers.into_iter().flat_map(BTreeMap::keys).copied().collect())
    }

    /// The full names of all services, in order.
    pub(super) fn services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(String::as_str)
    }

    fn add_file(&mut self, file: &FileDescriptorProto, bytes: &Bytes) {
        let package = file.package();
        for message in &file.message_type {
            self.add_message(message, package, bytes);
        }
        for kind in &file.enum_type {
            self.add_enum(kind, package, bytes);
        }
        for extension in &file.extension {
            self.add_extension(extension, package, bytes);
        }
        for service in &file.service {
            let name = self.add_symbol(package, service.name(), bytes);
            for method in &service.method {
                self.add_symbol(&name, method.name(), bytes);
            }
            self.services.insert(name);
        }
    }

    fn add_message(&mut self, message: &DescriptorProto, scope: &str, bytes: &Bytes) {
        let name = self.add_symbol(scope, message.name(), bytes);
        for field in &message.field {
            self.add_symbol(&name, field.name(), bytes);
        }
        for oneof in &message.oneof_decl {
            self.add_symbol(&name, oneof.name(), bytes);
        }
        for nested in &message.nested_type {
            self.add_message(nested, &name, bytes);
        }
        for kind in &message.enum_type {
            self.add_enum(kind, &name, bytes);
        }
        for extension in &message.extension {
            self.add_extension(extension, &name, bytes);
        }
        self.messages.insert(name);
    }

    /// Adds an enum. Its values belong to the scope that the enum belongs to; some tools name them by the enum.
    fn add_enum(&mut self, kind: &EnumDescriptorProto, scope: &str, bytes: &Bytes) {
        let name = self.add_symbol(scope, kind.name(), bytes);
        for value in &kind.value {
            self.add_symbol(scope, value.name(), bytes);
            self.add_symbol(&name, value.name(), bytes);
        }
    }

    fn add_extension(&mut self, extension: &FieldDescriptorProto, scope: &str, bytes: &Bytes) {
        self.add_symbol(scope, extension.name(), bytes);
        // The compiler writes full names with a dot in front.
        let message = extension.extendee().trim_start_matches('.').to_owned();
        self.extensions.entry(message).or_default().insert(extension.number(), bytes.clone());
    }

    fn add_symbol(&mut self, scope: &str, name: &str, bytes: &Bytes) -> String {
        let name = if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") };
        self.symbols.insert(name.clone(), bytes.clone());
        name
    }
}
