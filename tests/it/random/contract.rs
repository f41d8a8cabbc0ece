//! The contract of errors, read from the comments of the protos in the descriptors.

use crate::harness::dynamic::{self, comment, enumeration};
use prost::Message;
use prost_reflect::{DynamicMessage, MethodDescriptor, Value};
use roster::authz::rules::{self, AllowedCallers};
use std::collections::{BTreeMap, BTreeSet};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The error reasons, each with its status code, and the reasons that each method may answer with.
pub(super) struct Contract {
    codes: BTreeMap<String, Code>,
    every: BTreeSet<String>,
    writes: BTreeSet<String>,
    in_organizations: BTreeSet<String>,
    items: BTreeMap<String, BTreeSet<String>>,
    own: BTreeMap<String, BTreeSet<String>>,
}

impl Contract {
    /// Reads all comments. Panics where one names an unknown reason.
    pub(super) fn read() -> Self {
        let codes = codes();
        let (mut own, mut items) = (BTreeMap::new(), BTreeMap::new());
        for method in dynamic::methods() {
            let text = comment(&method.parent_file(), method.path());
            let list = text.split_once("Fails with: ").map(|(_, list)| reasons(list, &codes)).unwrap_or_default();
            if let Some((_, item_list)) = text.split_once("An item fails with ") {
                let list = reasons(item_list.split("Fails with: ").next().unwrap(), &codes);
                items.insert(method.full_name().to_owned(), list);
            }
            own.insert(method.full_name().to_owned(), list);
        }
        let service = dynamic::descriptors().get_service_by_name("roster.v1.OrganizationService").unwrap();
        let text = comment(&service.parent_file(), service.path());
        let (_, text) = text.split_once("Every method can also fail with ").unwrap();
        let (every, rest) = text.split_once("; every write also with ").unwrap();
        let (writes, rest) = rest.split_once(". ").unwrap();
        assert!(rest.starts_with("Where a method needs a permission, "));
        let [every, writes, in_organizations] = [every, writes, rest].map(|list| reasons(list, &codes));
        let contract = Self { codes, every, writes, in_organizations, items, own };
        assert!(contract.every.len() > 10 && contract.writes.len() >= 2 && contract.own.len() > 35);
        assert!(contract.in_organizations.len() >= 3 && contract.items.values().all(|reasons| reasons.len() >= 4));
        contract
    }

    /// Every reason of the enumeration.
    pub(super) fn reasons(&self) -> impl Iterator<Item = &str> {
        self.codes.keys().map(String::as_str)
    }

    /// Every reason that at least one comment names.
    pub(super) fn documented(&self) -> impl Iterator<Item = &str> {
        let shared = [&self.every, &self.writes, &self.in_organizations];
        let sets = shared.into_iter().chain(self.items.values()).chain(self.own.values());
        sets.flatten().map(String::as_str)
    }

    /// Checks that a method may answer with this status.
    pub(super) fn check(&self, method: &MethodDescriptor, status: &Status) -> Result<(), String> {
        let reason = self.reason(status)?;
        let rules = rules::method(&dynamic::path(method)).unwrap();
        let mut allowed = vec![&self.every, &self.own[method.full_name()]];
        if rules.write {
            allowed.push(&self.writes);
        }
        if matches!(rules.rule.callers, AllowedCallers::Permission(_)) {
            allowed.push(&self.in_organizations);
        }
        if allowed.iter().any(|reasons| reasons.contains(&reason)) {
            return Ok(());
        }
        Err(format!("the comment of {} does not name {reason}", method.name()))
    }

    /// The reason, if the status has its code and roster's domain.
    fn reason(&self, status: &Status) -> Result<String, String> {
        let info = status.get_details_error_info().ok_or("no reason")?;
        let code = self.codes.get(&info.reason).ok_or("a reason that is not in the list")?;
        if info.domain != "roster" || *code != status.code() {
            return Err(format!("{} does not go with {code:?}", info.reason));
        }
        Ok(info.reason)
    }

    /// Checks that the items of a batch fail with reasons that the method's comment allows for items.
    pub(super) fn check_items(&self, method: &MethodDescriptor, answer: &DynamicMessage) -> Result<(), String> {
        let Some(results) = answer.get_field_by_name("results") else { return Ok(()) };
        for result in results.as_list().into_iter().flatten().filter_map(Value::as_message) {
            let Some(status) = result.get_field_by_name("status") else { continue };
            let status: tonic_types::pb::Status = status.as_message().unwrap().transcode_to().unwrap();
            if status.code == 0 {
                continue;
            }
            let details = status.encode_to_vec().into();
            let status = Status::with_details(Code::from(status.code), status.message.clone(), details);
            let reason = self.reason(&status)?;
            if !self.items.get(method.full_name()).is_some_and(|reasons| reasons.contains(&reason)) {
                return Err(format!(
                    "an item fails with {reason}, which the comment of {} does not name",
                    method.name()
                ));
            }
        }
        Ok(())
    }
}

/// The status code of each reason: its option `status_code`; `OK` for the value that is never sent.
fn codes() -> BTreeMap<String, Code> {
    let option = dynamic::descriptors().get_extension_by_name("roster.v1.status_code").unwrap();
    let code = |value: prost_reflect::EnumValueDescriptor| {
        let name = value.name().strip_prefix("ERROR_REASON_").unwrap().to_owned();
        (name, Code::from_i32(value.options().get_extension(&option).as_enum_number().unwrap()))
    };
    enumeration("ErrorReason").values().map(code).collect()
}

/// The reasons among the words of a text. Other words in capitals are states and codes; a word with an underscore must be a
/// reason.
fn reasons(text: &str, codes: &BTreeMap<String, Code>) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '_').filter(|word| word.len() > 3);
    let known = |word: &&str| {
        let known = codes.contains_key(*word);
        assert!(known || !word.contains('_'), "{word} is no reason: {text}");
        known
    };
    words.filter(known).map(str::to_owned).collect()
}
