//! Random messages, with plausible and implausible values for each field.

use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};
use roster::random;

/// Users that call and are named in requests. Some are deactivated and deleted during the run.
pub(super) const USERS: [&str; 6] = ["ada", "grace", "alan", "eve", "kurt", "emmy"];

/// A reproducible source of random numbers (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn one_of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Changes, adds or removes a few bytes.
    pub(super) fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let byte = self.next().to_le_bytes()[0];
            match self.below(3) {
                0 => bytes.push(byte),
                1 => bytes.truncate(bytes.len() / 2),
                _ if bytes.is_empty() => {}
                _ => {
                    let at = self.below(bytes.len());
                    bytes[at] = byte;
                }
            }
        }
    }
}

/// Values from earlier answers, for later requests.
#[derive(Debug, Default)]
pub(super) struct Words {
    organizations: Vec<String>,
    etags: Vec<String>,
    page_tokens: Vec<String>,
    consistency_tokens: Vec<String>,
    request_ids: Vec<String>,
    invitations: Vec<String>,
    tokens: Vec<String>,
}

/// Adds a value, and drops the oldest one from 12 on.
fn keep(words: &mut Vec<String>, word: &str) {
    if word.is_empty() || words.iter().any(|known| known == word) {
        return;
    }
    if words.len() >= 12 {
        words.remove(0);
    }
    words.push(word.to_owned());
}

impl Words {
    pub(super) fn learn_organization(&mut self, organization: String) {
        self.organizations.push(organization);
    }

    /// Collects the values of an answer that a request can contain.
    pub(super) fn learn(&mut self, answer: &DynamicMessage) {
        let organization = answer.descriptor().name() == "Organization";
        for (field, value) in answer.fields() {
            match (field.name(), value) {
                ("id" | "slug", Value::String(word)) if organization => keep(&mut self.organizations, word),
                ("etag", Value::String(word)) => keep(&mut self.etags, word),
                ("next_page_token", Value::String(word)) => keep(&mut self.page_tokens, word),
                ("consistency_token" | "cursor", Value::String(word)) => keep(&mut self.consistency_tokens, word),
                ("invitation_id", Value::String(word)) => keep(&mut self.invitations, word),
                ("token" | "owner_token", Value::String(word)) => keep(&mut self.tokens, word),
                (_, Value::Message(inner)) => self.learn(inner),
                (_, Value::List(items)) => {
                    items.iter().filter_map(Value::as_message).for_each(|inner| self.learn(inner));
                }
                _ => {}
            }
        }
    }

    /// A random request. In half of the requests every field is plausible, in the others every other field on average.
    pub(super) fn message(&mut self, random: &mut Random, descriptor: &MessageDescriptor) -> DynamicMessage {
        let sound = random.one_in(2);
        self.fill(random, descriptor, sound)
    }

    fn fill(&mut self, random: &mut Random, descriptor: &MessageDescriptor, sound: bool) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        let needed = ["organization", "user_id", "name", "items", "invitation_id"];
        for field in descriptor.fields() {
            // A known etag mostly belongs to another resource.
            if field.name() == "etag" && !random.one_in(4) {
                continue;
            }
            let wanted = needed.contains(&field.name()) && (sound || !random.one_in(8));
            if !wanted && random.one_in(2) {
                continue;
            }
            let plausible = sound || random.one_in(2);
            let value = if plausible { self.plausible(random, &field, sound) } else { Self::garbage(random, &field) };
            message.set_field(&field, value);
        }
        message
    }

    fn plausible(&mut self, random: &mut Random, field: &FieldDescriptor, sound: bool) -> Value {
        let word = |random: &mut Random, words: &[String]| match words {
            [] => String::new(),
            words => random.one_of(words).clone(),
        };
        let text = match field.name() {
            "organization" => word(random, &self.organizations),
            // Callers are seldom deactivated or deleted: soon there would be none left.
            "user_id" if removes_users(field) && !random.one_in(8) => format!("extra-{}", random.below(50)),
            "user_id" | "owner_user_id" if random.one_in(3) => format!("extra-{}", random.below(50)),
            "user_id" | "owner_user_id" => (*random.one_of(&USERS)).to_owned(),
            "email" | "owner_email" if random.one_in(3) => format!("extra-{}@example.com", random.below(50)),
            "email" | "owner_email" => format!("{}@example.com", random.one_of(&USERS)),
            "identifier" => format!("@{}", random.below(50)),
            "invitation_id" => word(random, &self.invitations),
            "token" => word(random, &self.tokens),
            "role" => (*random.one_of(&["admin", "member", "member", "owner"])).to_owned(),
            "permission" => (*random.one_of(&["members.add", "organization.read", "ownership.transfer"])).to_owned(),
            "name" | "display_name" | "search" => {
                (*random.one_of(&["Acme", "Žluťoučký Kůň", "株式会社", "!!!"])).to_owned()
            }
            "slug" => format!("slug-{}", random.below(20)),
            "kind" => (*random.one_of(&["organization", "account", "vendor"])).to_owned(),
            "reason" => "because".to_owned(),
            "etag" => word(random, &self.etags),
            "page_token" => word(random, &self.page_tokens),
            "at_least_as_fresh" | "cursor" => word(random, &self.consistency_tokens),
            "request_id" if random.one_in(3) => word(random, &self.request_ids),
            "request_id" => {
                let id = random::uuid().to_string();
                keep(&mut self.request_ids, &id);
                id
            }
            _ => String::new(),
        };
        if field.kind() == Kind::String && !field.is_list() {
            return Value::String(text);
        }
        match field.kind() {
            // Seldom true: a purge leaves no organization to work on, and `validate_only` changes nothing.
            Kind::String => {
                let types = (0..=random.below(2))
                    .map(|_| (*random.one_of(&["member.added", "owner.changed", "member.removed"])).to_owned());
                Value::List(types.map(Value::String).collect())
            }
            Kind::Bool => Value::Bool(random.one_in(4)),
            Kind::Int32 => Value::I32(i32::try_from(random.below(5)).unwrap()),
            Kind::Int64 => Value::I64(i64::try_from(random.below(5)).unwrap()),
            Kind::Enum(kind) if !field.is_list() => number_of(random, &kind),
            Kind::Enum(_) => {
                let states =
                    (0..=random.below(2)).map(|_| Value::EnumNumber(i32::try_from(1 + random.below(4)).unwrap()));
                Value::List(states.collect())
            }
            Kind::Message(inner) if field.is_list() => {
                let items = (0..=random.below(4)).map(|_| Value::Message(self.fill(random, &inner, sound)));
                Value::List(items.collect())
            }
            Kind::Message(inner) => match inner.full_name() {
                "google.protobuf.Struct" => structure(random, &inner, 2),
                "google.protobuf.Duration" => duration(&inner, 3600 + i64::try_from(random.below(2_000_000)).unwrap()),
                "google.protobuf.FieldMask" => {
                    let known = ["name", "slug", "attributes", "role", "*"];
                    mask(&inner, (0..=random.below(2)).map(|_| (*random.one_of(&known)).to_owned()))
                }
                _ => Value::Message(self.fill(random, &inner, sound)),
            },
            other => panic!("no plausible value for {}, of the kind {other:?}", field.full_name()),
        }
    }

    fn garbage(random: &mut Random, field: &FieldDescriptor) -> Value {
        let one = |random: &mut Random| match field.kind() {
            Kind::String => Value::String(noise(random)),
            Kind::Bool => Value::Bool(random.one_in(2)),
            Kind::Int64 => Value::I64(*random.one_of(&[i64::MIN, -1, 0, 1, i64::MAX])),
            Kind::Int32 => Value::I32(*random.one_of(&[i32::MIN, -1, 0, 1, 1000, 1001, i32::MAX])),
            Kind::Enum(_) => Value::EnumNumber(*random.one_of(&[i32::MIN, -1, 0, 5, 99, i32::MAX])),
            Kind::Message(inner) => match inner.full_name() {
                "google.protobuf.Struct" => {
                    let levels = random.below(12);
                    structure(random, &inner, levels)
                }
                "google.protobuf.Duration" => {
                    duration(&inner, *random.one_of(&[i64::MIN, -1, 0, 3599, 2_592_001, i64::MAX]))
                }
                "google.protobuf.FieldMask" => mask(&inner, (0..random.below(5)).map(|_| noise(random))),
                _ => Value::Message(DynamicMessage::new(inner)),
            },
            other => panic!("no implausible value for {}, of the kind {other:?}", field.full_name()),
        };
        if field.is_list() {
            let length = *random.one_of(&[0, 1, 1, 2, 5, 30, 101]);
            Value::List((0..length).map(|_| one(random)).collect())
        } else {
            one(random)
        }
    }
}

fn removes_users(field: &FieldDescriptor) -> bool {
    ["DeleteUserRequest", "DeactivateUserRequest"].contains(&field.parent_message().name())
}

fn noise(random: &mut Random) -> String {
    const WORDS: [&str; 16] = [
        "",
        " ",
        "\0",
        "a",
        "../..",
        "'; DROP TABLE users; --",
        "\u{202e}txt",
        "é",
        "👩\u{200d}🚀",
        "owner",
        "null",
        "%00",
        "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11",
        "AAAA",
        "a@b@c",
        "\u{feff}",
    ];
    match random.below(3) {
        0 => (*random.one_of(&WORDS)).to_owned(),
        1 => random.one_of(&WORDS).repeat(random.below(300)),
        _ => (0..random.below(40))
            .filter_map(|_| char::from_u32(u32::try_from(random.below(0x11_0000)).unwrap()))
            .collect(),
    }
}

/// An object of at most this number of levels, with numbers of every size in it.
fn structure(random: &mut Random, descriptor: &MessageDescriptor, levels: usize) -> Value {
    let fields = descriptor.get_field_by_name("fields").unwrap();
    let Kind::Message(entry) = fields.kind() else { panic!("a map has entries") };
    let Kind::Message(kind) = entry.map_entry_value_field().kind() else { panic!("an entry has a value") };
    let mut object = DynamicMessage::new(descriptor.clone());
    let mut map = std::collections::HashMap::new();
    for _ in 0..random.below(4) {
        let mut value = DynamicMessage::new(kind.clone());
        match random.below(5) {
            0 => value.set_field_by_name("string_value", Value::String(noise(random))),
            1 => value.set_field_by_name("bool_value", Value::Bool(true)),
            2 => {
                let numbers = [0.0, -0.0, 1.5, 1e308, -1e308, 5e-324, 1e21, f64::MAX, f64::NAN, f64::INFINITY];
                value.set_field_by_name("number_value", Value::F64(*random.one_of(&numbers)));
            }
            3 if levels > 1 => value.set_field_by_name("struct_value", structure(random, descriptor, levels - 1)),
            _ => value.set_field_by_name("null_value", Value::EnumNumber(0)),
        }
        let key = if random.one_in(2) { noise(random) } else { format!("key-{}", random.below(5)) };
        map.insert(MapKey::String(key), Value::Message(value));
    }
    object.set_field(&fields, Value::Map(map));
    Value::Message(object)
}

/// One of the first numbers of an enum.
fn number_of(random: &mut Random, kind: &EnumDescriptor) -> Value {
    Value::EnumNumber(i32::try_from(random.below(kind.values().len().min(4))).unwrap())
}

fn duration(descriptor: &MessageDescriptor, seconds: i64) -> Value {
    let mut duration = DynamicMessage::new(descriptor.clone());
    duration.set_field_by_name("seconds", Value::I64(seconds));
    Value::Message(duration)
}

fn mask(descriptor: &MessageDescriptor, paths: impl Iterator<Item = String>) -> Value {
    let mut mask = DynamicMessage::new(descriptor.clone());
    mask.set_field_by_name("paths", Value::List(paths.map(Value::String).collect()));
    Value::Message(mask)
}
