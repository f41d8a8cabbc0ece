//! Parity with django-organizations: each of its rules on organizations, types, memberships, owners, access, exceptions,
//! ordering and slugs has a test that calls the server.

mod members;
mod organizations;

fn text(value: &str) -> prost_types::Value {
    prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(value.to_owned())) }
}

fn object(key: &str, value: &str) -> prost_types::Struct {
    prost_types::Struct { fields: [(key.to_owned(), text(value))].into() }
}
